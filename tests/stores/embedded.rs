//! The embedded store under reopening, kills, full disks and foreign hands.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use sesrec::{
    domain::{Deadline, HistoryVersion},
    history::{EmbeddedStore, HistoryOptions, HistoryStore, Outcome, StoreError, SystemClock},
};

use crate::{fixture::*, skip::skipped};

fn open(directory: &Path, options: HistoryOptions) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(directory, options, Arc::new(SystemClock))
}

fn unbounded() -> HistoryOptions {
    HistoryOptions { max_recommendations: 100_000, max_searches: 1000, ..options() }
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), options()).unwrap();
    let events = [
        recommendation("a", 1, "i"),
        recommendation("é", 1, "j"),
        search("s", 5, "s", &["k"]),
        click("c", 6, "s", "l"),
        click("p", 7, "later", "l"),
    ];
    store.append(&events, soon()).await;
    let before = view(&store, &user("u")).await;
    let erased = store.delete(&user("gone"), soon()).await.unwrap();
    store.close().await;
    assert!(matches!(store.append(&events, soon()).await[0], Err(StoreError::Unavailable(_))));
    drop(store);

    let store = open(directory.path(), options()).unwrap();
    assert_eq!(view(&store, &user("u")).await, before);
    assert_eq!(append(&store, &events[0]).await.outcome, Outcome::Duplicate);
    let replay = of_user("gone", recommendation("a", 1, "i"));
    assert_eq!(append(&store, &replay).await.outcome, Outcome::TooOld);
    assert_eq!(view(&store, &user("gone")).await.version, erased);
}

#[tokio::test]
async fn a_directory_is_opened_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), options()).unwrap();
    let error = open(directory.path(), options()).err().unwrap();
    assert!(matches!(&error, StoreError::Config(reason) if reason.contains("another process")), "{error}");
    store.close().await;
    open(directory.path(), options()).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    assert!(matches!(open(&file, options()).err(), Some(StoreError::Config(_))));
}

#[tokio::test]
async fn lowered_bounds_hold_for_what_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), unbounded()).unwrap();
    let events: Vec<_> = (0..50).map(|n| recommendation(&format!("e{n}"), 100 + n, "i")).collect();
    store.append(&events, soon()).await;
    store.close().await;
    let store = open(directory.path(), options()).unwrap();
    assert_eq!(view(&store, &user("u")).await.recommendation_events.len(), 3);
}

#[tokio::test]
async fn a_newer_schema_is_refused_for_its_user_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), options()).unwrap();
    append(&store, &recommendation("a", 1, "i")).await;
    append(&store, &of_user("v", recommendation("a", 1, "i"))).await;
    store.close().await;
    {
        let database = fjall::Database::builder(directory.path()).open().unwrap();
        let events = database.keyspace("events", fjall::KeyspaceCreateOptions::default).unwrap();
        let user = blake3::hash(b"u");
        let (key, value) = events.prefix(&user.as_bytes()[..16]).next().unwrap().into_inner().unwrap();
        let mut newer = value.to_vec();
        newer[0] += 1;
        events.insert(key, newer).unwrap();
        database.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let store = open(directory.path(), options()).unwrap();
    let events = [recommendation("b", 2, "i"), of_user("v", recommendation("b", 2, "i"))];
    let answers = store.append(&events, soon()).await;
    assert!(matches!(answers[0], Err(StoreError::NewerSchema { found: 2, supported: 1 })), "{:?}", answers[0]);
    assert_eq!(answers[1].as_ref().unwrap().outcome, Outcome::Applied);
    let refused = store.load(&user("u"), None, soon()).await.unwrap_err();
    assert!(refused.to_string().contains("schema version 2"), "{refused}");
}

#[tokio::test]
async fn nothing_of_an_erased_user_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), unbounded()).unwrap();
    for n in 0..20 {
        append(&store, &of_user("user-name", search(&format!("secret{n}"), 10 + n, "sid", &["shoe"]))).await;
    }
    store.delete(&user("user-name"), soon()).await.unwrap();
    store.close().await;
    let database = fjall::Database::builder(directory.path()).open().unwrap();
    let events = database.keyspace("events", fjall::KeyspaceCreateOptions::default).unwrap();
    assert_eq!(events.iter().count(), 0);
}

#[tokio::test]
async fn a_past_deadline_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), options()).unwrap();
    let past = Deadline::after(Duration::ZERO);
    let answers = store.append(&[recommendation("a", 1, "i")], past).await;
    assert!(matches!(answers[0], Err(StoreError::Deadline)), "{:?}", answers[0]);
}

/// Says on standard output what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that the next test kills"]
async fn child_that_appends_until_it_is_killed() {
    let directory = std::env::var_os("SESREC_TEST_CHILD_DIRECTORY").expect("the next test says where");
    let round = std::env::var("SESREC_TEST_CHILD_ROUND").unwrap();
    let store = Arc::new(open(Path::new(&directory), unbounded()).unwrap());
    let writers = (0..8_u64).map(|writer| {
        let (store, round) = (store.clone(), round.clone());
        tokio::spawn(async move {
            for n in 0..1_000_000 {
                let id = format!("r{round}-w{writer}-{n}");
                let appended = append(&*store, &recommendation(&id, 1 + n * 8 + writer, "i")).await;
                assert_eq!(appended.outcome, Outcome::Applied);
                println!("ACK {id} {}", appended.version.0);
            }
        })
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_kills() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = HashSet::new();
    let mut newest = 0;
    for round in 0..6_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded_faults::child_that_appends_until_it_is_killed", "--nocapture", "--ignored"])
            .env("SESREC_TEST_CHILD_DIRECTORY", directory.path())
            .env("SESREC_TEST_CHILD_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, acknowledgements) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok).filter(|line| line.contains("ACK "));
            lines.for_each(|line| sender.send(line).unwrap());
        });
        // In mid-write, not before it has begun.
        let mut lines: Vec<String> = (0..20).map(|_| acknowledgements.recv().expect("it appends")).collect();
        std::thread::sleep(Duration::from_millis(50 + 137 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.extend(acknowledgements);
        for line in lines.iter().filter_map(|line| line.split_once("ACK ")) {
            // The kill may cut the last line short.
            let Some((id, version)) = line.1.split_once(' ') else { continue };
            acknowledged.insert(id.to_owned());
            newest = newest.max(version.parse().unwrap_or(0));
        }
        let started = Instant::now();
        let store = open(directory.path(), unbounded()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(30), "opening took {:?}", started.elapsed());
        let view = view(&store, &user("u")).await;
        assert!(view.version >= HistoryVersion(newest), "versions are durable");
        let events = &view.recommendation_events;
        assert!(events.is_sorted_by(|a, b| (a.time, &a.event_id) < (b.time, &b.event_id)), "in order, none twice");
        let stored: HashSet<_> = events.iter().map(|event| event.event_id.to_string()).collect();
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "{} of {} were lost: {lost:?}", lost.len(), acknowledged.len());
        store.close().await;
    }
    println!("{} appends acknowledged before the kills", acknowledged.len());
}

/// A file system of its own; `None`, said aloud, where mounting is not allowed.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(directory.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(directory));
        }
        skipped("mounting a small file system needs root");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_recovers() {
    let Some(disk) = SmallDisk::mount("size=4m") else { return };
    let path = disk.0.path().join("store");
    let store = open(&path, unbounded()).unwrap();
    append(&store, &recommendation("first", 1, "i")).await;
    let filler = disk.0.path().join("filler");
    // Until nothing fits.
    let _ = std::fs::write(&filler, vec![1; 8 << 20]);
    let mut acknowledged = vec!["first".to_owned()];
    let mut failed = None;
    for n in 0..2000 {
        let id = format!("e{n}");
        match store.append(&[recommendation(&id, 10 + n, &"i".repeat(500))], soon()).await.remove(0) {
            Ok(_) => acknowledged.push(id),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let error = failed.expect("the disk is full");
    assert!(matches!(&error, StoreError::Unavailable(reason) if reason.contains("free space")), "{error}");
    // What still fits, after the broken batch was cut off, may be taken; what was acknowledged must stay.
    for n in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let id = format!("full{n}");
        if store.append(&[recommendation(&id, 5000 + n, &"i".repeat(500))], soon()).await[0].is_ok() {
            acknowledged.push(id);
        }
    }
    let large: Vec<_> = (0..200).map(|n| recommendation(&format!("large{n}"), 9000 + n, &"i".repeat(500))).collect();
    let refused = store.append(&large, soon()).await;
    assert!(refused.len() == large.len() && refused.iter().all(Result::is_err), "still full");
    std::fs::remove_file(&filler).unwrap();
    let recovered = Instant::now();
    while store.append(&[recommendation("last", 1 << 40, "i")], soon()).await[0].is_err() {
        assert!(recovered.elapsed() < Duration::from_secs(60), "recovers when space returns");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    acknowledged.push("last".to_owned());
    let stored = view(&store, &user("u")).await;
    let stored: Vec<_> = stored.recommendation_events.iter().map(|event| event.event_id.to_string()).collect();
    for id in &acknowledged {
        assert!(stored.contains(id), "{id} was acknowledged");
    }
    store.close().await;
}

#[tokio::test]
async fn a_read_only_directory_is_said() {
    let Some(disk) = SmallDisk::mount("size=4m,ro") else { return };
    let error = open(&disk.0.path().join("store"), options()).err().expect("nothing can be written there");
    assert!(matches!(&error, StoreError::Config(reason) if reason.contains("writable")), "{error}");
}
