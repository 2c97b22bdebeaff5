//! Three replicas behind the nginx of `deploy/` over a Redis Cluster of three nodes, all real processes: replaced one
//! after another, one killed, under load. Only what was in flight on the killed one may fail, and no token is broken.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    bundle,
    load::{self, Load},
    plant::{Nginx, Replica},
    program::{self, Running, text},
    redis_server::{Cluster, until},
    support::{event, recommendation},
};

/// A balancer would wait for one that listens and doesn't answer, and not ask another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_loads_does_not_listen() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("bundle");
    bundle::write(&model);
    // A pipe in place of a file: loading goes on until somebody writes.
    let (manifest, kept) = (model.join("manifest.json"), directory.path().join("kept.json"));
    std::fs::rename(&manifest, &kept).unwrap();
    assert!(Command::new("mkfifo").arg(&manifest).status().unwrap().success());
    let mut replica = Replica::start(&model, "memory", &[]);
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        assert!(!replica.listens());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (text, mut pipe) =
        (std::fs::read(&kept).unwrap(), std::fs::OpenOptions::new().write(true).open(&manifest).unwrap());
    std::fs::rename(&kept, &manifest).unwrap();
    pipe.write_all(&text).unwrap();
    drop(pipe);
    replica.ready().await;
    assert!(replica.listens());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_restart_fails_nobody_and_a_kill_only_its_own_requests() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("bundle");
    bundle::write(&model);
    let mut replicas: Vec<Replica> = (0..3).map(|_| Replica::start(&model, &cluster.url(), &[])).collect();
    for replica in &mut replicas {
        replica.ready().await;
    }
    let nginx = Nginx::start(directory.path(), &replicas.iter().map(Replica::address).collect::<Vec<_>>());
    let load = Load::start(&nginx.url()).await;
    load.calls(100).await;
    // Both streams are open by now, so each has to leave its replica.
    load.streamed(1).await;

    for replica in &mut replicas {
        replica.terminate();
        load.calls(30).await;
        replica.start_again();
        replica.ready().await;
        ranks_again(replica).await;
        load.calls(100).await;
    }
    let restarted = load.failures();
    assert!(restarted.is_empty(), "a rolling restart failed {restarted:#?}");

    replicas[1].kill();
    // Its sockets are gone by now: whatever began later never reached it.
    let gone = Instant::now();
    load.calls(300).await;
    replicas[1].start_again();
    replicas[1].ready().await;
    ranks_again(&replicas[1]).await;
    load.streamed(500).await;

    let served: Vec<f64> = replicas.iter().map(Replica::ranks).collect();
    let outcome = load.finish().await;
    println!("{outcome}; Ranks by replica since its start: {served:?}");
    for failure in &outcome.failures {
        assert!(failure.started < gone, "began after the killed replica was gone: {failure:?}");
    }
    assert!(outcome.failures.len() <= load::CALLERS, "each caller has one request in flight: {:#?}", outcome.failures);
    assert!(outcome.reconnects >= load::STREAMS, "streams move to other replicas: {outcome}");
}

/// Waits until a replica that was started again gets traffic. nginx counts in whole seconds: it tries a replica again
/// up to three seconds after the last refusal, and forgets the refusal when that try succeeds.
async fn ranks_again(replica: &Replica) {
    until("a replaced replica gets traffic again", async || replica.ranks() >= 10.0).await;
}

/// What nginx says of a stream whose replica was killed is not what the server says of an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_outlive_a_killed_replica_behind_a_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let [model, store, events, dead] =
        ["bundle", "store", "events.ndjson", "dead.ndjson"].map(|name| directory.path().join(name));
    bundle::write(&model);
    let store = format!("embedded:{}", store.display());
    let mut replica = Replica::start(&model, &store, &["--time-to-live", "0s"]);
    replica.ready().await;
    let nginx = Nginx::start(directory.path(), &vec![replica.address(); 3]);
    let line = |n: i64| {
        let event = event(&format!("u{}", n % 50), &format!("e{n}"), n, recommendation("i1")).event.unwrap();
        serde_json::to_string(&event).unwrap() + "\n"
    };
    std::fs::write(&events, (0..4000).map(line).collect::<String>()).unwrap();
    let mut command = program::sesrec();
    command.arg("ingest").arg(&events).args(["--server", &nginx.url(), "--window", "4", "--dead-letter"]).arg(&dead);
    let ingest = Running::start(command.stdout(Stdio::piped()));
    for _ in 0..2 {
        let applied = r#"sesrec_events_appended_total{outcome="applied"}"#;
        until("events arrive", async || replica.metric(applied) >= 100.0).await;
        replica.kill();
        replica.start_again();
        replica.ready().await;
    }
    let output = tokio::task::spawn_blocking(|| ingest.output()).await.unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success() && said.starts_with("4,000 events") && !said.contains("FAILED"), "{said}");
    assert_eq!(std::fs::read_to_string(&dead).unwrap(), "");
}
