//! Histories as schema 1 lies in a store, byte by byte: they must be read for ever, and go on.

use sesrec::{
    domain::{HistoryVersion, Query},
    history::{EmbeddedStore, HistoryStore, Outcome, RedisOptions, RedisStore, SystemClock},
};

use crate::{fixture::*, redis_server::RedisServer};

const VERSION: u64 = 300_000;
/// The times of a recommendation, a search, and a click that waits for another search.
const TIMES: [u64; 3] = [1000, 2000, 3000];

/// What of user `u` is written below.
async fn is_read_and_goes_on(store: &dyn HistoryStore) {
    let before = view(store, &user("u")).await;
    assert_eq!((before.version, before.pending_clicks), (HistoryVersion(VERSION), 1));
    assert_eq!(before.history.recommendations[0].as_str(), "i1");
    let (read, event) = (&before.history.searches[0], &before.search_events[0]);
    assert!(matches!(&read.query, Query::Text(text) if **text == *"red"));
    assert_eq!((read.source.as_deref(), read.clicked_item_ids[0].as_str()), (Some("BOX"), "i2"));
    assert_eq!((event.event_id.as_str(), event.time.nanos()), ("e2", TIMES[1]));

    let again = [recommendation("e1", TIMES[0], "i1"), click("e3", TIMES[2], "s2", "i3")];
    for event in &again {
        assert_eq!(append(store, event).await.outcome, Outcome::Duplicate);
    }
    assert_eq!(append(store, &recommendation("e0", 7, "i1")).await.outcome, Outcome::TooOld, "erased through then");
    assert_eq!(append(store, &recommendation("e1", TIMES[0], "i9")).await.outcome, Outcome::Conflict);
    let appended = append(store, &search("e4", TIMES[2], "s2", &[])).await;
    assert_eq!(appended.outcome, Outcome::Applied);
    assert!(appended.version > before.version);
    let after = view(store, &user("u")).await;
    assert_eq!((after.recommendation_events.len(), after.search_events.len(), after.pending_clicks), (1, 2, 0));
    assert_eq!(after.history.searches[1].clicked_item_ids[0].as_str(), "i3");
}

fn user_key() -> [u8; 16] {
    blake3::hash(b"u").as_bytes()[..16].try_into().unwrap()
}

#[tokio::test]
async fn an_embedded_store_of_schema_1() {
    let directory = tempfile::tempdir().unwrap();
    {
        let database = fjall::Database::builder(directory.path()).open().unwrap();
        let keyspace = |name| database.keyspace(name, fjall::KeyspaceCreateOptions::default).unwrap();
        keyspace("users").insert(user_key(), b"\x01\x08\xe0\xa7\x12\x10\x07").unwrap();
        let values: [&[u8]; 3] = [
            b"\x01\x1a\x04\x0a\x02i1",
            b"\x01\x22\x12\x0a\x02s1\x12\x03red\x22\x03BOX\x2a\x02i2",
            b"\x01\x2a\x08\x0a\x02s2\x12\x02i3",
        ];
        for (n, value) in values.into_iter().enumerate() {
            let key = [&user_key()[..], &[b"rsc"[n]], &TIMES[n].to_be_bytes(), &[b'e', b'1' + n as u8]].concat();
            keyspace("events").insert(key, value).unwrap();
        }
        database.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let store = EmbeddedStore::open(directory.path(), options(), std::sync::Arc::new(SystemClock)).unwrap();
    is_read_and_goes_on(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_of_schema_1() {
    let server = RedisServer::start(&[]);
    let mut connection = server.connection();
    let hash: String = user_key().iter().map(|byte| format!("{byte:02x}")).collect();
    let key = |name: char| format!("sesrec:{{{hash}}}:{name}");
    let meta = [&b"0000000000300000"[..], &7_u64.to_be_bytes()].concat();
    let _: () = redis::cmd("SET").arg(key('m')).arg(meta).query(&mut connection).unwrap();
    // Event id and search id, each after its length; then the value without them.
    let elements: [&[u8]; 3] = [
        b"\x00\x02e1\x00\x00\x01\x1a\x04\x0a\x02i1",
        b"\x00\x02e2\x00\x02s1\x01\x22\x0e\x12\x03red\x22\x03BOX\x2a\x02i2",
        b"\x00\x02e3\x00\x02s2\x01\x2a\x04\x12\x02i3",
    ];
    for (n, element) in elements.into_iter().enumerate() {
        let element = [&TIMES[n].to_be_bytes()[..], element].concat();
        let list = key(char::from(b"rsc"[n]));
        let _: () = redis::cmd("RPUSH").arg(list).arg(element).query(&mut connection).unwrap();
    }
    let store = RedisStore::connect(&server.url(), RedisOptions::default(), options()).await.unwrap();
    is_read_and_goes_on(&store).await;
}
