//! A log whose reader stands still.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use sesrec::proto::v1::{self, ranking_service_client::RankingServiceClient};
use tonic::transport::Endpoint;

use crate::{
    bundle,
    program::{self, Running},
    redis_server::{PATIENCE, ports::Port, until},
    replicas::request,
};

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle");
    bundle::write(&path, 1);
    let (port, metrics) = (Port::claim(), Port::claim());
    let [listen, metrics_listen] = [&port, &metrics].map(|port| format!("127.0.0.1:{}", port.number()));
    let mut command = program::sesrec();
    command.args(["serve", "--store", "memory", "--device", "cpu", "--model"]).arg(&path);
    // A line for every frame.
    command.args(["--listen", &listen, "--metrics-listen", &metrics_listen, "--log", "trace"]);
    let mut server = Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()));
    let endpoint = Endpoint::from_shared(format!("http://{listen}")).unwrap().connect_timeout(Duration::from_secs(10));
    let mut client = RankingServiceClient::new(endpoint.connect_lazy());
    let question = || {
        let question =
            v1::RankRequest { user_id: "u".into(), candidate_item_ids: vec![bundle::item(1)], ..Default::default() };
        request(question)
    };
    until("it serves", async || client.rank(question()).await.is_ok()).await;
    // Far more than a pipe holds and than may wait.
    let begun = Instant::now();
    let dropped = async || {
        let page = metrics_page(&metrics_listen).await;
        let line = page.lines().find_map(|line| line.strip_prefix("sesrec_log_dropped_lines_total "));
        line.is_some_and(|value| value.parse::<f64>().unwrap() > 0.0)
    };
    while !dropped().await {
        assert!(begun.elapsed() < PATIENCE, "lines are dropped");
        for _ in 0..200 {
            client.rank(question()).await.unwrap();
        }
    }
    client.rank(question()).await.unwrap();
    server.signal("TERM");
    assert!(server.ended().await.success());
}

async fn metrics_page(address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
