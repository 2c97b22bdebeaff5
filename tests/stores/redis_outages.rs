//! The Redis store where its one server is away, stalled, demoted, guarded, or takes no writes.

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
    redis_server::{RedisServer, ports::Port, until},
};

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
