//! SIGKILL of the server, of Redis and of both, in mid-stream, at random moments: every acknowledged event is there, none
//! twice, in order.

use std::{
    collections::{BTreeSet, HashMap},
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
    history::{self, HistoryOptions, HistoryStore, Loaded, RedisOptions},
    proto::v1::Outcome,
};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::{
    amount,
    appender::{Appender, Sent, id, user},
    bundle,
    redis_server::{PATIENCE, RedisServer, until},
    server::Server,
};

const CLIENTS: usize = 4;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Server,
    Redis,
    Both,
}

/// What came of one kind of fault.
#[derive(Default)]
struct Toll {
    kills: usize,
    acknowledged: usize,
    lost: usize,
    twice: usize,
    out_of_order: usize,
    recoveries: Vec<Duration>,
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

    /// Appends from all clients for a while, kills, starts again; how long until it is ready. Returns what this round
    /// acknowledged.
    async fn round(&mut self, fault: Fault, moment: Duration) -> (Vec<Sent>, Duration) {
        let (before, stop) = (self.progress.load(Ordering::Relaxed), CancellationToken::new());
        let known: Vec<usize> = self.appenders.iter().map(|appender| appender.acknowledged.len()).collect();
        let mut running = self.append(&stop);
        while self.progress.load(Ordering::Relaxed) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
            // A server may take a moment to notice that its Redis is back.
            if running.iter().all(JoinHandle::is_finished) {
                for appender in running {
                    self.appenders.push(appender.await.unwrap());
                }
                running = self.append(&stop);
            }
        }
        tokio::time::sleep(moment).await;
        self.kill(fault);
        for appender in running {
            let appender = tokio::time::timeout(PATIENCE, appender).await;
            self.appenders.push(appender.expect("the stream breaks").unwrap());
        }
        let started = Instant::now();
        self.start_again(fault);
        self.server.ready().await;
        let recovered = started.elapsed();
        let news =
            self.appenders.iter().zip(known).flat_map(|(appender, known)| appender.acknowledged[known..].to_vec());
        (news.collect(), recovered)
    }

    fn append(&mut self, stop: &CancellationToken) -> Vec<JoinHandle<Appender>> {
        let appenders = self.appenders.drain(..);
        appenders.map(|appender| tokio::spawn(appender.run(self.server.client(), stop.clone()))).collect()
    }

    /// How many of the events the server does not know: sent again, each has to be a duplicate.
    async fn missing(&self, mut events: Vec<Sent>) -> usize {
        let mut missing = 0;
        until("every event is answered", async || {
            let sent = tokio_stream::iter(events.clone());
            let Ok(answers) = self.server.client().append_events(sent).await else { return false };
            // Up to where the stream breaks, as it may while the server finds its Redis again.
            let answers: Vec<_> = answers.into_inner().map_while(Result::ok).collect().await;
            missing += answers.iter().filter(|answer| answer.outcome() != Outcome::Duplicate).count();
            events.drain(..answers.len());
            events.is_empty()
        })
        .await;
        missing
    }
}

/// Compares what a store holds with all that was acknowledged.
async fn audit(store: &dyn HistoryStore, appenders: &[Appender], toll: &mut Toll) {
    let mut by_user: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for event in appenders.iter().flat_map(|appender| &appender.acknowledged) {
        assert!(by_user.entry(user(event)).or_default().insert(id(event)), "{} was acknowledged twice", id(event));
    }
    for (name, expected) in by_user {
        let name = UserId::new(name).unwrap();
        let load = store.load(&name, None, Deadline::after(Duration::from_secs(30)));
        let Loaded::History(view) = load.await.unwrap() else { panic!("nothing was known") };
        let events = &view.recommendation_events;
        let stored: BTreeSet<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
        toll.lost += expected.difference(&stored).count();
        toll.twice += events.len() - stored.len();
        let in_order = events.is_sorted_by(|a, b| (a.time, &a.event_id) < (b.time, &b.event_id));
        toll.out_of_order += usize::from(!in_order);
    }
}

async fn kill_again_and_again(fault: Fault, kills: usize) -> Toll {
    let directory = tempfile::tempdir().unwrap();
    let redis =
        (fault != Fault::Server).then(|| RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]));
    let mut scene = Scene::new(directory.path(), redis).await;
    let mut toll = Toll { kills, ..Toll::default() };
    // Equal seeds, equal moments; how far the programs are by then is never the same.
    let mut random = StdRng::seed_from_u64(kills as u64);
    for _ in 0..kills {
        let (news, recovered) = scene.round(fault, Duration::from_millis(random.random_range(5..400))).await;
        toll.acknowledged += news.len();
        toll.lost += scene.missing(news).await;
        toll.recoveries.push(recovered);
    }
    // Past the server, in the store itself.
    scene.server.signal("TERM");
    assert_eq!(scene.server.ended().await, Some(0));
    let url = match &scene.redis {
        Some(redis) => redis.url(),
        None => format!("embedded:{}", directory.path().join("store").display()),
    };
    let store = history::open(&url.parse().unwrap(), HistoryOptions::default(), RedisOptions::default()).await.unwrap();
    audit(&*store, &scene.appenders, &mut toll).await;
    store.close().await;
    toll
}

fn print_and_judge(fault: &str, mut toll: Toll) {
    toll.recoveries.sort();
    let (median, longest) = (toll.recoveries[toll.kills / 2], toll.recoveries[toll.kills - 1]);
    println!(
        "| {fault} | {} | {} | {} | {} | {:.0} / {:.0} ms |",
        toll.kills,
        toll.acknowledged,
        toll.lost,
        toll.twice,
        median.as_secs_f64() * 1e3,
        longest.as_secs_f64() * 1e3
    );
    assert!(toll.acknowledged >= toll.kills, "hardly anything was acknowledged before the kills");
    assert_eq!((toll.lost, toll.twice, toll.out_of_order), (0, 0, 0), "{fault}: lost, twice, out of order");
}

/// One after the other: the machine is theirs, and the table in one place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_every_kill() {
    let kills = amount("SESREC_KILLS", 20);
    println!(
        "| fault (SIGKILL in mid-stream) | times | acknowledged | lost | duplicated | time to recover, median / longest |"
    );
    println!("|---|---|---|---|---|---|");
    let share = |part: usize| (kills * part / 10).max(1);
    print_and_judge("server, embedded store", kill_again_and_again(Fault::Server, share(4)).await);
    print_and_judge("Redis, `appendfsync always`", kill_again_and_again(Fault::Redis, share(3)).await);
    print_and_judge("server and Redis at once", kill_again_and_again(Fault::Both, share(3)).await);
}

/// On a machine with nothing else to do: `SESREC_EVENTS=1000000 cargo test --release --test promises restart -- --ignored --nocapture`
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
        let answers = store.append(&events, Deadline::after(Duration::from_secs(60))).await;
        assert!(answers.iter().all(Result::is_ok));
    }
    store.close().await;
    drop(store);
    let mut scene = Scene::new(directory.path(), None).await;
    let mut times = vec![];
    for _ in 0..3 {
        let (news, recovered) = scene.round(Fault::Server, Duration::from_millis(500)).await;
        assert_eq!(scene.missing(news).await, 0);
        times.push(recovered);
    }
    println!("{total} events stored; from the start after SIGKILL to ready: {times:?}");
    assert!(times.iter().all(|time| *time < Duration::from_secs(2)), "{times:?}");
}
