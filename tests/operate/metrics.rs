//! The names in dashboards, alerts and pages are names that the server exports; promtool has nothing to say against
//! them.

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use sesrec::{
    nn::DeviceMemory,
    telemetry::{Metrics, ModelLabels},
};

use crate::{
    skip::skipped,
    support::{TestServer, event, rank_request, recommendation},
};

/// Made by `deploy/observe/prometheus-adapter.yaml`, not by the server.
const DERIVED: &str = "sesrec_rank_queue_seconds_mean";

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every family, with its type.
fn families() -> Vec<(String, String)> {
    let metrics = Metrics::new();
    let text = |text: &str| text.to_owned();
    let model = ModelLabels { name: text("m"), version: text("v"), kind: text("sesrec"), device: text("cpu") };
    metrics.model_live(&model, SystemTime::UNIX_EPOCH, Duration::ZERO);
    metrics.device_memory(text("cuda:0"), || Some(DeviceMemory { used: 1, total: 2 }));
    metrics.certificate_ends(Some(jiff::Timestamp::UNIX_EPOCH));
    let text = metrics.encode_prometheus();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("sesrec_") || word.starts_with("process_"))
}

#[test]
fn boards_alerts_and_pages_use_names_that_exist() {
    let mut series = BTreeSet::from([DERIVED.to_owned()]);
    for (name, kind) in families() {
        if kind == "histogram" {
            series.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
        }
        series.insert(name);
    }
    let observe = std::fs::read_dir(project("deploy/observe")).unwrap().map(|entry| entry.unwrap().path());
    let pages = ["docs/operating.md", "docs/scaling.md", "deploy/helm/sesrec/values.yaml"].map(project);
    let mut used = 0;
    for file in observe.chain(pages) {
        for word in words(&read(&file)) {
            assert!(series.contains(word), "{}: {word} is no metric", file.display());
            used += 1;
        }
    }
    assert!(used > 100, "{used}");
}

#[test]
fn everything_exported_is_on_the_board() {
    let board = read(&project("deploy/observe/grafana.json"));
    let parsed: serde_json::Value = serde_json::from_str(&board).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() > 20);
    let shown: BTreeSet<&str> = words(&board).collect();
    for (name, _) in families() {
        let ends = ["", "_bucket", "_sum", "_count"].map(|end| format!("{name}{end}"));
        assert!(ends.iter().any(|end| shown.contains(end.as_str())), "{name} is on no panel");
    }
}

#[test]
fn every_alert_has_its_part_of_the_runbook() {
    let rules = read(&project("deploy/observe/alerts.yaml"));
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let runbook = read(&project("docs/operating.md"));
    let parts: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### Sesrec")).collect();
    let parts: BTreeSet<String> = parts.into_iter().map(|part| format!("Sesrec{part}")).collect();
    assert_eq!(alerts, parts.iter().map(String::as_str).collect());
    for alert in alerts {
        let anchor = format!("runbook: docs/operating.md#{}", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{anchor}");
    }
}

#[tokio::test]
async fn promtool_accepts_the_metrics() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.append_event(event("u", "e", 1, recommendation("i1"))).await.unwrap();
    client.rank(rank_request("u", &["i1", "missing"])).await.unwrap();
    client.rank(rank_request("", &["i1"])).await.unwrap_err();
    let answer = server.http("/metrics").await;
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();

    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Ok(promtool) => promtool,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skipped("no promtool (apt-get install prometheus)");
            return;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
