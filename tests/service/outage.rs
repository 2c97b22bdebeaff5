//! A store that is slow or away: what is refused at once, what is answered from copies, and until when.

use std::time::{Duration, Instant};

use sesrec::{proto::v1, service::OnStoreOutage};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::support::{Client, Fault, PATIENCE, TestServer, event, rank_request, recommendation};

/// A Rank with a deadline of its caller's, and how long its answer took.
async fn rank(client: &mut Client, user: &str, timeout: Duration) -> (Result<v1::RankResponse, Code>, Duration) {
    let mut request = Request::new(rank_request(user, &["i1"]));
    request.set_timeout(timeout);
    let started = Instant::now();
    let answer = client.rank(request).await;
    (answer.map(tonic::Response::into_inner).map_err(|status| status.code()), started.elapsed())
}

/// A server that has a copy of the history of user `u`, and whose probe does not notice an outage by itself.
async fn with_a_copy() -> (TestServer, Client) {
    let server = TestServer::with(|setup| setup.server.ping_interval = Duration::from_secs(3600)).await;
    let mut client = server.client().await;
    client.append_event(event("u", "e", 1, recommendation("i1"))).await.unwrap();
    let (answer, _) = rank(&mut client, "u", PATIENCE).await;
    assert!(!answer.unwrap().stale_history);
    (server, client)
}

#[tokio::test]
async fn a_full_server_refuses_before_it_asks_the_store() {
    let server = TestServer::with(|setup| setup.engine.max_queued_requests = 1).await;
    server.store.fail(Fault::Stalled);
    let mut client = server.client().await;
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { rank(&mut other, "u", Duration::from_secs(3)).await });
    server.until("waiting for the store", || async { server.store.load_calls() == 1 }).await;

    let (answer, _) = rank(&mut client, "v", PATIENCE).await;
    assert_eq!(answer.unwrap_err(), Code::ResourceExhausted);
    assert!(!waiting.is_finished(), "refused only when there was room again");
    assert_eq!(server.store.load_calls(), 1, "the store was asked for a request that was refused");

    // A place is free again once its holder has its answer.
    assert!(waiting.await.unwrap().0.is_err());
    server.store.fail(Fault::None);
    assert!(rank(&mut client, "v", PATIENCE).await.0.is_ok());
}

#[tokio::test]
async fn a_stalled_store_leaves_time_for_the_last_copy() {
    let (server, mut client) = with_a_copy().await;
    server.store.fail(Fault::Stalled);
    let (answer, time) = rank(&mut client, "u", Duration::from_secs(2)).await;
    let answer = answer.expect("less time than the store's timeout, and a copy");
    assert!(answer.stale_history && !answer.cold_start, "{time:?}");
    // Without a copy there is nothing to fall back to.
    let code = rank(&mut client, "stranger", Duration::from_secs(1)).await.0.unwrap_err();
    // The client's own timer may be first.
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
}

#[tokio::test]
async fn a_stalled_store_leaves_time_for_a_cold_start() {
    let server = TestServer::with(|setup| setup.service.on_store_outage = OnStoreOutage::ColdStart).await;
    let mut client = server.client().await;
    server.store.fail(Fault::Stalled);
    let (answer, _) = rank(&mut client, "stranger", Duration::from_secs(2)).await;
    let answer = answer.expect("a cold start");
    assert!(answer.cold_start && answer.stale_history);
    // GetHistory has none to leave time for.
    let mut request = Request::new(v1::GetHistoryRequest { user_id: "stranger".into(), ..Default::default() });
    request.set_timeout(Duration::from_secs(1));
    let code = client.get_history(request).await.unwrap_err().code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
}

#[tokio::test]
async fn a_known_outage_is_not_waited_for() {
    let server = TestServer::with(|setup| setup.service.timeouts.store = Duration::from_secs(4)).await;
    let mut client = server.client().await;
    client.append_event(event("u", "e", 1, recommendation("i1"))).await.unwrap();
    rank(&mut client, "u", PATIENCE).await.0.unwrap();
    server.store.fail(Fault::Stalled);
    server.until("not ready", || async { server.http("/readyz").await.starts_with("HTTP/1.1 503") }).await;
    let (answer, time) = rank(&mut client, "u", PATIENCE).await;
    assert!(answer.unwrap().stale_history);
    assert!(time < Duration::from_secs(3), "{time:?} is as long as the store's timeout");
    let (answer, time) = rank(&mut client, "stranger", PATIENCE).await;
    assert_eq!(answer.unwrap_err(), Code::Unavailable);
    assert!(time < Duration::from_secs(3), "{time:?} is as long as the store's timeout");

    server.store.fail(Fault::None);
    server.until("ready", || async { server.http("/readyz").await.starts_with("HTTP/1.1 200") }).await;
    assert!(!rank(&mut client, "u", PATIENCE).await.0.unwrap().stale_history);
}

#[tokio::test]
async fn copies_answer_for_ten_minutes_and_no_longer() {
    let (server, _) = with_a_copy().await;
    // On a connection of its own: keepalives of older ones have run out.
    let rank_after = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
        rank(&mut server.client().await, "u", PATIENCE).await.0
    };
    // An unchanged history is confirmed anew; a stale answer confirms nothing.
    assert!(!rank_after(500).await.unwrap().stale_history);
    server.store.fail(Fault::Unavailable);
    assert!(rank_after(500).await.unwrap().stale_history);
    assert_eq!(rank_after(110).await.unwrap_err(), Code::Unavailable);
    server.store.fail(Fault::None);
    assert!(!rank_after(1).await.unwrap().stale_history);
}

#[tokio::test]
async fn a_copy_of_what_expired_does_not_answer() {
    let (server, mut client) = with_a_copy().await;
    // The store has nothing of the user any more.
    server.store.fail(Fault::LaggingLoads(1));
    let answer = rank(&mut client, "u", PATIENCE).await.0.unwrap();
    assert!(answer.cold_start && !answer.stale_history);
    server.store.fail(Fault::Unavailable);
    assert_eq!(rank(&mut client, "u", PATIENCE).await.0.unwrap_err(), Code::Unavailable);
}

/// One that fails at once is the least loaded one: balancers would send it everything.
#[tokio::test]
async fn a_replica_whose_model_fails_is_not_ready_until_it_works() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    server.model.break_down(true);
    // Each has to be encoded, which works.
    for user in ["u1", "u2", "u3"] {
        assert_eq!(rank(&mut client, user, PATIENCE).await.0.unwrap_err(), Code::Internal);
    }
    let fails = async || server.http("/readyz").await.contains("the model fails: ");
    server.until("not ready", &fails).await;
    // As long as it does: the probe asks every 20 ms.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(fails().await);
    }
    server.model.break_down(false);
    server.until("ready", || async { server.http("/readyz").await.starts_with("HTTP/1.1 200") }).await;
    rank(&mut client, "u1", PATIENCE).await.0.unwrap();
}

/// Neither does one that hangs fail anything.
#[tokio::test]
async fn a_replica_whose_device_hangs_is_not_ready_until_it_gets_on() {
    let server = TestServer::with(|setup| setup.server.device_timeout = Duration::from_millis(100)).await;
    server.model.hold();
    let mut client = server.client().await;
    let hanging = tokio::spawn(async move { rank(&mut client, "u", PATIENCE).await });
    let stuck = async || server.http("/readyz").await.contains("the device has been at one batch for more than 100ms");
    server.until("not ready", &stuck).await;
    server.model.release();
    server.until("ready", || async { server.http("/readyz").await.starts_with("HTTP/1.1 200") }).await;
    assert!(hanging.await.unwrap().0.is_ok());
}

/// A password that was changed under a running replica is the operator's fault, not that of events or Ranks.
#[tokio::test]
async fn a_store_that_refuses_the_login_is_away() {
    let (server, mut client) = with_a_copy().await;
    server.store.fail(Fault::Refused);
    assert!(rank(&mut client, "u", PATIENCE).await.0.unwrap().stale_history);
    let status = client.append_event(event("u", "f", 2, recommendation("i2"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some() && !status.message().contains("password"), "{status}");
}

#[tokio::test]
async fn histories_beyond_the_limit_are_refused_at_once() {
    let server = TestServer::with(|setup| setup.service.concurrency.histories = 1).await;
    server.store.fail(Fault::Stalled);
    let mut client = server.client().await;
    let mut other = client.clone();
    let get = || v1::GetHistoryRequest { user_id: "u".into(), ..Default::default() };
    let waiting = tokio::spawn(async move { other.get_history(get()).await });
    server.until("waiting for the store", || async { server.store.load_calls() == 1 }).await;
    assert_eq!(client.get_history(get()).await.unwrap_err().code(), Code::ResourceExhausted);
    let erase = v1::DeleteHistoryRequest { user_id: "u".into() };
    let status = client.delete_history(erase.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(server.metric(r#"sesrec_requests_rejected_total{reason="histories"}"#), 2.0);

    server.store.fail(Fault::None);
    assert!(waiting.await.unwrap().is_ok());
    client.delete_history(erase).await.unwrap();
}
