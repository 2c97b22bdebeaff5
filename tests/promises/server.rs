//! A `sesrec serve` process.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use sesrec::proto::v1::ranking_service_client::RankingServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    program::{self, Running},
    redis_server::{PATIENCE, ports::Port},
};

pub type Client = RankingServiceClient<Channel>;

/// Killed when dropped.
pub struct Server {
    process: Running,
    port: Port,
    arguments: Vec<String>,
    log: PathBuf,
}

impl Server {
    /// Starts a server on a port of its own; its log goes to a file in `directory`.
    pub fn start(directory: &Path, bundle: &Path, store: &str, arguments: &[&str]) -> Self {
        let port = Port::claim();
        let log = directory.join(format!("serve-{}.log", port.number()));
        let fixed = ["serve", "--metrics-listen", "off", "--store-ping", "50ms", "--device", "cpu"];
        // What a busy machine takes longer for is no failure here.
        let patient = ["--store-timeout", "20s", "--default-timeout", "60s", "--drain-timeout", "60s"];
        let listen = format!("127.0.0.1:{}", port.number());
        let own = ["--listen", &listen, "--store", store, "--model", bundle.to_str().unwrap()];
        let arguments: Vec<String> =
            [&fixed[..], &patient, &own, arguments].concat().into_iter().map(str::to_owned).collect();
        let process = spawn(&arguments, &log);
        Self { process, port, arguments, log }
    }

    #[cfg(target_os = "linux")]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The same server again after `kill`.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.arguments, &self.log);
    }

    /// Sends a signal such as "TERM" or "HUP".
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for its end; the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        self.process.ended().await.code()
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log has a text; `seen` is how often it was there before.
    pub async fn logged(&self, text: &str, seen: usize) {
        let started = Instant::now();
        while self.log().matches(text).count() <= seen {
            assert!(started.elapsed() < PATIENCE, "{text:?} is not in the log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A channel that connects when it is used, and again after the server's end.
    pub fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port())).unwrap();
        endpoint.connect_timeout(Duration::from_secs(10)).connect_lazy()
    }

    pub fn client(&self) -> Client {
        RankingServiceClient::new(self.channel())
    }

    /// Waits until it is ready: model loaded, store reachable.
    pub async fn ready(&mut self) {
        let started = Instant::now();
        let question = || HealthCheckRequest { service: "sesrec.v1.RankingService".into() };
        loop {
            let answer = HealthClient::new(self.channel()).check(question()).await;
            if answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving) {
                return;
            }
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("`sesrec serve` ended with {status}:\n{}", self.log());
            }
            assert!(started.elapsed() < PATIENCE, "never ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn spawn(arguments: &[String], log: &Path) -> Running {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    Running::start(program::sesrec().args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))
}
