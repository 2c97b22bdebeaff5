//! The processes: replicas, nginx.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    program::{self, Running},
    redis_server::{ports::Port, until, until_blocking},
    support::metric,
};

/// `sesrec serve` on fixed ports, so that a successor takes its place. Killed when dropped.
pub struct Replica {
    process: Running,
    port: Port,
    metrics: Port,
    arguments: Vec<String>,
}

impl Replica {
    /// Starts one; `more` are added to its command line.
    pub fn start(model: &Path, store: &str, more: &[&str]) -> Self {
        Self::logging_to(Stdio::inherit(), model, store, more)
    }

    pub fn logging_to(log: Stdio, model: &Path, store: &str, more: &[&str]) -> Self {
        let (port, metrics) = (Port::claim(), Port::claim());
        let fixed = [
            "serve",
            "--model",
            model.to_str().unwrap(),
            "--store",
            store,
            "--listen",
            &local(&port).to_string(),
            "--metrics-listen",
            &local(&metrics).to_string(),
            "--device",
            "cpu",
            "--drain-notice",
            "300ms",
            "--drain-timeout",
            "60s",
            // What a busy machine takes longer for is no failure here.
            "--store-timeout",
            "20s",
            "--default-timeout",
            "60s",
        ];
        let quiet: &[&str] = if more.contains(&"--log") { &[] } else { &["--log", "warn"] };
        let arguments: Vec<String> = [&fixed[..], quiet, more].concat().into_iter().map(Into::into).collect();
        let process = serve(&arguments, log);
        Self { process, port, metrics, arguments }
    }

    pub fn address(&self) -> String {
        local(&self.port).to_string()
    }

    /// Waits until it says that traffic may come.
    pub async fn ready(&mut self) {
        let channel = Channel::from_shared(format!("http://{}", self.address())).unwrap().connect_lazy();
        let mut health = HealthClient::new(channel);
        until("the replica becomes ready", async || {
            assert!(self.process.try_wait().unwrap().is_none(), "`sesrec serve` has ended");
            let check = HealthCheckRequest { service: "sesrec.v1.RankingService".into() };
            health.check(check).await.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
        })
        .await;
    }

    /// Whether anybody listens where it will be.
    pub fn listens(&self) -> bool {
        TcpStream::connect(local(&self.port)).is_ok()
    }

    /// SIGTERM, as an orchestrator does it; returns when the process has drained and ended.
    pub fn terminate(&mut self) {
        self.process.signal("TERM");
        assert!(self.process.wait().unwrap().success(), "a drained replica ends well");
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn start_again(&mut self) {
        self.process = serve(&self.arguments, Stdio::inherit());
    }

    /// Ranks that this process answered.
    pub fn ranks(&self) -> f64 {
        self.metric(r#"sesrec_requests_total{rpc="Rank",code="OK"}"#)
    }

    /// A metric of this process.
    pub fn metric(&self, series: &str) -> f64 {
        metric::value(&self.http("GET", "/metrics", ""), series)
    }

    /// Asks the metrics port; the whole answer, headers included.
    pub fn http(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(local(&self.metrics)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

fn local(port: &Port) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port.number()).into()
}

fn serve(arguments: &[String], log: Stdio) -> Running {
    Running::start(program::sesrec().args(arguments).stderr(log))
}

/// nginx with the configuration of `deploy/`, but for addresses and paths.
pub struct Nginx {
    process: Child,
    port: Port,
}

impl Nginx {
    pub fn start(directory: &Path, replicas: &[String]) -> Self {
        let port = Port::claim();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx/nginx.conf");
        let mut settings = std::fs::read_to_string(shipped).unwrap();
        let temporary = directory.join("nginx").display().to_string();
        let names = ["sesrec-1:50051", "sesrec-2:50051", "sesrec-3:50051"];
        let addresses = names.into_iter().zip(replicas.iter().cloned());
        let listen = ("listen 50050", format!("listen {}", local(&port)));
        for (shipped, own) in addresses.chain([listen, ("/tmp/nginx", temporary)]) {
            assert!(settings.contains(shipped), "{shipped} is not in deploy/nginx/nginx.conf");
            settings = settings.replace(shipped, &own);
        }
        let file = directory.join("nginx.conf");
        std::fs::write(&file, settings).unwrap();
        let process = Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr", "-g", "daemon off;"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("nginx can't be started ({error}): apt-get install -y nginx"));
        let mut nginx = Self { process, port };
        nginx.wait();
        nginx
    }

    pub fn url(&self) -> String {
        format!("http://{}", local(&self.port))
    }

    fn wait(&mut self) {
        until_blocking("nginx listens", || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("nginx ended with {status}");
            }
            TcpStream::connect(local(&self.port)).is_ok()
        });
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Not SIGKILL: the master has to take its workers with it.
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}
