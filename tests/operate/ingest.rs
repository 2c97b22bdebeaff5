//! `sesrec ingest` from a real Redis Stream: consumer groups, kills, restarts, poison; and dead letters of files.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use sesrec::proto::v1::{self, AppendEventRequest};

use crate::{
    program::{self, Running, errors, said, text},
    redis_server::RedisServer,
    support::{Fault, TestServer, event, recommendation, search},
};

const APPLIED: &str = r#"sesrec_events_appended_total{outcome="applied"}"#;

fn json(request: AppendEventRequest) -> String {
    serde_json::to_string(&request.event.unwrap()).unwrap()
}

fn add(redis: &RedisServer, fields: &[[&str; 2]]) {
    let mut add = redis::cmd("XADD");
    add.arg("events").arg("*");
    fields.iter().for_each(|pair| {
        add.arg(pair);
    });
    add.exec(&mut redis.connection()).unwrap();
}

/// Adds `events`, many per round trip. No user gets more than a history keeps: late ones would be too old.
fn fill(redis: &RedisServer, events: std::ops::Range<i64>) {
    let mut pipeline = redis::pipe();
    for n in events {
        let text = json(event(&format!("u{}", n % 50), &format!("e{n}"), n, recommendation("i1")));
        pipeline.cmd("XADD").arg(&["events", "*", "event", &text]).ignore();
    }
    pipeline.exec(&mut redis.connection()).unwrap();
}

/// Entries of the group that nobody has acknowledged.
fn pending(redis: &RedisServer) -> u64 {
    let (pending, ..): (u64, redis::Value, redis::Value, redis::Value) =
        redis::cmd("XPENDING").arg(&["events", "group"]).query(&mut redis.connection()).unwrap();
    pending
}

struct Consumer<'a> {
    server: &'a TestServer,
    redis: &'a RedisServer,
    dead_letter: &'a Path,
}

impl Consumer<'_> {
    fn command(&self, name: &str, more: &[&str]) -> Command {
        let mut command = program::sesrec();
        command.arg("ingest").arg(format!("{}/events", self.redis.url())).args([
            "--group",
            "group",
            "--consumer",
            name,
        ]);
        command
            .arg("--dead-letter")
            .arg(self.dead_letter)
            .args(["--server", &format!("http://{}", self.server.address)]);
        command.args(more);
        command
    }

    fn start(&self, name: &str, more: &[&str]) -> Running {
        Running::start(self.command(name, more).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    async fn run(&self, name: &str, more: &[&str]) -> Output {
        tokio::process::Command::from(self.command(name, more)).output().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_consumers_lose_nothing_and_repeat_nothing() {
    let mut redis = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let server = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let dead_letter = directory.path().join("dead.ndjson");
    fill(&redis, 0..4000);
    // The store stands still after so many events: however fast a consumer is, it is met with events in its hands.
    let stall_after = |events| {
        server.store.fail(Fault::StallAppendsAfter(events));
        server.store.held_up()
    };
    let held_up = async |before| server.until("held up", || async { server.store.held_up() > before }).await;

    let consumer = Consumer { server: &server, redis: &redis, dead_letter: &dead_letter };
    let before = stall_after(300);
    let mut first = consumer.start("a", &["--window", "64"]);
    held_up(before).await;
    first.kill();
    assert!(pending(&redis) > 0, "it had entries in its hands");
    // The same consumer again takes up what it left; killed again, others do.
    let before = stall_after(1500);
    let mut again = consumer.start("a", &["--window", "64", "--claim-after", "1h"]);
    held_up(before).await;
    again.kill();
    assert!(pending(&redis) > 0);
    // The stream's Redis itself goes and comes back, with another consumer at work.
    let before = stall_after(2500);
    let mut other = consumer.start("b", &["--claim-after", "50ms"]);
    held_up(before).await;
    redis.kill();
    redis.start_again();
    fill(&redis, 4000..4500);
    server.store.fail(Fault::None);
    server.until("all stored", || async { server.metric(APPLIED) >= 4500.0 }).await;

    let consumer = Consumer { server: &server, redis: &redis, dead_letter: &dead_letter };
    server.until("everything acknowledged", || async { pending(&redis) == 0 }).await;
    other.signal("TERM");
    assert!(other.wait().unwrap().success(), "SIGTERM is a stream's usual end");
    let rest = consumer.run("c", &["--once"]).await;
    assert!(rest.status.success(), "{}", errors(&rest));
    assert_eq!(server.metric(APPLIED), 4500.0, "each event once");
    assert_eq!(pending(&redis), 0);
    assert_eq!(std::fs::read_to_string(&dead_letter).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_goes_to_the_dead_letter_file_and_stops_nothing() {
    let redis = RedisServer::start(&[]);
    let server = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let dead_letter = directory.path().join("dead.ndjson");
    let good = json(event("u", "e1", 1, search("s", "red shoes", &["i1"])));
    let conflicting = json(event("u", "e1", 1, recommendation("i9")));
    add(&redis, &[["event", &good]]);
    add(&redis, &[["event", "no JSON"]]);
    add(&redis, &[["other", &good]]);
    add(&redis, &[["event", &conflicting], ["other", "is ignored"]]);
    add(&redis, &[["event", r#"{"eventId":"e2","userId":""}"#]]);
    add(&redis, &[["event", &json(event("u", "e3", 2, recommendation("i2")))]]);

    let consumer = Consumer { server: &server, redis: &redis, dead_letter: &dead_letter };
    let output = consumer.run("a", &["--once"]).await;
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said} {}", errors(&output));
    assert!(said.contains("APPLIED 2, CONFLICT 1, INVALID 3"), "{said}");
    assert_eq!(pending(&redis), 0);
    let letters: Vec<serde_json::Value> = std::fs::read_to_string(&dead_letter)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let has = |outcome: &str, reason: &str, event: &str| {
        let count = letters.iter().filter(|letter| {
            let holds = |key: &str, part: &str| letter[key].as_str().unwrap().contains(part);
            holds("outcome", outcome) && holds("reason", reason) && holds("event", event) && holds("position", "entry ")
        });
        assert_eq!(count.count(), 1, "{outcome}: {reason}: {event} is not in {letters:#?}");
    };
    has("INVALID", "not a proto3 JSON", "no JSON");
    has("INVALID", "has no field \"event\"", "");
    has("CONFLICT", "another payload", "\"i9\"");
    has("INVALID", "event.user_id", "\"e2\"");
    assert_eq!(letters.len(), 4);

    // Without a place for what can't be stored, a stream is not read.
    let missing = program::sesrec().args(["ingest", &format!("{}/events", redis.url())]).output();
    let missing = errors(&missing.unwrap());
    assert!(missing.contains("--dead-letter"), "{missing}");
}

/// What one user's key holds may be beyond repair: that user's events are kept aside. If all are, it is the store that
/// is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_the_store_cannot_take_stop_nobody_else() {
    let server = TestServer::start().await;
    server.store.fail(Fault::CorruptFrom("v"));
    let directory = tempfile::tempdir().unwrap();
    let (file, dead_letter) = (directory.path().join("events.ndjson"), directory.path().join("dead.ndjson"));
    let ingest = async |users: &[&str]| {
        let events = users.iter().enumerate();
        let lines = events.map(|(n, user)| json(event(user, &format!("e{n}"), n as i64, recommendation("i1"))) + "\n");
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        let mut command = tokio::process::Command::from(program::sesrec());
        command.arg("ingest").arg(&file).args(["--server", &format!("http://{}", server.address), "--dead-letter"]);
        command.arg(&dead_letter).output().await.unwrap()
    };
    let output = ingest(&["u", "v", "u", "w", "u"]).await;
    let said = said(&output);
    assert!(output.status.success() && said.contains("FAILED 2"), "{said}");
    let letters = std::fs::read_to_string(&dead_letter).unwrap();
    assert_eq!(letters.matches(r#""outcome":"FAILED""#).count(), 2, "{letters}");
    assert!(letters.contains("DataLoss") && letters.contains(r#""position":"line 4""#), "{letters}");

    assert_eq!(server.metric(APPLIED), 3.0);

    std::fs::remove_file(&dead_letter).unwrap();
    let output = ingest(&["v"; 40]).await;
    assert!(!output.status.success(), "{output:?}");
    let letters = std::fs::read_to_string(&dead_letter).unwrap();
    assert_eq!(letters.lines().count(), 10, "the others are not given up: {letters}");
}

/// The server ends a stream at a message that is longer than any event: it is kept aside, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_too_long_stops_nobody_else() {
    let server = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (file, dead_letter) = (directory.path().join("events.ndjson"), directory.path().join("dead.ndjson"));
    let line = |n: i64| {
        let payload = if n == 50 { search("s", &"x".repeat(300_000), &[]) } else { recommendation("i1") };
        json(event("u", &format!("e{n}"), n, payload)) + "\n"
    };
    std::fs::write(&file, (1..=100).map(line).collect::<String>()).unwrap();
    let mut command = tokio::process::Command::from(program::sesrec());
    command.arg("ingest").arg(&file).args(["--server", &format!("http://{}", server.address), "--dead-letter"]);
    let output = command.arg(&dead_letter).output().await.unwrap();
    let said = said(&output);
    assert!(output.status.success() && said.contains("APPLIED 99, FAILED 1"), "{said}");
    let letters = std::fs::read_to_string(&dead_letter).unwrap();
    assert!(letters.lines().count() == 1 && letters.contains(r#""position":"line 50""#), "{letters:.300}");
}

/// What was trimmed from a stream while a consumer had it is gone, and that is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_were_trimmed_are_told() {
    let redis = RedisServer::start(&[]);
    let server = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let dead_letter = directory.path().join("dead.ndjson");
    fill(&redis, 0..3);
    let mut connection = redis.connection();
    let group = ["CREATE", "events", "group", "0"];
    redis::cmd("XGROUP").arg(&group).exec(&mut connection).unwrap();
    let read = ["GROUP", "group", "other", "COUNT", "3", "STREAMS", "events", ">"];
    let taken: redis::streams::StreamReadReply = redis::cmd("XREADGROUP").arg(&read).query(&mut connection).unwrap();
    let trimmed = &taken.keys[0].ids[1].id;
    redis::cmd("XDEL").arg(&["events", trimmed]).exec(&mut connection).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;

    let consumer = Consumer { server: &server, redis: &redis, dead_letter: &dead_letter };
    let output = consumer.run("a", &["--once", "--claim-after", "10ms"]).await;
    let said = said(&output);
    assert!(output.status.success() && said.contains("APPLIED 2, INVALID 1"), "{said}");
    let letters = std::fs::read_to_string(&dead_letter).unwrap();
    assert!(letters.contains(trimmed.as_str()) && letters.contains("was trimmed"), "{letters}");
    assert_eq!(pending(&redis), 0);
}

/// Streams end at their age; a source that has nothing to send meanwhile has not failed to. And a read of standard
/// input, which nothing can cancel, keeps nobody from stopping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_source_outlives_its_streams() {
    let server = TestServer::with(|setup| setup.service.timeouts.stream = Some(Duration::from_millis(200))).await;
    let url = format!("http://{}", server.address);
    let mut command = program::sesrec();
    command.args(["ingest", "-", "--server", &url, "--retry-for", "2s"]);
    let mut quiet = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::null()));
    let ended = r#"sesrec_requests_total{rpc="AppendEvents",code="UNAVAILABLE"}"#;
    let begun = Instant::now();
    server.until("many streams", || async { server.metric(ended) >= 5.0 && begun.elapsed().as_secs() >= 3 }).await;
    let line = json(event("u", "e1", 1, recommendation("i1")));
    writeln!(quiet.stdin.as_mut().unwrap(), "{line}").unwrap();
    server.until("stored", || async { server.metric(APPLIED) >= 1.0 }).await;
    assert!(quiet.try_wait().unwrap().is_none(), "still reading");
    quiet.signal("TERM");
    assert!(!quiet.ended().await.success(), "interrupted before the end of its input");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_files_rejected_lines_are_kept() {
    let server = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (file, dead_letter) = (directory.path().join("events.ndjson"), directory.path().join("dead.ndjson"));
    let good = json(event("u", "e1", 1, recommendation("i1")));
    // The server refuses the second line when the fourth, which is no JSON, is known to be wrong already.
    std::fs::write(&file, format!("{good}\n{}\n\n{{\n", json(event("u", "e1", 1, recommendation("i2"))))).unwrap();
    let url = format!("http://{}", server.address);
    let ingest = async |more: &[&str]| {
        let mut command = tokio::process::Command::from(program::sesrec());
        command.arg("ingest").arg(&file).args(["--server", &url]).args(more);
        command.output().await.unwrap()
    };
    let position = directory.path().join("events.pos");
    let checkpoint = ["--checkpoint", position.to_str().unwrap()];
    for _ in 0..2 {
        assert!(!ingest(&checkpoint).await.status.success(), "rejected events are a failure, and are not passed over");
        assert!(std::fs::read_to_string(&position).unwrap().contains(r#""line":1"#));
    }
    let kept = [&checkpoint[..], &["--dead-letter", dead_letter.to_str().unwrap()]].concat();
    assert!(ingest(&kept).await.status.success(), "unless they are kept");
    let again = ingest(&kept).await;
    assert!(text(&again.stdout).contains("nothing to do"), "{again:?}");
    let letters = std::fs::read_to_string(&dead_letter).unwrap();
    assert_eq!(letters.lines().count(), 2, "{letters}");
    assert!(letters.contains(r#""position":"line 2""#) && letters.contains(r#""position":"line 4""#), "{letters}");
    assert!(letters.contains(r#""event":"{""#), "as it came: {letters}");
    let request = v1::GetHistoryRequest { user_id: "u".into(), ..Default::default() };
    assert_eq!(server.client().await.get_history(request).await.unwrap().into_inner().stored_recommendations, 1);
}
