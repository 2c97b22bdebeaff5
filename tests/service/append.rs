//! Appends, one by one and by stream; erasure.

use std::time::Duration;

use prost::{Message, bytes::Bytes};
use sesrec::proto::v1::{self, Outcome};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{Fault, PATIENCE, TestServer, click, event, rank_request, recommendation, search};

type Answer = Result<v1::AppendEventResponse, tonic::Status>;

/// Sends events, half-closes, and collects every answer.
async fn stream(server: &TestServer, events: Vec<v1::AppendEventRequest>) -> Vec<Answer> {
    let mut client = server.client().await;
    let answers = client.append_events(tokio_stream::iter(events)).await.unwrap().into_inner();
    answers.collect().await
}

fn outcomes(answers: &[Answer]) -> Vec<(&str, Outcome)> {
    answers.iter().map(|answer| answer.as_ref().unwrap()).map(|a| (a.event_id.as_str(), a.outcome())).collect()
}

async fn history(server: &TestServer, user: &str) -> v1::GetHistoryResponse {
    let request = v1::GetHistoryRequest { user_id: user.into(), ..Default::default() };
    server.client().await.get_history(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_stream_acknowledges_in_order_and_survives_bad_events() {
    let server = TestServer::start().await;
    let events = vec![
        event("u", "a", 5, recommendation("i1")),
        event("u", "a", 5, recommendation("i1")),
        event("u", "a", 5, recommendation("i2")),
        v1::AppendEventRequest { event: Some(v1::Event { event_id: "bad".into(), ..Default::default() }) },
        v1::AppendEventRequest::default(),
        event("u", "c", 7, click("s", "i4")),
        event("u", "b", 6, search("s", "red", &["i3"])),
        event("u", "ancient", -500 * 86_400, recommendation("i1")),
    ];
    let answers = stream(&server, events).await;
    let expected = [
        ("a", Outcome::Applied),
        ("a", Outcome::Duplicate),
        ("a", Outcome::Conflict),
        ("bad", Outcome::Invalid),
        ("", Outcome::Invalid),
        ("c", Outcome::Applied),
        ("b", Outcome::Applied),
        ("ancient", Outcome::TooOld),
    ];
    assert_eq!(outcomes(&answers), expected);
    let fields = |n: usize| -> Vec<String> {
        answers[n].as_ref().unwrap().field_violations.iter().map(|violation| violation.field.clone()).collect()
    };
    assert_eq!(fields(3), ["event.user_id", "event.time", "event.payload"]);
    assert_eq!(fields(4), ["event"]);

    let seen = history(&server, "u").await;
    let Some(v1::history_event::Payload::Search(search)) = &seen.searches[0].payload else { panic!("a search") };
    assert_eq!(search.clicked_item_ids, ["i3", "i4"], "a click that came before its search");
    assert_eq!(seen.pending_clicks, 0);
    assert_eq!(server.metric(r#"sesrec_events_appended_total{outcome="applied"}"#), 3.0);
    assert_eq!(server.metric(r#"sesrec_events_appended_total{outcome="invalid"}"#), 2.0);
    assert_eq!(server.metric("sesrec_history_lag_seconds_count"), 3.0);
    assert_eq!(server.metric(r#"sesrec_requests_total{rpc="AppendEvents",code="OK"}"#), 1.0);
}

#[tokio::test]
async fn waiting_events_share_store_calls() {
    let server = TestServer::with(|setup| setup.service.concurrency.stream_window = 100).await;
    let events = (0..1000).map(|n| event(&format!("u{}", n % 9), &format!("e{n}"), n, recommendation("i1"))).collect();
    let answers = stream(&server, events).await;
    assert_eq!(answers.len(), 1000);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.as_ref().unwrap().event_id, format!("e{n}"));
    }
    let calls = server.store.append_calls();
    assert!((10..500).contains(&calls), "1000 events in {calls} store calls");
}

/// Small frames that nobody reads look like an attack to h2.
#[tokio::test]
async fn a_slow_store_holds_back_a_stream_of_small_events_and_keeps_it() {
    let server = TestServer::start().await;
    server.store.fail(Fault::StallAppendsAfter(0));
    let events: Vec<_> = (0..5000).map(|n| event("u", &format!("{n}"), n, recommendation("i1"))).collect();
    // One by one: what is ready at once shares a frame.
    let events = tokio_stream::iter(events).then(async |event| {
        tokio::task::yield_now().await;
        event
    });
    let mut client = server.client().await;
    let sending = async { client.append_events(events).await.unwrap().into_inner().collect::<Vec<Answer>>().await };
    let stalled = async {
        server.until("held up", || async { server.store.held_up() > 0 }).await;
        // Until the caller has sent what it may.
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.store.fail(Fault::None);
    };
    let (answers, ()) = tokio::join!(sending, stalled);
    assert_eq!(answers.len(), 5000);
    answers.iter().for_each(|answer| assert_eq!(answer.as_ref().unwrap().outcome(), Outcome::Applied));
}

/// What a store has before it is bounded, however many streams there are: the probe's ping waits behind it.
#[tokio::test]
async fn streams_take_turns_at_a_slow_store() {
    let server = TestServer::with(|setup| {
        setup.service.concurrency.stream_window = 10;
        // A batch of more is alone.
        setup.service.concurrency.stream_events = 4;
    })
    .await;
    server.store.fail(Fault::StallAppendsAfter(0));
    let events = |stream: usize| {
        (0..10).map(move |n| event(&format!("u{stream}"), &format!("{n}"), n, recommendation("i1"))).collect::<Vec<_>>()
    };
    let streams = futures::future::join_all((0..8).map(|n| stream(&server, events(n))));
    let held_up = async {
        server.until("held up", || async { server.store.held_up() > 0 }).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let calls = server.store.append_calls();
        assert!(calls <= 4, "{calls} calls at once, of eight streams");
        assert!(server.http("/readyz").await.starts_with("HTTP/1.1 200"));
        server.store.fail(Fault::None);
    };
    let (answers, ()) = tokio::join!(streams, held_up);
    for answers in answers {
        assert_eq!(answers.len(), 10);
        answers.iter().for_each(|answer| assert_eq!(answer.as_ref().unwrap().outcome(), Outcome::Applied));
    }
}

#[tokio::test]
async fn a_failing_store_ends_the_stream_after_what_is_stored() {
    let server = TestServer::start().await;
    let (sender, receiver) = mpsc::channel(8);
    let mut client = server.client().await;
    let mut answers = client.append_events(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    sender.send(event("u", "a", 1, recommendation("i1"))).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().event_id, "a");

    server.store.fail(Fault::FailAppendsFrom(0));
    sender.send(event("u", "b", 2, recommendation("i2"))).await.unwrap();
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(answers.next().await.is_none());
    assert_eq!(server.metric(r#"sesrec_events_appended_total{outcome="failed"}"#), 1.0);

    server.store.fail(Fault::None);
    assert_eq!(history(&server, "u").await.stored_recommendations, 1, "nothing that was not acknowledged");
}

#[tokio::test]
async fn an_abandoned_stream_leaves_nothing_behind() {
    let server = TestServer::with(|setup| setup.service.concurrency.streams = 1).await;
    let in_flight = || server.metric(r#"sesrec_requests_in_flight{rpc="AppendEvents"}"#);
    for round in 0..3 {
        let (sender, receiver) = mpsc::channel(8);
        let mut client = server.client().await;
        let mut answers = client.append_events(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        sender.send(event("u", &format!("e{round}"), round, recommendation("i1"))).await.unwrap();
        answers.next().await.unwrap().unwrap();
        assert_eq!(in_flight(), 1.0);

        // The only stream that may be open is.
        let refused = server.client().await.append_events(tokio_stream::pending()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.get_details_retry_info().is_some());

        drop((sender, answers, client));
        server.until("free", || async { in_flight() == 0.0 }).await;
    }
    assert_eq!(server.metric(r#"sesrec_requests_rejected_total{reason="streams"}"#), 3.0);
    assert_eq!(server.metric(r#"sesrec_requests_cancelled_total{rpc="AppendEvents"}"#), 3.0);
}

/// Whether a caller resets its stream or its connection breaks: it has gone away, and was neither answered well nor
/// badly.
#[tokio::test]
async fn whoever_goes_away_in_the_middle_of_a_stream_is_cancelled() {
    const STREAMS: usize = 20;
    let server = TestServer::start().await;
    let event = event("u", "e", 1, recommendation("i1")).encode_to_vec();
    let message = Bytes::from([&[0][..], &(event.len() as u32).to_be_bytes(), &event].concat());
    for n in 0..STREAMS {
        let connection = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(connection).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = tonic::codegen::http::Request::post("http://x/sesrec.v1.RankingService/AppendEvents");
        let request = request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
        let (answer, mut body) = requests.send_request(request, false).unwrap();
        body.send_data(message.clone(), false).unwrap();
        let mut answer = answer.await.unwrap().into_body();
        answer.data().await.unwrap().expect("an acknowledgement");
        if n % 2 == 0 {
            body.send_reset(h2::Reason::CANCEL);
            // What is on its way gets there before the connection ends.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        connection.abort();
    }
    let in_flight = || server.metric(r#"sesrec_requests_in_flight{rpc="AppendEvents"}"#);
    server.until("all are gone", || async { in_flight() == 0.0 }).await;
    assert_eq!(server.metric(r#"sesrec_requests_cancelled_total{rpc="AppendEvents"}"#), STREAMS as f64);
    assert_eq!(server.metric(r#"sesrec_requests_total{rpc="AppendEvents",code="CANCELLED"}"#), STREAMS as f64);
}

/// However much comes at once: what stands before a message that is too long is stored and acknowledged.
#[tokio::test]
async fn a_message_that_is_too_long_takes_none_along() {
    let server = TestServer::start().await;
    let ids = ["a", "b", "c", "d", "e"];
    let mut events: Vec<_> = ids.map(|id| event("u", id, 1, recommendation("i1"))).into();
    events.push(event("u", "long", 6, search("s", &"x".repeat(300 << 10), &[])));
    let mut answers = stream(&server, events).await;
    let refused = answers.pop().unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(outcomes(&answers), ids.map(|id| (id, Outcome::Applied)));
}

#[tokio::test]
async fn erased_users_are_gone_and_replays_stay_out() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let old = event("u", "a", 1, recommendation("i1"));
    client.append_event(old.clone()).await.unwrap();
    assert!(!client.rank(rank_request("u", &["i1"])).await.unwrap().into_inner().cold_start);

    let erased = client.delete_history(v1::DeleteHistoryRequest { user_id: "u".into() }).await.unwrap().into_inner();
    let replay = client.append_event(old).await.unwrap().into_inner();
    assert_eq!(replay.outcome(), Outcome::TooOld);
    let request = v1::RankRequest { history_token: erased.history_token, ..rank_request("u", &["i1"]) };
    assert!(client.rank(request).await.unwrap().into_inner().cold_start);

    // Nor does the last copy come back while the store is away.
    server.store.fail(Fault::Unavailable);
    let answer = client.rank(rank_request("u", &["i1"])).await.unwrap().into_inner();
    assert!(answer.cold_start && answer.stale_history);
}

#[tokio::test]
async fn a_stream_has_its_callers_deadline() {
    let server = TestServer::start().await;
    let mut request = tonic::Request::new(tokio_stream::pending());
    request.set_timeout(Duration::from_secs(1));
    let mut client = server.client().await;
    let mut answers = client.append_events(request).await.unwrap().into_inner();
    let status = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn an_old_stream_ends_after_its_acknowledgements() {
    let server = TestServer::with(|setup| setup.service.timeouts.stream = Some(Duration::from_secs(1))).await;
    let (sender, receiver) = mpsc::channel(8);
    let mut client = server.client().await;
    let mut answers = client.append_events(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    sender.send(event("u", "a", 1, recommendation("i1"))).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().event_id, "a");
    let status = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.get_error_details().error_info().unwrap().reason.as_str()),
        (Code::Unavailable, "STREAM_AGE")
    );
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    let again = stream(&server, vec![event("u", "b", 2, recommendation("i1"))]).await;
    assert_eq!(outcomes(&again), [("b", Outcome::Applied)]);
}

#[tokio::test]
async fn events_of_the_future_stay_out() {
    let server = TestServer::start().await;
    let day = 86_400;
    // `time` counts from the start of yesterday.
    let answers = stream(
        &server,
        vec![
            event("u", "soon", 2 * day - 60, recommendation("i1")),
            event("u", "far", 400 * day, recommendation("i1")),
            event("u", "now", day, recommendation("i2")),
        ],
    )
    .await;
    let expected = [("soon", Outcome::Applied), ("far", Outcome::Invalid), ("now", Outcome::Applied)];
    assert_eq!(outcomes(&answers), expected);
    assert_eq!(answers[1].as_ref().unwrap().field_violations[0].field, "event.time");
    let far = event("u", "far", 400 * day, recommendation("i1"));
    let status = server.client().await.append_event(far).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "event.time");
}

#[tokio::test]
async fn unary_appends_beyond_the_limit_are_refused_at_once() {
    let server = TestServer::with(|setup| {
        setup.service.concurrency.appends = 1;
        setup.service.timeouts.store = Duration::from_secs(2);
    })
    .await;
    server.store.fail(Fault::Stalled);
    let mut first = server.client().await;
    let mut second = first.clone();
    let waiting = tokio::spawn(async move { first.append_event(event("u", "a", 1, recommendation("i1"))).await });
    server.until("waiting for the store", || async { server.store.append_calls() == 1 }).await;
    let status = second.append_event(event("u", "b", 1, recommendation("i1"))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(!waiting.is_finished(), "refused only when there was room again");
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.store.append_calls(), 1);
}
