//! The Redis store over several servers: replicas, a Sentinel, a Cluster; failovers, moving slots, silent nodes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sesrec::{
    domain::Deadline,
    history::{HistoryStore, Loaded, Outcome, RedisOptions, RedisStore, StoreError},
};

use crate::{
    fixture::*,
    redis_server::{Cluster, Guarded, RedisServer, redis_cli, until},
};

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

/// While a node is silent, and before anything has taken its place, its users are not waited for: their Ranks would take
/// up the places of the others'.
#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_a_silent_node_are_not_waited_for() {
    let cluster = Cluster::start();
    let store = connect(&cluster.url()).await;
    until("the cluster is up", async || store.ping(soon()).await.is_ok()).await;
    let users: Vec<_> = (0..40).map(|n| user(&format!("u{n}"))).collect();
    let load = async |user| {
        let started = Instant::now();
        let loaded = store.load(user, None, Deadline::after(Duration::from_secs(5))).await;
        (loaded.is_ok(), started.elapsed())
    };
    let load_all = async || futures::future::join_all(users.iter().map(load)).await;
    let silent = &cluster.nodes[0];
    silent.signal("STOP");
    let waited_for = |loads: &[(bool, Duration)]| {
        let of_silent = loads.iter().filter(|(loaded, _)| !loaded).map(|(_, took)| *took);
        of_silent.max().unwrap_or_default()
    };
    let first = load_all().await;
    assert!(waited_for(&first) > Duration::from_millis(400), "at first nobody knows: {first:?}");
    until("they are not waited for", async || waited_for(&load_all().await) < Duration::from_millis(200)).await;
    let loads = load_all().await;
    let served = loads.iter().filter(|(loaded, _)| *loaded).count();
    assert!((10..40).contains(&served), "those of the other nodes are served: {loads:?}");
    silent.signal("CONT");
    until("all are served", async || load_all().await.iter().all(|(loaded, _)| *loaded)).await;
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
