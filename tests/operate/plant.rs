//! The processes: Redis nodes, replicas, nginx.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::redis_server::{RedisServer, free_port, redis_cli};

/// Three Redis nodes that share the slots.
pub struct Cluster(Vec<RedisServer>);

impl Cluster {
    pub fn start() -> Self {
        let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let cluster = Self((0..3).map(|_| RedisServer::start(&arguments)).collect());
        let addresses = cluster.addresses();
        let create = [&["--cluster", "create"], &addresses.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat();
        let output = redis_cli(&[&create[..], &["--cluster-yes"]].concat());
        assert!(output.contains("All 16384 slots covered"), "{output}");
        cluster
    }

    fn addresses(&self) -> Vec<String> {
        self.0.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect()
    }

    pub fn url(&self) -> String {
        format!("redis+cluster://{}", self.addresses().join(","))
    }
}

/// `sesrec serve` on fixed ports, so that a successor takes its place.
pub struct Replica {
    process: Child,
    port: u16,
    metrics: SocketAddr,
    arguments: Vec<String>,
}

impl Replica {
    /// Starts one; `more` are added to its command line.
    pub fn start(model: &Path, store: &str, more: &[&str]) -> Self {
        Self::logging_to(Stdio::inherit(), model, store, more)
    }

    pub fn logging_to(log: Stdio, model: &Path, store: &str, more: &[&str]) -> Self {
        let (port, metrics) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let fixed = [
            "serve",
            "--model",
            model.to_str().unwrap(),
            "--store",
            store,
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--metrics-listen",
            &metrics.to_string(),
            "--device",
            "cpu",
            "--drain-notice",
            "300ms",
            "--drain-timeout",
            "10s",
        ];
        let quiet: &[&str] = if more.contains(&"--log") { &[] } else { &["--log", "warn"] };
        let arguments: Vec<String> = [&fixed[..], quiet, more].concat().into_iter().map(Into::into).collect();
        let process = serve(&arguments, log);
        Self { process, port, metrics, arguments }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Waits until it says that traffic may come.
    pub async fn ready(&self) {
        let channel = Channel::from_shared(format!("http://{}", self.address())).unwrap().connect_lazy();
        let mut health = HealthClient::new(channel);
        let ready = async {
            loop {
                let check = HealthCheckRequest { service: "sesrec.v1.RankingService".into() };
                if health.check(check).await.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect("the replica becomes ready");
    }

    /// SIGTERM, as an orchestrator does it; returns when the process has drained and ended.
    pub fn terminate(&mut self) {
        let status = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        assert!(status.unwrap().success());
        assert!(self.process.wait().unwrap().success(), "a drained replica ends well");
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.process = serve(&self.arguments, Stdio::inherit());
    }

    /// Ranks that this process answered.
    pub fn ranks(&self) -> f64 {
        let text = self.http("GET", "/metrics", "");
        let line = text.lines().find_map(|line| line.strip_prefix(r#"sesrec_requests_total{rpc="Rank",code="OK"} "#));
        line.unwrap().parse().unwrap()
    }

    /// Asks the metrics port; the whole answer, headers included.
    pub fn http(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
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

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve(arguments: &[String], log: Stdio) -> Child {
    Command::new(env!("CARGO_BIN_EXE_sesrec")).args(arguments).stderr(log).spawn().unwrap()
}

/// nginx with the configuration of `deploy/`, but for addresses and paths.
pub struct Nginx {
    process: Child,
    port: u16,
}

impl Nginx {
    pub fn start(directory: &Path, replicas: &[String]) -> Self {
        let port = free_port();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx/nginx.conf");
        let mut settings = std::fs::read_to_string(shipped).unwrap();
        let temporary = directory.join("nginx").display().to_string();
        let names = ["sesrec-1:50051", "sesrec-2:50051", "sesrec-3:50051"];
        let addresses = names.into_iter().zip(replicas.iter().cloned());
        let listen = ("listen 50050", format!("listen 127.0.0.1:{port}"));
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
        format!("http://127.0.0.1:{}", self.port)
    }

    fn wait(&mut self) {
        for _ in 0..500 {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("nginx ended with {status}");
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("nginx did not listen for 10 s");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Not SIGKILL: the master has to take its workers with it.
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}
