//! The commands behind the figures of docs/scaling.md, on a real Redis: small runs, of which the figures mean nothing.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use crate::{
    program::{self, Running, text},
    redis_server::RedisServer,
    support::TestServer,
};

/// Runs `sesrec` to its end; what it prints.
async fn sesrec(arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::from(program::sesrec());
    let output = command.args(arguments).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_say_what_they_cost() {
    let redis = RedisServer::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let small = ["--items", "300", "--users", "5", "--recommendations", "20", "--searches", "3", "--candidates", "20"];
    let load = ["--replicas", "1,2", "--rate", "20", "--duration", "2s", "--streams", "2", "--window", "16"];
    let rest = ["--redis", &redis.url(), "--json", json.to_str().unwrap()];
    let said = sesrec(&[&["bench", "replicas"], &small[..], &load, &rest].concat()).await;
    assert!(said.contains("| replicas |") && said.contains("\n| 2 |"), "{said}");

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let costs = report["costs"].as_array().unwrap();
    assert_eq!(costs.iter().map(|of| of["replicas"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for of in costs {
        let figure = |pointer: &str| of.pointer(pointer).and_then(serde_json::Value::as_f64).unwrap();
        assert_eq!(figure("/ranks_per_second"), 20.0);
        assert!(figure("/events_per_second") > 0.0 && figure("/resident_bytes") > 1e6, "{of}");
        // The servers', then Redis's. Of 40 Ranks too little to show in hundredths of a second, perhaps.
        assert!(figure("/event/0") > 0.0 && figure("/event/1") > 0.0 && figure("/rank/0") >= 0.0, "{of}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_events_are_ingested() {
    let (redis, server) = (RedisServer::start(&[]), TestServer::start().await);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let url = format!("http://{}", server.address);
    for (output, more) in [
        (path("events.ndjson"), vec![]),
        (format!("{}/events", redis.url()), vec!["--group", "g", "--consumer", "a", "--once"]),
    ] {
        sesrec(&["bench", "events", &output, "--count", "730", "--users", "20"]).await;
        let dead_letter = path("rejected.ndjson");
        let ingest = ["ingest", &output, "--server", &url, "--dead-letter", &dead_letter];
        let said = sesrec(&[&ingest[..], &more].concat()).await;
        assert!(said.contains("730 events in ") && said.contains("APPLIED 730"), "{output}: {said}");
        assert_eq!(std::fs::metadata(Path::new(&dead_letter)).unwrap().len(), 0);
    }
}

#[test]
fn a_run_that_is_stopped_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program::sesrec();
    command.args(["bench", "local", "--store", "memory", "--duration", "60s", "--items", "300", "--users", "5"]);
    command.args(["--recommendations", "20", "--searches", "3", "--candidates", "20"]);
    command.env("TMPDIR", directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = Running::start(&mut command);
    let mut said = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().starts_with("bundle written")));
    run.signal("TERM");
    let output = run.output();
    let errors = text(&output.stderr);
    assert!(!output.status.success() && errors.contains("stopped by SIGTERM"), "{errors}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
