//! The Redis store under restarts, stalls, forgotten scripts and foreign hands.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sesrec::{
    domain::Deadline,
    history::{HistoryOptions, HistoryStore, Loaded, Outcome, RedisOptions, RedisStore, StoreError},
};

use crate::{
    certificates::Authority,
    fixture::*,
    redis_server::{Cluster, Guarded, RedisServer, ports::Port, redis_cli, until},
};

async fn connect(url: &str) -> RedisStore {
    RedisStore::connect(url, RedisOptions::default(), options()).await.unwrap()
}

/// Waits until a store has found a server that was started again.
async fn found(store: &RedisStore) {
    until("the store finds its server", async || store.ping(soon()).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_survived() {
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = connect(&server.url()).await;
    assert_eq!(append(&store, &recommendation("a", 1, "i")).await.outcome, Outcome::Applied);
    server.kill();
    let started = Instant::now();
    let error = store.append(&[recommendation("b", 2, "i")], soon()).await.remove(0).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(15), "an outage is told soon, not at the deadline of 30 s");
    assert!(matches!(store.load(&user("u"), None, soon()).await, Err(StoreError::Unavailable(_))));
    assert!(store.ping(soon()).await.is_err());
    server.start_again();
    // The same store, without a restart of its own; the scripts are new to the server.
    found(&store).await;
    assert_eq!(append(&store, &recommendation("b", 2, "i")).await.outcome, Outcome::Applied);
    assert_eq!(append(&store, &recommendation("a", 1, "i")).await.outcome, Outcome::Duplicate);
    assert_eq!(view(&store, &user("u")).await.recommendation_events.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_at_the_start_is_no_error() {
    let mut server = RedisServer::start(&[]);
    server.kill();
    let store = connect(&server.url()).await;
    assert!(store.ping(soon()).await.is_err());
    server.start_again();
    found(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_server_meets_deadlines() {
    let server = RedisServer::start(&[]);
    let store = Arc::new(connect(&server.url()).await);
    append(&*store, &recommendation("a", 1, "i")).await;
    server.signal("STOP");
    let calls = (0..50).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let (started, deadline) = (Instant::now(), Deadline::after(Duration::from_millis(300)));
            let error = if n % 2 == 0 {
                store.append(&[recommendation("b", 2, "i")], deadline).await.remove(0).unwrap_err()
            } else {
                store.load(&user("u"), None, deadline).await.unwrap_err()
            };
            assert!(matches!(error, StoreError::Deadline), "{error}");
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    server.signal("CONT");
    found(&store).await;
    // Whether the append took place was unknown: it did, or does now.
    let outcome = append(&*store, &recommendation("b", 2, "i")).await.outcome;
    assert!(matches!(outcome, Outcome::Applied | Outcome::Duplicate));
    assert_eq!(view(&*store, &user("u")).await.recommendation_events.len(), 2);
}

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

/// A primary that came back as a replica, with no script: every attempt is refused on a new connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_server_without_scripts_is_not_hammered() {
    let server = RedisServer::start(&[]);
    let redis = RedisOptions { retry_for: Duration::from_secs(2), ..RedisOptions::default() };
    let store = RedisStore::connect(&server.url(), redis, options()).await.unwrap();
    // Of nobody.
    let port = Port::claim();
    let mut connection = server.connection();
    let _: () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port.number()).query(&mut connection).unwrap();
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut connection).unwrap();
    let mut connections = || -> u64 {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut connection).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse().unwrap()
    };
    let (before, started) = (connections(), Instant::now());
    let error = store.append(&[recommendation("a", 1, "i")], soon()).await.remove(0).unwrap_err();
    assert!(error.to_string().contains("read only replica"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(15), "an outage is told soon");
    // Pauses of 5, 10, 20, 40, 80, 100, 100, … ms: 24 of them fit in the 2 s of retries.
    let made = connections() - before;
    assert!((1..=28).contains(&made), "{made} connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_and_not_repeated() {
    let server = RedisServer::start(&["--requirepass", "right"]);
    for credentials in ["", ":hunter2@"] {
        let url = format!("redis://{credentials}127.0.0.1:{}", server.port());
        let error = match RedisStore::connect(&url, RedisOptions::default(), options()).await {
            Ok(store) => panic!("{credentials:?} is not enough, but: {:?}", store.ping(soon()).await),
            Err(error) => error,
        };
        assert!(matches!(error, StoreError::Config(_)), "{error}");
        assert!(!error.to_string().contains("hunter2"));
    }
    connect(&format!("redis://:right@127.0.0.1:{}/2", server.port())).await.ping(soon()).await.unwrap();
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

/// A server that takes no writes answers reads, also of users of whom something is past its time.
#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_where_writes_are_refused() {
    let server = RedisServer::start(&[]);
    let clock = TestClock::at(START_MICROS);
    let redis = RedisOptions { clock: Some(clock.clone()), ..RedisOptions::default() };
    let options = HistoryOptions { time_to_live: Some(Duration::from_secs(100)), ..options() };
    let store = RedisStore::connect(&server.url(), redis, options).await.unwrap();
    for (n, event) in
        [recommendation("a", 0, "i"), search("s", 0, "s1", &[]), recommendation("b", 0, "j")].iter().enumerate()
    {
        let mut event = event.clone();
        event.time = sesrec::domain::EventTime::from_nanos((START_MICROS + n as u64) * 1000).unwrap();
        append(&store, &event).await;
    }
    let before = view(&store, &user("u")).await;
    // The first two are past their time.
    clock.advance(100_000_002);
    let mut connection = server.connection();
    let mut set = |replicas: u32| -> () {
        redis::cmd("CONFIG")
            .arg(&["SET", "min-replicas-to-write", &replicas.to_string()])
            .query(&mut connection)
            .unwrap()
    };
    set(1);
    let names = |view: &sesrec::domain::UserHistoryView| -> Vec<String> {
        view.recommendation_events.iter().map(|event| event.event_id.to_string()).collect()
    };
    for known in [None, Some(before.version)] {
        let read = store.load(&user("u"), known, soon()).await.unwrap();
        let Loaded::Unwritten(read) = read else { panic!("nothing may be kept under that version: {read:?}") };
        assert_eq!((names(&read), read.version), (vec!["b".to_owned()], before.version));
        assert!(read.search_events.is_empty());
    }
    let refused = store.append(&[recommendation("c", (START_MICROS + 50_000_000) * 1000, "i")], soon()).await.remove(0);
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    set(0);
    let after = view(&store, &user("u")).await;
    assert_eq!(names(&after), ["b"]);
    assert!(after.version > before.version, "what went has gone");
}

/// Also over a connection that begins then.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_save_is_read() {
    let server = RedisServer::start(&["--save", "3600 1000000", "--enable-protected-configs", "local"]);
    append(&connect(&server.url()).await, &recommendation("a", 1, "i")).await;
    let mut connection = server.connection();
    let mut ask = |words: &[&str]| -> redis::RedisResult<redis::Value> {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
    };
    ask(&["CONFIG", "SET", "dir", "/proc"]).unwrap();
    ask(&["BGSAVE"]).unwrap();
    until("writes are refused", async || ask(&["SET", "x", "y"]).is_err_and(|error| error.code() == Some("MISCONF")))
        .await;
    let store = connect(&server.url()).await;
    assert_eq!(view(&store, &user("u")).await.recommendation_events.len(), 1);
    let refused = store.append(&[recommendation("b", 2, "i")], soon()).await.remove(0);
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    store.ping(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_see_each_other() {
    let server = RedisServer::start(&[]);
    let (one, other) = (connect(&server.url()).await, connect(&server.url()).await);
    let version = append(&one, &recommendation("a", 1, "i")).await.version;
    assert_eq!(other.load(&user("u"), Some(version), soon()).await.unwrap(), Loaded::Unchanged);
    let later = append(&other, &recommendation("b", 2, "i")).await.version;
    assert!(later > version);
    assert_eq!(view(&one, &user("u")).await.version, later);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_also_while_slots_move() {
    let cluster = Cluster::start();
    let (nodes, address, url) = (&cluster.nodes, cluster.addresses().remove(0), cluster.url());
    let store = connect(&url).await;
    until("the cluster is up", async || store.ping(soon()).await.is_ok()).await;

    let events = |round: u64| -> Vec<_> {
        (0..400)
            .map(|n| of_user(&format!("u{}", n % 100), recommendation(&format!("e{round}-{n}"), 1000 * round + n, "i")))
            .collect()
    };
    for answer in store.append(&events(1), soon()).await {
        assert_eq!(answer.unwrap().outcome, Outcome::Applied);
    }
    for node in nodes {
        let keys: usize = redis::cmd("DBSIZE").query(&mut node.connection()).unwrap();
        assert!(keys > 20, "users are spread over the nodes");
    }
    // Two thousand slots move from one node to another while events come in.
    let id = |port: u16| redis_cli(&["-p", &port.to_string(), "cluster", "myid"]).trim().to_owned();
    let (from, to) = (id(nodes[0].port()), id(nodes[1].port()));
    let moving = tokio::task::spawn_blocking(move || {
        let arguments = ["--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", "2000", "--cluster-yes"];
        redis_cli(&[&["--cluster", "reshard", &address], &arguments[..]].concat())
    });
    for round in 2..30 {
        let mut waiting = events(round);
        until("every append gets through", async || {
            let answers = store.append(&waiting, soon()).await;
            let failed = answers.iter().map(Result::is_err);
            waiting =
                waiting.iter().zip(failed).filter(|&(_, failed)| failed).map(|(event, _)| event.clone()).collect();
            waiting.is_empty()
        })
        .await;
    }
    moving.await.unwrap();
    for n in 0..100 {
        let view = view(&store, &user(&format!("u{n}"))).await;
        let newest: Vec<_> = view.recommendation_events.iter().map(|event| event.event_id.to_string()).collect();
        assert_eq!(newest, [n + 100, n + 200, n + 300].map(|n| format!("e29-{n}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_names_the_new_primary() {
    let mut guarded = Guarded::start(1).await;
    let store = connect(&guarded.url()).await;
    let version = append(&store, &recommendation("a", 1, "i")).await.version;
    // Replication is asynchronous, and WAIT speaks only for its own connection's writes: look at the replica itself.
    let port = guarded.replicas().next().unwrap().port().to_string();
    until("the event is replicated", async || redis_cli(&["-p", &port, "dbsize"]).trim() != "0").await;
    guarded.kill_primary();
    let event = [recommendation("b", 2, "i")];
    until("the replica takes over", async || store.append(&event, soon()).await[0].is_ok()).await;
    let view = view(&store, &user("u")).await;
    assert_eq!(view.recommendation_events.len(), 2);
    assert!(view.version > version);
}

/// A kill in the middle of Redis's last write: the append is gone as a whole, and doesn't come back beside its
/// repetition.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_append_is_not_carried_out_later() {
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = connect(&server.url()).await;
    assert_eq!(append(&store, &recommendation("a", 1, "i")).await.outcome, Outcome::Applied);
    assert_eq!(append(&store, &recommendation("b", 2, "i")).await.outcome, Outcome::Applied);
    server.kill();
    // The transaction's end and a part of its last command.
    server.tear(20);
    for outcome in [Outcome::Applied, Outcome::Duplicate] {
        server.start_again();
        found(&store).await;
        for event in [recommendation("b", 2, "i"), recommendation("c", 3, "i")] {
            assert_eq!(append(&store, &event).await.outcome, outcome);
        }
        let view = view(&store, &user("u")).await;
        let stored: Vec<_> = view.recommendation_events.iter().map(|event| event.event_id.as_str()).collect();
        assert_eq!(stored, ["a", "b", "c"]);
        server.kill();
    }
}

/// What a failover may lose without `wait`, and doesn't with it.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_replica_has_is_acknowledged_where_that_is_asked_for() {
    let primary = RedisServer::start(&[]);
    let replica = RedisServer::start(&[]);
    replica.follow(&primary).await;
    let port = replica.port().to_string();
    let waiting_for = async |retry_for| {
        let redis = RedisOptions { wait: 1, retry_for, ..RedisOptions::default() };
        RedisStore::connect(&primary.url(), redis, options()).await.unwrap()
    };
    let waiting = async || waiting_for(RedisOptions::default().retry_for).await;
    let refused = async |store: &RedisStore, id: &str| {
        let error = store.append(&[recommendation(id, 5, "i")], soon()).await.remove(0).unwrap_err();
        assert!(error.to_string().contains("fewer than 1 replicas have it"), "{error}");
    };
    let (plain, careful) = (connect(&primary.url()).await, waiting().await);
    // A busy machine's replica is not refused what it only needs time for.
    let patient = waiting_for(Duration::from_secs(20)).await;
    for outcome in [Outcome::Applied, Outcome::Duplicate] {
        assert_eq!(append(&patient, &recommendation("a", 1, "i")).await.outcome, outcome);
    }

    // The replica stands still, then goes its own way.
    replica.signal("STOP");
    assert_eq!(append(&plain, &recommendation("b", 5, "i")).await.outcome, Outcome::Applied);
    refused(&careful, "c").await;
    // A repetition writes nothing, on a connection that has written nothing: what it repeats is not replicated all the
    // same.
    refused(&waiting().await, "b").await;
    replica.signal("CONT");
    let event = [recommendation("c", 5, "i")];
    until("the replica has it", async || careful.append(&event, soon()).await[0].is_ok()).await;
    redis_cli(&["-p", &port, "replicaof", "no", "one"]);
    assert_eq!(append(&plain, &recommendation("lost", 6, "i")).await.outcome, Outcome::Applied);
    refused(&careful, "d").await;
    assert!(matches!(careful.delete(&user("u"), soon()).await, Err(StoreError::Unavailable(_))));

    // As after a failover to it: what was acknowledged without waiting is gone.
    let view = view(&connect(&replica.url()).await, &user("u")).await;
    let stored: Vec<_> = view.recommendation_events.iter().map(|event| event.event_id.as_str()).collect();
    assert_eq!(stored, ["a", "b", "c"]);
    let cluster = RedisOptions { wait: 1, ..RedisOptions::default() };
    let error = RedisStore::connect("redis+cluster://127.0.0.1:1", cluster, options()).await.err().unwrap();
    assert!(matches!(error, StoreError::Config(_)), "{error}");
}

/// A host that is gone without a word, named by the URL: the other nodes' users are served all the same, by stores that
/// were connected before and by new ones. Once another has taken the slots over, all are.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_node_is_silent_serves_the_others_and_then_all() {
    let cluster = Cluster::with_replicas().await;
    let store = connect(&cluster.url()).await;
    until("the cluster is up", async || store.ping(soon()).await.is_ok()).await;
    let events: Vec<_> = (0..40).map(|n| of_user(&format!("u{n}"), recommendation("a", 1, "i"))).collect();
    for answer in store.append(&events, soon()).await {
        assert_eq!(answer.unwrap().outcome, Outcome::Applied);
    }
    let soon = || Deadline::after(Duration::from_millis(500));
    let loaded = async |store: &RedisStore| {
        let users: Vec<_> = (0..40).map(|n| user(&format!("u{n}"))).collect();
        let loads = users.iter().map(|user| store.load(user, None, soon()));
        futures::future::join_all(loads).await.iter().filter(|loaded| loaded.is_ok()).count()
    };
    assert_eq!(loaded(&store).await, 40);
    // The URL's first.
    let silent = &cluster.nodes[0];
    silent.signal("STOP");
    let stopped = Instant::now();
    let new = connect(&cluster.url()).await;
    for store in [&store, &new] {
        until("those of the other nodes", async || loaded(store).await >= 10).await;
    }
    println!("others are served after {:?}", stopped.elapsed());
    for store in [&store, &new] {
        until("all are served", async || loaded(store).await == 40).await;
    }
    println!("all are served after {:?}", stopped.elapsed());
    assert!(store.ping(Deadline::after(Duration::from_secs(5))).await.is_ok());
    silent.signal("CONT");
}

/// Repeated until a replica has it, an append was carried out the first time: that is what its caller is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_waits_for_replicas_answers_as_it_was_carried_out() {
    let (primary, replica) = (RedisServer::start(&[]), RedisServer::start(&[]));
    replica.follow(&primary).await;
    let redis = RedisOptions { wait: 1, retry_for: Duration::from_secs(60), ..RedisOptions::default() };
    let store = Arc::new(RedisStore::connect(&primary.url(), redis, options()).await.unwrap());
    replica.signal("STOP");
    let waiting = store.clone();
    let appended = tokio::spawn(async move { append(&*waiting, &recommendation("a", 1, "i")).await });
    let port = primary.port().to_string();
    let mut ended = 0;
    until("WAIT ends early, twice", async || {
        let clients = redis_cli(&["-p", &port, "client", "list"]);
        let blocked = clients.lines().filter(|client| client.contains(" flags=b "));
        for id in blocked.filter_map(|client| client.split_whitespace().next()?.strip_prefix("id=")) {
            let answer = redis_cli(&["-p", &port, "client", "unblock", id]);
            ended += answer.trim().parse::<usize>().unwrap_or(0);
        }
        ended >= 2
    })
    .await;
    replica.signal("CONT");
    assert_eq!(appended.await.unwrap().outcome, Outcome::Applied);
}

/// Passes bytes on, until it no longer does: then its connections stay open and nothing comes, as of a host that is
/// gone.
struct Proxy {
    address: std::net::SocketAddr,
    /// Connections up to this one, counted from 1, are dead.
    dead: tokio::sync::watch::Sender<usize>,
}

impl Proxy {
    async fn to(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, dead) = (listener.local_addr().unwrap(), tokio::sync::watch::Sender::new(0));
        let state = dead.subscribe();
        tokio::spawn(async move {
            for number in 1.. {
                let Ok((mut near, _)) = listener.accept().await else { return };
                let mut state = state.clone();
                tokio::spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let died = async { state.wait_for(|&dead| number <= dead).await.is_ok() };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        // Both sockets stay open.
                        _ = died => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, dead }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_been_silent_for_too_long_is_given_up() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::to(server.port()).await;
    let redis = RedisOptions { connections: 1, ..RedisOptions::default() };
    let store = RedisStore::connect(&format!("redis://{}", proxy.address), redis, options()).await.unwrap();
    append(&store, &recommendation("a", 1, "i")).await;
    proxy.dead.send(1).unwrap();
    let silent = Instant::now();
    until("another connection is made", async || {
        store.load(&user("u"), None, Deadline::after(Duration::from_millis(200))).await.is_ok()
    })
    .await;
    assert!(silent.elapsed() > Duration::from_secs(2), "given up after {:?}", silent.elapsed());
}

/// `rediss://` with a password, and with a user of Redis's access control list.
#[tokio::test(flavor = "multi_thread")]
async fn tls_with_password_and_user() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let certified = authority.certify();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = (file("server.pem", &certified.certificate), file("server.key", &certified.key));
    let (ca, tls_port) = (file("ca.pem", &authority.pem()), Port::claim());
    let tls_port = tls_port.number().to_string();
    let tls = ["--tls-port", &tls_port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let callers = ["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no", "--requirepass", "right"];
    let user_of_ours = ["--user", "sesrec", "on", ">secret", "~sesrec:*", "+@all", "-@dangerous"];
    let _server = RedisServer::start(&[&tls[..], &callers, &user_of_ours].concat());
    let connect = async |login: &str, root: &Authority| {
        let redis = RedisOptions { root_certificate: Some(root.pem().into_bytes()), ..RedisOptions::default() };
        let url = format!("rediss://{login}@localhost:{tls_port}");
        let store = RedisStore::connect(&url, redis, options()).await?;
        store.append(&[recommendation("a", 1, "i")], soon()).await.remove(0)
    };
    assert_eq!(connect(":right", &authority).await.unwrap().outcome, Outcome::Applied);
    assert_eq!(connect("sesrec:secret", &authority).await.unwrap().outcome, Outcome::Duplicate);
    for wrong in [":secret", "sesrec:right", "stranger:secret"] {
        let error = connect(wrong, &authority).await.unwrap_err();
        assert!(matches!(&error, StoreError::Config(reason) if !reason.contains("secret")), "{error}");
    }
    assert!(matches!(connect(":right", &stranger).await, Err(StoreError::Unavailable(_))), "an unknown authority");
}
