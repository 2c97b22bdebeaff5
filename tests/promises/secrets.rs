//! The commands with TLS and tokens, and what logs say of secrets and of erased users: nothing.

use std::process::Output;

use sesrec::proto::v1::{self, Outcome, event::Payload, search::QueryForm};
use tonic::Code;

use crate::{
    bundle,
    certificates::Authority,
    checker::Checker,
    program::{self, said},
    redis_server::RedisServer,
    server::Server,
};

fn sesrec(arguments: &[&str]) -> Output {
    program::sesrec().args(arguments).output().unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, reason: &str) {
    let said = said(output);
    assert!(!output.status.success() && said.contains(reason), "{reason:?} is not in {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_with_tokens_and_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let authority = Authority::new();
    let (server, client) = (authority.certify(), authority.certify());
    for (name, text) in [
        ("ca.pem", &authority.pem()),
        ("server.pem", &server.certificate),
        ("server.key", &server.key),
        ("client.pem", &client.certificate),
        ("client.key", &client.key),
    ] {
        std::fs::write(file(name), text).unwrap();
    }
    let token = |name: &str, rights: &str| {
        let output = sesrec(&["token", name, "--rights", rights, "--file", &file("tokens.toml")]);
        assert!(output.status.success(), "{}", said(&output));
        let secret = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        std::fs::write(file(name), format!("{secret}\n")).unwrap();
        secret
    };
    let feed = token("feed", "rank");
    let again = sesrec(&["token", "feed", "--rights", "rank", "--file", &file("tokens.toml")]);
    assert_refused(&again, "a token named \"feed\" is there already");

    bundle::write(&directory.path().join("bundle"), 1);
    let arguments = [
        "--tokens",
        &file("tokens.toml"),
        "--tls-certificate",
        &file("server.pem"),
        "--tls-key",
        &file("server.key"),
        "--tls-client-ca",
        &file("ca.pem"),
        "--log",
        "trace",
    ];
    let server = Server::start(directory.path(), &directory.path().join("bundle"), "memory", &arguments);
    server.logged("tokens=true", 0).await;
    let url = format!("https://localhost:{}", server.port());
    let tls =
        ["--ca", &file("ca.pem"), "--client-certificate", &file("client.pem"), "--client-key", &file("client.key")];
    let call = |arguments: &[&str], token: Option<&str>| {
        let credentials = token.map(|token| vec!["--token", token]).unwrap_or_default();
        sesrec(&[arguments, &["--server", &url], &tls, &credentials].concat())
    };

    let ranked = call(&["rank", "u1", "i1", "i2"], Some(&format!("@{}", file("feed"))));
    assert!(ranked.status.success() && said(&ranked).contains("i2"), "{}", said(&ranked));
    assert_refused(&call(&["rank", "u1", "i1"], None), "--token says who you are");
    assert_refused(&call(&["history", "u1", "--delete", "--yes"], Some(&feed)), "no right to admin");
    let uncertified = sesrec(&["rank", "u1", "i1", "--server", &url, "--ca", &file("ca.pem"), "--token", &feed]);
    assert_refused(&uncertified, "--client-certificate FILE if it asks for one");

    // A token that is added while the server runs; one that is taken away.
    let logs = token("logs", "append");
    assert_refused(&call(&["append", "--user", "u1", "--item", "i3"], Some(&logs)), "--token says who you are");
    server.signal("HUP");
    server.logged("tokens read anew", 0).await;
    let appended = call(&["append", "--user", "u1", "--item", "i3"], Some(&logs));
    assert!(appended.status.success(), "{}", said(&appended));
    let events = file("events.ndjson");
    let now = jiff::Timestamp::now();
    let event = format!(r#"{{"eventId":"e1","userId":"u1","time":"{now}","recommendation":{{"itemId":"i7"}}}}"#);
    std::fs::write(&events, event).unwrap();
    let ingested = call(&["ingest", &events], Some(&logs));
    assert!(ingested.status.success(), "{}", said(&ingested));
    let text = std::fs::read_to_string(file("tokens.toml")).unwrap();
    let without_feed = &text[text.find("[logs]").unwrap()..];
    std::fs::write(file("tokens.toml"), without_feed).unwrap();
    server.signal("HUP");
    server.logged("tokens read anew", 1).await;
    assert_refused(&call(&["rank", "u1", "i1"], Some(&feed)), "--token says who you are");

    let log = server.log();
    assert!(log.contains("caller"), "the log says who calls");
    for secret in [&feed, &logs] {
        assert!(!log.contains(secret.as_str()), "a token is in the log");
        assert!(!log.contains(&secret["sesrec_".len()..]), "a token is in the log");
    }
    assert!(!log.contains("PRIVATE KEY"));
}

/// Also while Redis is away, which is logged, and where the password is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stores_password_is_in_no_log() {
    const PASSWORD: &str = "correct-horse-battery";
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle");
    bundle::write(&bundle, 1);
    let mut redis = RedisServer::start(&["--requirepass", PASSWORD]);
    let store = |password: &str| format!("redis://:{password}@127.0.0.1:{}", redis.port());
    let (wrong, model) = (store("wrong-horse"), bundle.to_str().unwrap());
    let refused = ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--store", &wrong, "--model", model];
    let refused = sesrec(&refused);
    let complaint = said(&refused);
    assert!(!refused.status.success() && complaint.contains("refuses the user or password"), "{complaint}");
    assert!(!complaint.contains("wrong-horse"), "{complaint}");

    let mut server = Server::start(directory.path(), &bundle, &store(PASSWORD), &["--log", "trace"]);
    server.ready().await;
    let rank = v1::RankRequest { user_id: "u1".into(), candidate_item_ids: vec!["i1".into()], ..Default::default() };
    server.client().rank(rank.clone()).await.unwrap();
    redis.kill();
    server.logged("not ready", 0).await;
    redis.start_again();
    server.ready().await;
    server.client().rank(rank).await.unwrap();
    let log = server.log();
    assert!(log.contains("TRACE"), "everything is logged");
    assert!(!log.contains(PASSWORD), "the password is in the log");
}

/// Whatever is asked of a user, wrong requests among it, at the level that servers log at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_in_no_log() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle");
    bundle::write(&bundle, 1);
    let store = format!("embedded:{}", directory.path().join("store").display());
    let mut server = Server::start(directory.path(), &bundle, &store, &[]);
    server.ready().await;
    let mut client = server.client();
    let search = v1::Search {
        search_id: "their-search".into(),
        query_form: Some(QueryForm::Query("their-words".into())),
        clicked_item_ids: vec!["their-click".into()],
        ..Default::default()
    };
    let event = v1::Event {
        event_id: "their-event".into(),
        user_id: "their-name".into(),
        payload: Some(Payload::Search(search)),
        ..Checker::new(1).event(0)
    };
    let append = v1::AppendEventRequest { event: Some(event) };
    client.append_event(append.clone()).await.unwrap();
    let rank = v1::RankRequest {
        user_id: "their-name".into(),
        candidate_item_ids: vec!["i1".into(), "their-item".into()],
        explain: true,
        ..Default::default()
    };
    client.rank(rank.clone()).await.unwrap();
    let wrong = v1::RankRequest { candidate_item_ids: vec!["their-item\0".into()], ..rank };
    assert_eq!(client.rank(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    let mut conflict = append.clone();
    conflict.event.as_mut().unwrap().payload =
        Some(Payload::Recommendation(v1::Recommendation { item_id: "their-item".into() }));
    assert_eq!(client.append_event(conflict).await.unwrap_err().code(), Code::AlreadyExists);
    client.delete_history(v1::DeleteHistoryRequest { user_id: "their-name".into() }).await.unwrap();
    assert_eq!(client.append_event(append).await.unwrap().into_inner().outcome(), Outcome::TooOld);
    server.signal("TERM");
    assert_eq!(server.ended().await, Some(0));
    let log = server.log();
    assert!(log.contains("stopped"), "{log}");
    assert!(!log.contains("their-"), "{log}");
}
