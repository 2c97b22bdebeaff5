//! Memory of a server process under more load than it can take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sesrec::proto::v1;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{amount, bundle, checker::Checker, replicas::request, server::Client, server::Server};

/// As many as fit neither of the caches.
const USERS: usize = 1000;
const CANDIDATES: usize = 1000;
/// Each with connections of its own.
const CALLERS: usize = 16;
const STEP: Duration = Duration::from_millis(500);
/// What a server may grow in the second half of the load. Without a bound on the queue it is hundreds.
const GROWTH_MIB: f64 = 48.0;

fn question(number: usize) -> v1::RankRequest {
    v1::RankRequest {
        user_id: format!("user-{}", number % USERS),
        candidate_item_ids: (0..CANDIDATES).map(bundle::item).collect(),
        ..Default::default()
    }
}

async fn rank(client: &mut Client, number: usize) -> Result<(), Status> {
    client.rank(request(question(number))).await.map(drop)
}

/// Served requests per second while callers ask again and again.
async fn best_rate(clients: &[Client], time: Duration) -> f64 {
    let end = Instant::now() + time;
    let callers = clients.iter().enumerate().map(|(caller, client)| {
        let mut client = client.clone();
        async move {
            let mut served = 0;
            while Instant::now() < end {
                rank(&mut client, caller + served * CALLERS).await.unwrap();
                served += 1;
            }
            served
        }
    });
    let served: usize = futures::future::join_all(callers).await.into_iter().sum();
    served as f64 / time.as_secs_f64()
}

#[derive(Default)]
struct Counts {
    served: AtomicUsize,
    refused: AtomicUsize,
}

/// Requests at a constant rate, whatever comes back; at a higher one as soon as less than half of it is too much: other
/// programs may have left the server more of the machine than it had when its best was measured.
async fn open_loop(clients: &[Client], mut rate: f64, time: Duration) -> (Arc<Counts>, f64) {
    let (counts, highest) = (Arc::<Counts>::default(), 10.0 * rate);
    let (started, mut number) = (tokio::time::Instant::now(), 0);
    let mut running = tokio::task::JoinSet::new();
    let mut step = started;
    while started.elapsed() < time {
        let before = (counts.served.load(Ordering::Relaxed), counts.refused.load(Ordering::Relaxed));
        for n in 0..(rate * STEP.as_secs_f64()) as u32 {
            tokio::time::sleep_until(step + Duration::from_secs_f64(f64::from(n) / rate)).await;
            let (counts, mut client) = (counts.clone(), clients[number % CALLERS].clone());
            number += 1;
            running.spawn(async move {
                match rank(&mut client, number).await {
                    Ok(()) => counts.served.fetch_add(1, Ordering::Relaxed),
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        counts.refused.fetch_add(1, Ordering::Relaxed)
                    }
                };
            });
            while let Some(ended) = running.try_join_next() {
                ended.unwrap();
            }
        }
        step += STEP;
        let served = counts.served.load(Ordering::Relaxed) - before.0;
        if counts.refused.load(Ordering::Relaxed) - before.1 < served {
            rate = (1.5 * rate).min(highest);
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    (counts, rate)
}

/// As the system sees it, until told to stop: when, and MiB.
async fn watch(process: u32, stop: CancellationToken) -> Vec<(Instant, f64)> {
    let mut seen = vec![];
    while !stop.is_cancelled() {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process that runs");
        let kilobytes: f64 = kilobytes.trim().trim_end_matches(" kB").parse().unwrap();
        seen.push((Instant::now(), kilobytes / 1024.0));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_flat_under_three_times_the_load() {
    let time = Duration::from_secs(amount("SESREC_OVERLOAD_SECONDS", 6) as u64);
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle");
    bundle::write(&bundle, 1);
    let arguments = ["--max-queued-requests", "64", "--user-cache-bytes", "1MiB", "--history-cache-bytes", "1MiB"];
    let mut server = Server::start(directory.path(), &bundle, "memory", &arguments);
    server.ready().await;
    let checker = Checker::new(USERS);
    let events: Vec<_> =
        (0..USERS * bundle::READ).map(|n| v1::AppendEventRequest { event: Some(checker.event(n % USERS)) }).collect();
    let count = events.len();
    let answers = server.client().append_events(tokio_stream::iter(events)).await.unwrap().into_inner();
    assert_eq!(answers.collect::<Vec<_>>().await.len(), count);

    let clients: Vec<Client> = (0..CALLERS).map(|_| server.client()).collect();
    let stop = CancellationToken::new();
    let watching = tokio::spawn(watch(server.id(), stop.clone()));
    let best = best_rate(&clients, Duration::from_secs(2)).await;
    let began = Instant::now();
    let (counts, rate) = open_loop(&clients, 3.0 * best, time).await;
    stop.cancel();
    let seen = watching.await.unwrap();
    let most = |wanted: &dyn Fn(Instant) -> bool| {
        seen.iter().filter(|(moment, _)| wanted(*moment)).map(|(_, size)| *size).fold(0.0, f64::max)
    };
    let middle = began + time / 2;
    let (before, first) = (most(&|moment| moment < began), most(&|moment| began <= moment && moment < middle));
    let second = most(&|moment| middle <= moment);
    let (served, refused) = (counts.served.load(Ordering::Relaxed), counts.refused.load(Ordering::Relaxed));
    println!(
        "best {best:.0}/s; {time:?} at {:.0} to {rate:.0}/s: {served} served, {refused} refused; resident {before:.0} MiB \
         before, at most {first:.0} MiB in the first half and {second:.0} MiB in the second",
        3.0 * best
    );
    assert!(served > 0 && refused > 0, "it was no overload");
    assert!(second < first + GROWTH_MIB, "memory grew from {first:.0} to {second:.0} MiB");
}
