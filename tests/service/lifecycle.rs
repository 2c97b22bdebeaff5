//! Health, the metrics port, and the end of a server.

use std::time::{Duration, Instant};

use prost::Message;
use tokio::{io::AsyncReadExt, net::TcpStream, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, codegen::http};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    program::{self, text},
    support::{Fault, PATIENCE, TestServer, event, rank_request, recommendation, until},
};

const SERVICE: &str = "sesrec.v1.RankingService";

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn readiness_follows_the_store() {
    let server = TestServer::start().await;
    let mut health = HealthClient::new(server.channel().await);
    let mut watch = health.watch(of(SERVICE)).await.unwrap().into_inner();
    let mut next = async || watch.next().await.unwrap().unwrap().status();
    assert_eq!(next().await, ServingStatus::Serving);

    server.store.fail(Fault::Unavailable);
    assert_eq!(next().await, ServingStatus::NotServing);
    assert_eq!(health.check(of("")).await.unwrap().into_inner().status(), ServingStatus::Serving, "still alive");
    let answer = server.http("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("faulty store"), "{answer}");
    assert!(server.http("/healthz").await.starts_with("HTTP/1.1 200"));

    server.store.fail(Fault::None);
    assert_eq!(next().await, ServingStatus::Serving);
    assert!(server.http("/readyz").await.starts_with("HTTP/1.1 200"));
    assert_eq!(health.check(of("nothing.of.the.kind")).await.unwrap_err().code(), Code::NotFound);
}

/// Runs `sesrec health` to its end: its exit code, what it prints, what it complains about.
async fn health(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::from(program::sesrec());
    let output = command.arg("health").args(arguments).output().await.unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn the_health_command_tells_by_its_exit_code() {
    let server = TestServer::start().await;
    let address = server.address.to_string();
    let url = format!("http://{address}");
    for arguments in [&[address.as_str()][..], &["--server", &url], &[&address, "--service", ""]] {
        let (code, said, errors) = health(arguments).await;
        assert_eq!((code, said.as_str()), (Some(0), "SERVING\n"), "{arguments:?}: {errors}");
    }
    let (code, _, errors) = health(&[&address, "--service", "other"]).await;
    assert!(code == Some(1) && errors.contains("has no service \"other\""), "{code:?} {errors}");

    server.store.fail(Fault::Unavailable);
    server.until("not ready", || async { server.http("/readyz").await.starts_with("HTTP/1.1 503") }).await;
    let (code, said, _) = health(&[&address]).await;
    assert_eq!((code, said.as_str()), (Some(1), "NOT_SERVING\n"));
    assert_eq!(health(&[&address, "--service", ""]).await.0, Some(0), "still alive");

    // One that accepts and says nothing, and one that is not there.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = silent.local_addr().unwrap().to_string();
    let (code, _, errors) = health(&[&mute, "--timeout", "200ms"]).await;
    assert!(code == Some(1) && errors.contains(&mute), "{code:?} {errors}");
    drop(silent);
    assert_eq!(health(&[&mute]).await.0, Some(1));
}

#[tokio::test]
async fn the_metrics_port_has_what_happened() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.append_event(event("u", "e", 1, recommendation("missing"))).await.unwrap();
    client.rank(rank_request("u", &["i1", "missing"])).await.unwrap();
    // The model reads four events; of older ones it is not known whether it knows them.
    for n in 0..9 {
        client.append_event(event("v", &format!("e{n}"), n, recommendation("i1"))).await.unwrap();
    }
    client.rank(rank_request("v", &["i1"])).await.unwrap();
    client.rank(rank_request("", &["i1"])).await.unwrap_err();
    let text = server.http("/metrics").await;
    for line in [
        r#"sesrec_requests_total{rpc="Rank",code="OK"} 2"#,
        r#"sesrec_requests_total{rpc="Rank",code="INVALID_ARGUMENT"} 1"#,
        r#"sesrec_requests_total{rpc="AppendEvent",code="OK"} 10"#,
        r#"sesrec_items_unknown_total{place="candidate"} 1"#,
        r#"sesrec_items_unknown_total{place="history"} 1"#,
        r#"sesrec_items_seen_total{place="candidate"} 3"#,
        r#"sesrec_items_seen_total{place="history"} 5"#,
        r#"sesrec_events_appended_total{outcome="applied"} 10"#,
        r#"sesrec_rank_stage_duration_seconds_count{stage="history"} 2"#,
        r#"sesrec_model_info{name="fake",version="v1",kind="fake",device="cpu"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn answers_carry_a_request_id() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let answer = client.rank(rank_request("u", &["i1"])).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap().len(), 16);
    let mut request = tonic::Request::new(rank_request("", &["i1"]));
    request.metadata_mut().insert("x-request-id", "mine".parse().unwrap());
    let status = client.rank(request).await.unwrap_err();
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "mine");
}

/// It needs no token, and a watch lives as long as its caller likes.
#[tokio::test]
async fn watches_of_health_are_bounded() {
    let server = TestServer::with(|setup| setup.server.max_connections = 2).await;
    let mut health = HealthClient::new(server.channel().await);
    let first = health.watch(of(SERVICE)).await.unwrap();
    let _second = health.watch(of(SERVICE)).await.unwrap();
    assert_eq!(health.watch(of(SERVICE)).await.unwrap_err().code(), Code::ResourceExhausted);
    assert!(health.check(of(SERVICE)).await.is_ok(), "it can be asked all the same");
    drop(first);
    until("its place is free again", async || health.watch(of(SERVICE)).await.is_ok()).await;
}

/// Those of the gRPC port, also before they have said anything.
#[tokio::test]
async fn open_connections_are_counted() {
    let server = TestServer::start().await;
    let open = || server.metric("sesrec_connections");
    assert_eq!(open(), 0.0, "the metrics port has been asked");
    let mut client = server.client().await;
    client.rank(rank_request("u", &["i1"])).await.unwrap();
    let silent = TcpStream::connect(server.address).await.unwrap();
    until("both are counted", async || open() == 2.0).await;
    drop((client, silent));
    until("both are closed", async || open() == 0.0).await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs() {
    let mut server = TestServer::start().await;
    server.model.hold();
    let mut client = server.client().await;
    let (sender, receiver) = mpsc::channel(8);
    let mut answers = client.append_events(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    sender.send(event("u", "e", 1, recommendation("i1"))).await.unwrap();
    answers.next().await.unwrap().unwrap();
    let mut health = HealthClient::new(server.channel().await);
    let mut watch = health.watch(of(SERVICE)).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let running = tokio::spawn(async move { client.rank(rank_request("u", &["i1"])).await });
    server.until("computing", || async { server.model.calls() == 1 }).await;

    server.signal();
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing, "readiness goes");
    assert!(!running.is_finished());
    server.model.release();
    assert!(running.await.unwrap().is_ok(), "a running request finishes");
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "an idle stream is told to go elsewhere");
    server.ended().await;
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_drain_ends_despite_callers_that_never_close() {
    let mut server = TestServer::with(|setup| setup.server.drain_timeout = PATIENCE).await;
    // One that never says a word, one with an open health watch, one with an open stream that it doesn't read.
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut health = HealthClient::new(server.channel().await);
    let _watch = health.watch(of(SERVICE)).await.unwrap().into_inner();
    let mut client = server.client().await;
    let _stream = client.append_events(tokio_stream::pending()).await.unwrap().into_inner();

    let started = Instant::now();
    server.signal();
    server.ended().await;
    assert!(started.elapsed() < PATIENCE / 2, "long before the drain timeout: {:?}", started.elapsed());
    let mut rest = vec![];
    let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the silent connection is closed");
}

/// The answer is large and its caller takes a while to read it.
#[tokio::test]
async fn a_drain_lets_answers_get_out() {
    let mut server = TestServer::with(|setup| setup.server.drain_timeout = PATIENCE).await;
    let unknown: Vec<String> = (0..9000).map(|n| format!("unknown-item-{n:07}")).collect();
    let items: Vec<&str> = std::iter::once("i1").chain(unknown.iter().map(String::as_str)).collect();
    let message = rank_request("u", &items).encode_to_vec();
    let framed = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (connection, driver) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(driver);
    let request = http::Request::post(format!("http://{}/{SERVICE}/Rank", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut stream) = connection.ready().await.unwrap().send_request(request, false).unwrap();
    stream.send_data(framed.into(), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let first = body.data().await.unwrap().unwrap();
    server.signal();
    // Longer than connections stay open for what isn't running.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut received = first.len();
    body.flow_control().release_capacity(first.len()).unwrap();
    while let Some(data) = body.data().await {
        let data = data.expect("the whole answer");
        received += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().expect("a status");
    assert_eq!(trailers["grpc-status"], "0");
    assert!(received > 9000 * 20, "{received} bytes");
    server.ended().await;
}

#[tokio::test]
async fn a_drain_has_a_limit() {
    let mut server = TestServer::with(|setup| {
        setup.server.drain_timeout = Duration::from_millis(300);
    })
    .await;
    server.store.fail(Fault::Stalled);
    let mut client = server.client().await;
    let stuck = tokio::spawn(async move { client.rank(rank_request("u", &["i1"])).await });
    server.until("stuck", || async { server.metric(r#"sesrec_requests_in_flight{rpc="Rank"}"#) == 1.0 }).await;
    let started = Instant::now();
    server.signal();
    server.ended().await;
    assert!(started.elapsed() < PATIENCE / 2, "not for as long as the request may take: {:?}", started.elapsed());
    assert!(stuck.await.unwrap().is_err());
    server.until("idle", || async { server.metric(r#"sesrec_requests_in_flight{rpc="Rank"}"#) == 0.0 }).await;
}
