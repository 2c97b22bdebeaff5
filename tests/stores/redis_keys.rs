//! What the Redis store keeps in its keys, and what becomes of it under foreign hands and forgotten scripts.

use std::time::Duration;

use sesrec::history::{HistoryOptions, HistoryStore, Outcome, RedisOptions, RedisStore, StoreError};

use crate::{fixture::*, redis_server::RedisServer};

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_scripts_are_sent_again() {
    let server = RedisServer::start(&[]);
    let store = connect(&server.url()).await;
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut server.connection()).unwrap();
    let events: Vec<_> = (0..300).map(|n| of_user(&format!("u{n}"), recommendation("a", 1, "i"))).collect();
    let answers = store.append(&events, soon()).await;
    assert_eq!(answers.len(), events.len());
    for answer in answers {
        assert_eq!(answer.unwrap().outcome, Outcome::Applied);
    }
}

/// Two connections meet a server that has forgotten the script: whichever teaches it, no event of a user overtakes
/// another.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_forgotten_script_does_not_change_the_order() {
    let server = RedisServer::start(&[]);
    let store = connect(&server.url()).await;
    for round in 0..40_u64 {
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut server.connection()).unwrap();
        let events: Vec<_> = (0..240)
            .map(|n| of_user(&format!("u{round}-{}", n % 6), recommendation(&format!("e{n}"), 1000 + n, "i")))
            .collect();
        let answers = store.append(&events, soon()).await;
        assert_eq!(answers.len(), events.len());
        for (event, answer) in events.iter().zip(answers) {
            // Three fit: one that came late would be too old.
            assert_eq!(answer.unwrap().outcome, Outcome::Applied, "{event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused() {
    let server = RedisServer::start(&[]);
    let store = connect(&server.url()).await;
    append(&store, &recommendation("a", 1, "i")).await;
    let mut connection = server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*:r").query(&mut connection).unwrap();
    let mut element: Vec<u8> = redis::cmd("LINDEX").arg(&keys[0]).arg(0).query(&mut connection).unwrap();
    // Time 8, id length 2, id 1, search id length 2: then the schema byte.
    assert_eq!(element[13], 1);
    element[13] = 9;
    let _: () = redis::cmd("LSET").arg(&keys[0]).arg(0).arg(element).query(&mut connection).unwrap();
    let error = store.load(&user("u"), None, soon()).await.unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 9, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_erased_user_is_left_and_keys_expire() {
    let server = RedisServer::start(&[]);
    let time_to_live = Some(Duration::from_secs(3600));
    let options = HistoryOptions { time_to_live, ..options() };
    let store = RedisStore::connect(&server.url(), RedisOptions::default(), options).await.unwrap();
    let now = sesrec::domain::EventTime::now().nanos();
    for event in
        [recommendation("secret1", now, "shoe"), search("secret2", now, "sid", &[]), click("secret3", now, "sid", "i")]
    {
        assert_eq!(append(&store, &of_user("user-name", event)).await.outcome, Outcome::Applied);
    }
    let mut connection = server.connection();
    let mut keys = || redis::cmd("KEYS").arg("*").query::<Vec<String>>(&mut connection).unwrap();
    let full = keys();
    assert_eq!(full.len(), 5);
    let slot = |key: &String| key.split(['{', '}']).nth(1).unwrap().to_owned();
    assert!(full.iter().all(|key| slot(key) == slot(&full[0]) && !key.contains("user-name")));
    let mut expiry = server.connection();
    for key in &full {
        let left: i64 = redis::cmd("PTTL").arg(key).query(&mut expiry).unwrap();
        assert!((3_600_000..3_600_000 * 9 / 8).contains(&left), "{key} lives {left} ms");
    }
    store.delete(&user("user-name"), soon()).await.unwrap();
    let left = keys();
    assert_eq!(left.len(), 1, "{left:?}");
    let meta: Vec<u8> = redis::cmd("GET").arg(&left[0]).query(&mut expiry).unwrap();
    assert_eq!(meta.len(), 24, "version and erasure only");
    let lives: i64 = redis::cmd("PTTL").arg(&left[0]).query(&mut expiry).unwrap();
    assert!(lives >= 3_600_000);
}

/// The usual append, a new event newer than all others, reads no list, however long they are.
#[tokio::test(flavor = "multi_thread")]
async fn the_usual_append_reads_no_list() {
    let server = RedisServer::start(&[]);
    let store = connect(&server.url()).await;
    for n in 0..20 {
        append(&store, &recommendation(&format!("r{n}"), 10 * n, "i")).await;
        append(&store, &search(&format!("s{n}"), 10 * n, "s", &[])).await;
    }
    let mut connection = server.connection();
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query(&mut connection).unwrap();
    for n in 20..40 {
        assert_eq!(append(&store, &recommendation(&format!("r{n}"), 10 * n, "i")).await.outcome, Outcome::Applied);
        assert_eq!(append(&store, &search(&format!("s{n}"), 10 * n, "s", &[])).await.outcome, Outcome::Applied);
    }
    assert_eq!(append(&store, &search("s39", 390, "s", &[])).await.outcome, Outcome::Duplicate);
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut connection).unwrap();
    assert!(stats.contains("cmdstat_evalsha") && !stats.contains("cmdstat_lrange"), "{stats}");
}

/// The index of event ids is made anew after it was lost, and after somebody else wrote past it.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_not_current_is_not_believed() {
    let server = RedisServer::start(&[]);
    let store = connect(&server.url()).await;
    append(&store, &recommendation("a", 10, "i")).await;
    let mut connection = server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let key = |name: &str| keys.iter().find(|key| key.ends_with(name)).unwrap();
    let _: () = redis::cmd("DEL").arg(key(":i")).query(&mut connection).unwrap();
    assert_eq!(append(&store, &recommendation("a", 11, "i")).await.outcome, Outcome::Conflict);
    assert_eq!(append(&store, &recommendation("b", 12, "i")).await.outcome, Outcome::Applied);
    let indexed: usize = redis::cmd("SCARD").arg(key(":i")).query(&mut connection).unwrap();
    assert_eq!(indexed, 3, "two events and the version");

    // As a program does that doesn't know of the index: the number of events stays, the version steps.
    let mut element: Vec<u8> = redis::cmd("LPOP").arg(key(":r")).query(&mut connection).unwrap();
    element[10] = b'c';
    let _: () = redis::cmd("LPUSH").arg(key(":r")).arg(element).query(&mut connection).unwrap();
    let _: () = redis::cmd("SETRANGE").arg(key(":m")).arg(0).arg("8").query(&mut connection).unwrap();
    assert_eq!(append(&store, &recommendation("c", 13, "i")).await.outcome, Outcome::Conflict);
    assert_eq!(append(&store, &recommendation("a", 14, "i")).await.outcome, Outcome::Applied);
    assert_eq!(append(&store, &recommendation("c", 15, "i")).await.outcome, Outcome::Conflict);
}

/// What another program has put in a user's place is that user's, and no outage.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_of_ours_is_corrupt() {
    let server = RedisServer::start(&[]);
    let store = connect(&server.url()).await;
    append(&store, &recommendation("a", 1, "i")).await;
    let mut connection = server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*:r").query(&mut connection).unwrap();
    let _: () = redis::cmd("SET").arg(&keys[0]).arg("x").query(&mut connection).unwrap();
    let both = [recommendation("b", 2, "i"), of_user("other", recommendation("b", 2, "i"))];
    let mut answers = store.append(&both, soon()).await;
    assert_eq!(answers.pop().unwrap().unwrap().outcome, Outcome::Applied);
    assert!(matches!(answers.pop().unwrap(), Err(StoreError::Corrupt(_))));
    assert!(matches!(store.load(&user("u"), None, soon()).await, Err(StoreError::Corrupt(_))));
    // An element that the scripts can't take apart.
    let _: () = redis::cmd("DEL").arg(&keys[0]).query(&mut connection).unwrap();
    let _: () = redis::cmd("RPUSH").arg(&keys[0]).arg("x").query(&mut connection).unwrap();
    let answer = store.append(&[recommendation("c", 3, "i")], soon()).await.remove(0);
    assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{answer:?}");
}
