//! A log whose reader stands still, and what log and metrics port say of what goes wrong.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sesrec::proto::v1::{self, ranking_service_client::RankingServiceClient};
use tonic::{Code, transport::Endpoint};

use crate::{
    bundle,
    program::{self, Running},
    redis_server::{PATIENCE, ports::Port, until},
    replicas::request,
    server::Client,
};

/// A server with a metrics port, whose log goes to a file.
pub struct Watched {
    process: Running,
    /// gRPC and metrics.
    ports: [Port; 2],
    log: PathBuf,
}

impl Watched {
    /// `program` is `sesrec`, or what becomes it. Its bundle is written to `bundle` in the directory.
    pub fn start(mut program: Command, directory: &Path, arguments: &[&str]) -> Self {
        let (model, log) = (directory.join("bundle"), directory.join("serve.log"));
        bundle::write(&model, 1);
        let ports = [Port::claim(), Port::claim()];
        let [listen, metrics] = ports.each_ref().map(address);
        program.args(["serve", "--device", "cpu", "--listen", &listen, "--metrics-listen", &metrics, "--model"]);
        program.arg(&model).args(arguments);
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self { process: Running::start(&mut program), ports, log }
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", address(&self.ports[0]))).unwrap();
        RankingServiceClient::new(endpoint.connect_timeout(Duration::from_secs(10)).connect_lazy())
    }

    /// Waits until it can answer all.
    pub async fn ready(&self) {
        let ready = async || metrics_page(&address(&self.ports[1])).await.contains("\nsesrec_ready 1\n");
        until("it is ready", ready).await;
    }

    /// Waits until it answers, be it that its store is away.
    async fn serves(&self) {
        let mut client = self.client();
        let answers = async || client.get_model_info(v1::GetModelInfoRequest {}).await.is_ok();
        until("it serves", answers).await;
    }

    /// A series' value.
    pub async fn value(&self, series: &str) -> f64 {
        let page = metrics_page(&address(&self.ports[1])).await;
        crate::metric::value(&page, series)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until its log has a text.
    pub async fn logs(&self, text: &str) {
        until(text, async || self.log().contains(text)).await;
    }
}

fn address(port: &Port) -> String {
    format!("127.0.0.1:{}", port.number())
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle");
    bundle::write(&path, 1);
    let (port, metrics) = (Port::claim(), Port::claim());
    let [listen, metrics_listen] = [&port, &metrics].map(address);
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

/// Nobody listens where the store should be: every request fails, and the log stays readable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_a_line_a_second_and_each_line_has_a_message() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = Port::claim();
    let store = format!("redis://{}", address(&nobody));
    let mut server = Watched::start(program::sesrec(), directory.path(), &["--store", &store, "--log-format", "json"]);
    server.serves().await;
    let (client, begun) = (server.client(), Instant::now());
    let failures = (0..200).map(|_| {
        let mut client = client.clone();
        let question =
            v1::RankRequest { user_id: "u".into(), candidate_item_ids: vec![bundle::item(1)], ..Default::default() };
        async move { client.rank(request(question)).await.map(drop) }
    });
    for answer in futures::future::join_all(failures).await {
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    let seconds = begun.elapsed().as_secs() as usize;
    server.signal("TERM");
    assert!(server.process.ended().await.success());
    let log = server.log();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        assert!(line["message"].is_string(), "{line}");
    }
    let failed: Vec<_> = lines.iter().filter(|line| line["message"] == "a request failed").collect();
    assert!((1..=seconds + 2).contains(&failed.len()), "{} lines in {seconds} s:\n{log}", failed.len());
    assert!(failed[0]["error"].is_string() && failed[0]["more"] == 0, "{}", failed[0]);
}

/// With a limit of open files, which a shell sets before it becomes `sesrec`.
#[cfg(target_os = "linux")]
fn with_files(limit: usize) -> Command {
    let sesrec = program::sesrec();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!(r#"ulimit -n {limit} && exec "$0" "$@""#)).arg(sesrec.get_program());
    for (variable, _) in sesrec.get_envs() {
        shell.env_remove(variable);
    }
    shell
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_open_files_are_told_and_leave_room_for_whoever_looks() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--store", "memory", "--max-connections", "1000"];
    let server = Watched::start(with_files(288), directory.path(), &arguments);
    server.ready().await;
    let mut callers = vec![];
    for _ in 0..60 {
        callers.push(tokio::net::TcpStream::connect(address(&server.ports[0])).await.unwrap());
    }
    // 256 are kept.
    until("all places are taken", async || server.value("sesrec_connections").await == 32.0).await;
    server.logs("no place for another connection").await;
    assert_eq!(server.value("process_max_fds").await, 288.0);
    let open = server.value("process_open_fds").await;
    assert!((33.0..288.0).contains(&open), "{open}");
    let log = server.log();
    for text in ["the limit of open files is too low", "limit=288", "needed=1256", "no place for another connection"] {
        assert_eq!(log.matches(text).count(), 1, "{text}:\n{log}");
    }
    assert!(!log.contains("cannot accept"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_ended_is_told_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let [certificate_file, key_file] = ["server.pem", "server.key"].map(|name| directory.path().join(name));
    std::fs::write(&certificate_file, parameters.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let [certificate, key] = [&certificate_file, &key_file].map(|file| file.to_str().unwrap());
    let arguments = ["--store", "memory", "--tls-certificate", certificate, "--tls-key", key];
    let server = Watched::start(program::sesrec(), directory.path(), &arguments);
    server.logs("the certificate of --tls-certificate has ended").await;
    server.ready().await;
    assert!(server.log().contains("end=2001-01-01T00:00:00Z"), "{}", server.log());
    assert_eq!(server.value("sesrec_tls_certificate_expiry_timestamp_seconds").await, 978_307_200.0);
}

/// Empty where nobody listens.
async fn metrics_page(address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { return String::new() };
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
