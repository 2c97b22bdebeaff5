//! Slow, huge and silent callers of the metrics port: each has one request and ten seconds for it, there are 64 at
//! most, and nobody on the other port notices.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{TestServer, rank_request};

/// The port's limits.
const PATIENCE: u64 = 10;
const CONNECTIONS: usize = 64;

/// A caller who has said something, and not all.
async fn caller(server: &TestServer, said: &str) -> TcpStream {
    let mut socket = TcpStream::connect(server.metrics_address).await.unwrap();
    socket.write_all(said.as_bytes()).await.unwrap();
    socket
}

/// What comes until the server hangs up, which it does.
async fn rest(socket: &mut TcpStream) -> String {
    let mut answer = vec![];
    let ended = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut answer)).await;
    // A reset hangs up, too: with it the server leaves unread what a caller said too much.
    let _ = ended.expect("the server hangs up");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn is_open(socket: &mut TcpStream) -> bool {
    let mut byte = [0];
    tokio::time::timeout(Duration::from_millis(50), socket.read(&mut byte)).await.is_err()
}

/// Time passes for the server's timers, not for the test.
async fn pass(seconds: u64) {
    // What has arrived is read before.
    tokio::time::sleep(Duration::from_millis(50)).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

async fn serves_others(server: &TestServer) {
    assert!(server.http("/healthz").await.starts_with("HTTP/1.1 200"));
    server.client().await.rank(rank_request("u", &["i1"])).await.unwrap();
}

#[tokio::test]
async fn a_connection_has_one_request() {
    let server = TestServer::start().await;
    let twice = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    let answer = rest(&mut caller(&server, &twice).await).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn slow_and_half_open_connections_end() {
    let server = TestServer::start().await;
    let body = "PUT /loglevel HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\ninfo";
    let unfinished = ["", "G", "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ", body];
    let mut sockets = vec![];
    for said in unfinished {
        sockets.push(caller(&server, said).await);
    }
    pass(PATIENCE / 2).await;
    for socket in &mut sockets {
        assert!(is_open(socket).await, "there is time left");
        // A byte now and then is not enough to stay.
        socket.write_all(b"x").await.unwrap();
    }
    serves_others(&server).await;
    pass(PATIENCE / 2 + 1).await;
    for (socket, said) in sockets.iter_mut().zip(unfinished) {
        let answer = rest(socket).await;
        assert!(!answer.contains("200 OK"), "{said:?}: {answer}");
    }
    serves_others(&server).await;
}

#[tokio::test]
async fn huge_requests_are_refused() {
    let server = TestServer::start().await;
    let large = "x".repeat(1 << 20);
    let many: String = (0..1000).map(|n| format!("X-{n}: y\r\n")).collect();
    let cases = [
        format!("GET /{large} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Large: {large}\r\n\r\n"),
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
        format!("PUT /loglevel HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{large}", large.len()),
        "PUT /loglevel HTTP/1.1\r\nHost: x\r\nContent-Length: 4294967296\r\n\r\n".to_owned(),
    ];
    for request in cases {
        let mut socket = TcpStream::connect(server.metrics_address).await.unwrap();
        // It may hang up while this is being written.
        let _ = socket.write_all(request.as_bytes()).await;
        let answer = rest(&mut socket).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{:.40}: {answer:.200}", request);
    }
    serves_others(&server).await;
}

#[tokio::test]
async fn connections_are_counted_and_the_next_one_waits_its_turn() {
    let server = TestServer::start().await;
    let mut silent = vec![];
    for _ in 0..CONNECTIONS {
        silent.push(caller(&server, "").await);
    }
    let mut next = caller(&server, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(is_open(&mut next).await, "it waits");
    assert_eq!(server.metric("sesrec_connections"), 0.0, "none of them is a caller's");
    server.client().await.rank(rank_request("u", &["i1"])).await.expect("the other port has places of its own");
    pass(PATIENCE + 1).await;
    assert!(rest(&mut next).await.starts_with("HTTP/1.1 200"));
    for socket in &mut silent {
        assert_eq!(rest(socket).await, "");
    }
}
