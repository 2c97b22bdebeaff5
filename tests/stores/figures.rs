//! Figures, not tests: `cargo test --release --test stores figures -- --ignored --nocapture --test-threads 1`.

use std::{path::Path, sync::Arc, time::Instant};

use sesrec::{
    domain::Event,
    history::{EmbeddedStore, HistoryOptions, HistoryStore, MemoryStore, RedisOptions, RedisStore, SystemClock},
};

use crate::{fixture::*, redis_server::RedisServer};

/// A user with full histories at the default bounds: 300 recommendations, 50 searches with two clicks each. Ids are as
/// long as UUIDs for events and searches, and 8 digits for items.
fn full_history(user: &str, now: u64) -> Vec<Event> {
    let uuid = |kind: u64, n: u64| {
        let hash = blake3::hash(format!("{user}{kind}{n}").as_bytes()).to_hex();
        format!("{}-{}-{}", &hash[..8], &hash[8..16], &hash[16..34])
    };
    let recommended = (0..300).map(|n| recommendation(&uuid(0, n), now - 1_000_000 * n, &format!("{:08}", n * 77_777)));
    let searched = (0..50).map(|n| search(&uuid(1, n), now - 5_000_000 * n, &uuid(2, n), &[]));
    let clicked = (0..100).map(|n| {
        click(&uuid(3, n), now - 5_000_000 * (n / 2) + 1000 * (n % 2 + 1), &uuid(2, n / 2), &format!("{:08}", n))
    });
    recommended.chain(searched).chain(clicked).map(|event| of_user(user, event)).collect()
}

/// `callers` at once, each appending its own users' events one per call, oldest first.
async fn rate(store: Arc<dyn HistoryStore>, callers: usize) -> f64 {
    let now = sesrec::domain::EventTime::now().nanos();
    let lives: Vec<Vec<Event>> = (0..callers)
        .map(|n| {
            let mut events = full_history(&format!("caller{callers}-{n}"), now);
            events.sort_by_key(|event| event.time);
            events
        })
        .collect();
    let appended: usize = lives.iter().map(Vec::len).sum();
    let started = Instant::now();
    let callers = lives.into_iter().map(|events| {
        let store = store.clone();
        tokio::spawn(async move {
            for event in events {
                append(&*store, &event).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    appended as f64 / started.elapsed().as_secs_f64()
}

fn size(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let metadata = entry.metadata().unwrap();
            // Blocks, not length: journals are allocated ahead.
            if metadata.is_dir() { size(&entry.path()) } else { metadata.blocks() * 512 }
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn figures() {
    let options = HistoryOptions::default();
    let clock = Arc::new(SystemClock);
    let directory = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&[]);
    let durable = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let redis = async |server: &RedisServer| {
        Arc::new(RedisStore::connect(&server.url(), RedisOptions::default(), options).await.unwrap())
    };
    let stores: [(&str, Arc<dyn HistoryStore>); 4] = [
        ("memory", Arc::new(MemoryStore::new(options, clock.clone()))),
        ("embedded", Arc::new(EmbeddedStore::open(directory.path(), options, clock).unwrap())),
        ("redis", redis(&server).await),
        ("redis, fsync always", redis(&durable).await),
    ];
    for (name, store) in &stores {
        for callers in [1, 16, 128] {
            println!("{name}: {callers} callers: {:.0} appends/s", rate(store.clone(), callers).await);
        }
    }

    let users = 200;
    let directory = tempfile::tempdir().unwrap();
    let embedded = EmbeddedStore::open(directory.path(), options, Arc::new(SystemClock)).unwrap();
    let empty = size(directory.path());
    let server = RedisServer::start(&[]);
    let redis = redis(&server).await;
    let now = sesrec::domain::EventTime::now().nanos();
    for n in 0..users {
        let events = full_history(&format!("user{n}"), now);
        embedded.append(&events, soon()).await;
        redis.append(&events, soon()).await;
    }
    let started = Instant::now();
    for n in 0..users {
        view(&*redis, &user(&format!("user{n}"))).await;
    }
    println!("redis: a read of a full history takes {:?}", started.elapsed() / users);
    let mut connection = server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let bytes: u64 = keys
        .iter()
        .map(|key| {
            redis::cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0).query::<u64>(&mut connection).unwrap()
        })
        .sum();
    println!("redis: {} bytes per user at full histories ({} keys)", bytes / u64::from(users), keys.len());
    embedded.close().await;
    println!("embedded: {} bytes per user in the journal", (size(directory.path()) - empty) / u64::from(users));
    {
        let database = fjall::Database::builder(directory.path()).open().unwrap();
        let events = database.keyspace("events", fjall::KeyspaceCreateOptions::default).unwrap();
        events.rotate_memtable_and_wait().unwrap();
        events.major_compact().unwrap();
        println!("embedded: {} bytes per user in tables", events.disk_space() / u64::from(users));
    }
    let started = Instant::now();
    let embedded = EmbeddedStore::open(directory.path(), options, Arc::new(SystemClock)).unwrap();
    println!("embedded: open takes {:?}", started.elapsed());
    let started = Instant::now();
    for n in 0..users {
        view(&embedded, &user(&format!("user{n}"))).await;
    }
    println!("embedded: a cold read of a full history takes {:?}", started.elapsed() / users);
}
