//! SIGKILL of the server, of Redis and of both, in mid-stream, at random moments: every acknowledged event is there,
//! none twice, in order.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sesrec::{
    domain::{Deadline, UserId},
    history::{HistoryOptions, HistoryStore},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    amount,
    appender::{Appender, Sent},
    bundle,
    redis_server::{PATIENCE, RedisServer, until},
    server::Server,
    toll::{Toll, missing},
};

const CLIENTS: usize = 4;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Server,
    Redis,
    Both,
}

struct Scene {
    server: Server,
    redis: Option<RedisServer>,
    appenders: Vec<Appender>,
    progress: Arc<AtomicUsize>,
}

impl Scene {
    async fn new(directory: &Path, redis: Option<RedisServer>) -> Self {
        let bundle = directory.join("bundle");
        bundle::write(&bundle, 1);
        let store = match &redis {
            Some(redis) => redis.url(),
            None => format!("embedded:{}", directory.join("store").display()),
        };
        let mut server = Server::start(directory, &bundle, &store, &[]);
        server.ready().await;
        let progress = Arc::<AtomicUsize>::default();
        let appenders = (0..CLIENTS).map(|n| Appender::new(&format!("c{n}"), progress.clone())).collect();
        Self { server, redis, appenders, progress }
    }

    fn kill(&mut self, fault: Fault) {
        if fault != Fault::Redis {
            self.server.kill();
        }
        if let (Fault::Redis | Fault::Both, Some(redis)) = (fault, &mut self.redis) {
            redis.kill();
        }
    }

    fn start_again(&mut self, fault: Fault) {
        if let (Fault::Redis | Fault::Both, Some(redis)) = (fault, &mut self.redis) {
            redis.start_again();
        }
        if fault != Fault::Redis {
            self.server.start_again();
        }
    }

    /// Lets all clients append.
    fn append(&mut self, stop: &CancellationToken) -> Vec<JoinHandle<Appender>> {
        let client = || self.server.client();
        self.appenders.drain(..).map(|appender| tokio::spawn(appender.run(client(), stop.clone()))).collect()
    }

    /// Waits for the ends of their streams.
    async fn collect(&mut self, running: Vec<JoinHandle<Appender>>) {
        for appender in running {
            let appender = tokio::time::timeout(PATIENCE, appender).await;
            self.appenders.push(appender.expect("the stream breaks").unwrap());
        }
    }

    /// Appends from all clients for a while, kills, starts again; how long until it is ready. Returns what this round
    /// acknowledged.
    async fn round(&mut self, fault: Fault, moment: Duration) -> (Vec<Sent>, Duration) {
        let (before, stop) = (self.progress.load(Ordering::Relaxed), CancellationToken::new());
        let known: Vec<usize> = self.appenders.iter().map(|appender| appender.acknowledged.len()).collect();
        let mut running = self.append(&stop);
        until("something is acknowledged", async || {
            let acknowledged = self.progress.load(Ordering::Relaxed) != before;
            // Redis is back, but the server's connections to it are not yet.
            if !acknowledged && running.iter().all(JoinHandle::is_finished) {
                self.collect(std::mem::take(&mut running)).await;
                running = self.append(&stop);
            }
            acknowledged
        })
        .await;
        tokio::time::sleep(moment).await;
        self.kill(fault);
        self.collect(running).await;
        let started = Instant::now();
        self.start_again(fault);
        self.server.ready().await;
        let recovered = started.elapsed();
        let news =
            self.appenders.iter().zip(known).flat_map(|(appender, known)| appender.acknowledged[known..].to_vec());
        (news.collect(), recovered)
    }
}

async fn kill_again_and_again(fault: Fault, kills: usize) -> Toll {
    let directory = tempfile::tempdir().unwrap();
    let redis =
        (fault != Fault::Server).then(|| RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]));
    let mut scene = Scene::new(directory.path(), redis).await;
    let mut toll = Toll::default();
    // Equal seeds, equal moments; how far the programs are by then is never the same.
    let mut random = StdRng::seed_from_u64(kills as u64);
    for _ in 0..kills {
        let (news, recovered) = scene.round(fault, Duration::from_millis(random.random_range(5..400))).await;
        toll.acknowledged += news.len();
        toll.lost += missing(&scene.server, news).await;
        toll.recoveries.push(recovered);
    }
    // Past the server, in the store itself.
    scene.server.signal("TERM");
    assert_eq!(scene.server.ended().await, Some(0));
    let url = match &scene.redis {
        Some(redis) => redis.url(),
        None => format!("embedded:{}", directory.path().join("store").display()),
    };
    toll.audit(&url, scene.appenders.iter().flat_map(|appender| &appender.acknowledged)).await;
    toll
}

/// One after the other: the machine is theirs, and the table in one place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_every_kill() {
    let kills = amount("SESREC_KILLS", 20);
    let share = |part: usize| (kills * part / 10).max(1);
    kill_again_and_again(Fault::Server, share(4)).await.print_and_judge("server, embedded store");
    kill_again_and_again(Fault::Redis, share(3)).await.print_and_judge("Redis, `appendfsync always`");
    kill_again_and_again(Fault::Both, share(3)).await.print_and_judge("server and Redis at once");
}

/// On a machine with nothing else to do: `SESREC_EVENTS=1000000 cargo test --release --test promises restart --
/// --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fills a store with a million events; says how long a restart takes"]
async fn restart_of_a_full_store() {
    use sesrec::{
        domain::{Event, EventId, EventTime, ItemId, Payload, Recommendation},
        history::{EmbeddedStore, SystemClock},
    };
    let total = amount("SESREC_EVENTS", 1_000_000);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = EmbeddedStore::open(&path, HistoryOptions::default(), Arc::new(SystemClock)).unwrap();
    let now = EventTime::now().nanos() - 1_000_000_000_000;
    for first in (0..total).step_by(4000) {
        let event = |n: usize| Event {
            event_id: EventId::new(&format!("5f0c1d7e-0000-4000-8000-{n:012}")).unwrap(),
            user_id: UserId::new(&format!("user-{}", n / 100)).unwrap(),
            time: EventTime::from_nanos(now + n as u64).unwrap(),
            payload: Payload::Recommendation(Recommendation { item_id: ItemId::new(&bundle::item(n)).unwrap() }),
        };
        let events: Vec<Event> = (first..(first + 4000).min(total)).map(event).collect();
        let answers = store.append(&events, Deadline::after(PATIENCE)).await;
        assert!(answers.iter().all(Result::is_ok));
    }
    store.close().await;
    drop(store);
    let mut scene = Scene::new(directory.path(), None).await;
    let mut times = vec![];
    for _ in 0..3 {
        let (news, recovered) = scene.round(Fault::Server, Duration::from_millis(500)).await;
        assert_eq!(missing(&scene.server, news).await, 0);
        times.push(recovered);
    }
    println!("{total} events stored; from the start after SIGKILL to ready: {times:?}");
    assert!(times.iter().all(|time| *time < Duration::from_secs(2)), "{times:?}");
}
