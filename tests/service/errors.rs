//! Each row of the contract's error table, with its details.

use std::time::{Duration, Instant};

use sesrec::{
    domain::{EventTime, HistoryVersion},
    history::HistoryToken,
    proto::v1,
    service::{ERROR_DOMAIN, OnStoreOutage},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{Fault, PATIENCE, TestServer, event, ids, rank_request, recommendation};

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, ERROR_DOMAIN);
    info.reason
}

fn retry(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|retry| retry.retry_delay)
}

#[tokio::test]
async fn invalid_requests_name_each_field() {
    let server = TestServer::with(|setup| setup.service.max_candidates = 2).await;
    let mut client = server.client().await;
    let request = v1::RankRequest { history_token: "nonsense".into(), ..rank_request("", &["i1", "i2", "i3"]) };
    let status = client.rank(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let fields = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = fields.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["user_id", "candidate_item_ids", "history_token"]);

    let status = client.append_event(v1::AppendEventRequest::default()).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "event");
    for status in [
        client.get_history(v1::GetHistoryRequest::default()).await.unwrap_err(),
        client.delete_history(v1::DeleteHistoryRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "user_id");
    }
}

#[tokio::test]
async fn ten_thousand_bad_candidates_still_fit_an_answer() {
    let server = TestServer::start().await;
    let status = server.client().await.rank(rank_request("u", &[""; 10_000])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("and 9997 more"), "{}", status.message());
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let server = TestServer::with(|setup| setup.engine.max_queued_requests = 1).await;
    server.model.hold();
    let client = server.client().await;
    let call = || {
        let mut client = client.clone();
        async move { client.rank(rank_request("u", &["i1"])).await }
    };
    let first = tokio::spawn(call());
    server.until("computing", || async { server.model.calls() == 1 }).await;
    // While the device is held, whoever is answered has not waited for it.
    for _ in 0..15 {
        let status = tokio::time::timeout(PATIENCE, call()).await.expect("at once").unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
        assert!(retry(&status).is_some());
    }
    server.model.release();
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn deadlines_are_kept_and_named() {
    let server = TestServer::with(|setup| {
        setup.service.timeouts.default = Duration::from_millis(100);
        setup.service.timeouts.maximum = Duration::from_millis(150);
    })
    .await;
    server.model.hold();
    let mut client = server.client().await;
    let status = client.rank(rank_request("u", &["i1"])).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));

    // A caller with more patience than the server allows, while the device is still busy.
    let mut request = tonic::Request::new(rank_request("u", &["i1"]));
    request.set_timeout(Duration::from_secs(20));
    let status = client.rank(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(server.metric(r#"sesrec_requests_total{rpc="Rank",code="DEADLINE_EXCEEDED"}"#), 2.0);
    server.model.release();
}

#[tokio::test]
async fn a_store_that_is_away_fails_appends() {
    let server = TestServer::with(|setup| setup.service.timeouts.store = Duration::from_millis(100)).await;
    let mut client = server.client().await;
    for fault in [Fault::Unavailable, Fault::Stalled] {
        server.store.fail(fault);
        let status = client.append_event(event("u", "e", 1, recommendation("i1"))).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{fault:?}");
        assert!(retry(&status).is_some());
        let status = client.delete_history(v1::DeleteHistoryRequest { user_id: "u".into() }).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
    }
    // The request's own deadline is another matter.
    let mut request = tonic::Request::new(rank_request("u", &["i1"]));
    request.set_timeout(Duration::from_millis(20));
    let status = client.rank(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
}

#[tokio::test]
async fn a_store_that_is_away_leaves_the_last_copies() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let appended = client.append_event(event("u", "e", 1, recommendation("i1"))).await.unwrap().into_inner();
    let fresh = client.rank(rank_request("u", &["i1", "i2"])).await.unwrap().into_inner();
    assert!(!fresh.stale_history);

    server.store.fail(Fault::Unavailable);
    let request = v1::RankRequest { history_token: appended.history_token, ..rank_request("u", &["i1", "i2"]) };
    let stale = client.rank(request).await.unwrap().into_inner();
    assert!(stale.stale_history && !stale.cold_start);
    assert_eq!(ids(&stale.items), ids(&fresh.items));
    assert_eq!(server.metric("sesrec_rank_stale_answers_total"), 1.0);

    // A later state than the copy's, and a user without a copy.
    let later = v1::RankRequest { history_token: "h1-ffffffffffffff".into(), ..rank_request("u", &["i1"]) };
    for request in [later, rank_request("stranger", &["i1"])] {
        let status = client.rank(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
        assert!(retry(&status).is_some());
        assert!(!status.message().contains("broken by the test"), "internals leak: {}", status.message());
    }
    let history = client.get_history(v1::GetHistoryRequest { user_id: "u".into(), ..Default::default() }).await;
    assert!(history.unwrap().into_inner().stale_history);
}

#[tokio::test]
async fn cold_starts_where_the_operator_prefers_them() {
    let server = TestServer::with(|setup| setup.service.on_store_outage = OnStoreOutage::ColdStart).await;
    let mut client = server.client().await;
    server.store.fail(Fault::Unavailable);
    let answer = client.rank(rank_request("stranger", &["i1"])).await.unwrap().into_inner();
    assert!(answer.cold_start && answer.stale_history);
    // A token can't be satisfied by guessing.
    let request = v1::RankRequest { history_token: "h1-1".into(), ..rank_request("stranger", &["i1"]) };
    assert_eq!(client.rank(request).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn tokens_wait_for_a_lagging_store_but_not_for_ever() {
    let server = TestServer::with(|setup| setup.service.timeouts.token = Duration::from_secs(1)).await;
    let mut client = server.client().await;
    let appended = client.append_event(event("u", "e", 1, recommendation("i1"))).await.unwrap().into_inner();
    server.store.fail(Fault::LaggingLoads(3));
    let request = v1::RankRequest { history_token: appended.history_token, ..rank_request("u", &["i1"]) };
    let answer = client.rank(request.clone()).await.unwrap().into_inner();
    assert!(!answer.cold_start && !answer.stale_history);

    server.store.fail(Fault::None);
    let ahead = v1::RankRequest { history_token: "h1-ffffffffffffff".into(), ..request };
    let started = Instant::now();
    let status = client.rank(ahead).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "HISTORY_TOKEN_AHEAD"));
    let wanted = HistoryVersion(0xff_ffff_ffff_ffff).to_string();
    assert_eq!(status.get_details_error_info().unwrap().metadata["wanted"], wanted);
    assert!(started.elapsed() < PATIENCE / 2, "not for as long as the request may take: {:?}", started.elapsed());
    assert_eq!(server.metric("sesrec_rank_tokens_ahead_total"), 1.0);
}

#[tokio::test]
async fn conflicts_and_other_models() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.append_event(event("u", "e", 1, recommendation("i1"))).await.unwrap();
    let status = client.append_event(event("u", "e", 1, recommendation("i2"))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "EVENT_ID_CONFLICT"));
    assert_eq!(status.get_details_error_info().unwrap().metadata["event_id"], "e");

    let request = |version: &str| v1::RankRequest { model_version: version.into(), ..rank_request("u", &["i1"]) };
    client.rank(request("v1")).await.unwrap();
    let status = client.rank(request("v0")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "MODEL_VERSION_NOT_LIVE"));
    assert_eq!(status.get_details_error_info().unwrap().metadata["live"], "v1");
}

#[tokio::test]
async fn oversized_messages_and_unary_limits_harm_nobody_else() {
    let server = TestServer::with(|setup| {
        setup.server.max_message_bytes = 64 << 10;
        setup.service.concurrency.appends = 0;
    })
    .await;
    let mut client = server.client().await;
    let large = "x".repeat(128 << 10);
    let status = client.rank(rank_request(&large, &["i1"])).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let status = client.append_event(event("u", "e", 1, recommendation("i1"))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    client.rank(rank_request("u", &["i1"])).await.unwrap();
}

#[tokio::test]
async fn a_token_older_than_the_time_to_live_asks_for_nothing_more() {
    let server = TestServer::with(|setup| {
        setup.service.history_time_to_live = Some(Duration::from_secs(3600));
        setup.service.timeouts.token = Duration::from_millis(50);
    })
    .await;
    let mut client = server.client().await;
    let mut rank = async |minutes: u64| {
        let then = EventTime::now().saturating_sub(Duration::from_secs(60 * minutes));
        let token = HistoryToken::new(HistoryVersion(then.nanos() / 1000)).encode();
        client.rank(v1::RankRequest { history_token: token, ..rank_request("gone", &["i1"]) }).await
    };
    let answer = rank(120).await.unwrap().into_inner();
    assert!(answer.cold_start && !answer.stale_history, "it expired");
    let status = rank(30).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "HISTORY_TOKEN_AHEAD"));
}
