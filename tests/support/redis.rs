//! A real redis-server on a free port, for the length of a test.

#[path = "ports.rs"]
pub mod ports;
#[allow(clippy::duplicate_mod, reason = "a part of several helpers, each of which can be there alone")]
#[path = "signal.rs"]
mod signal;
#[allow(clippy::duplicate_mod, reason = "a part of several helpers, each of which can be there alone")]
#[path = "wait.rs"]
mod wait;

use std::{
    fs::File,
    io::Write,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ports::Port;
use tempfile::TempDir;
pub use wait::{PATIENCE, until, until_blocking};

/// A server without persistence, killed when dropped.
pub struct RedisServer {
    process: Child,
    arguments: Vec<String>,
    port: Port,
    directory: TempDir,
}

impl RedisServer {
    /// Starts a server; `arguments` are added to its command line.
    pub fn start(arguments: &[&str]) -> Self {
        let port = Port::claim();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let process = spawn(port.number(), &directory, &arguments);
        let mut server = Self { process, arguments, port, directory };
        server.wait();
        server
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// A connection past the store.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// The same server again after `kill`: same port, same directory.
    pub fn start_again(&mut self) {
        self.mend();
        self.process = spawn(self.port(), &self.directory, &self.arguments);
        self.wait();
    }

    /// What belongs before every start of a Redis that may have been killed. A kill can tear the last transaction of
    /// the append-only file; Redis itself cuts off the torn command only, and carries out what stands before it at the
    /// start after the next.
    fn mend(&self) {
        let manifest = self.directory.path().join("appendonlydir/appendonly.aof.manifest");
        if !manifest.exists() {
            return;
        }
        let mut check = Command::new("redis-check-aof")
            .arg("--fix")
            .arg(manifest)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-check-aof comes with redis-server");
        // Where there is nothing to mend it doesn't ask.
        let _ = check.stdin.take().expect("piped").write_all(b"y\n");
        assert!(check.wait().expect("it ends").success(), "the append-only file can't be mended");
    }

    /// Cuts the end of the append-only file off, as a kill in the middle of its last write does.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub fn tear(&self, bytes: u64) {
        let files = std::fs::read_dir(self.directory.path().join("appendonlydir")).unwrap();
        let mut paths = files.map(|file| file.unwrap().path());
        let path = paths.find(|path| path.to_string_lossy().ends_with(".incr.aof")).expect("an append-only file");
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
    }

    /// Sends a signal such as "STOP" or "CONT".
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub fn signal(&self, name: &str) {
        signal::send(name, self.process.id());
    }

    /// Becomes a replica, and is in sync.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub async fn follow(&self, primary: &Self) {
        redis_cli(&["-p", &self.port().to_string(), "replicaof", "127.0.0.1", &primary.port().to_string()]);
        self.in_sync(primary).await;
    }

    async fn in_sync(&self, primary: &Self) {
        let (port, followed) = (self.port().to_string(), format!("master_port:{}\r", primary.port()));
        let started = Instant::now();
        loop {
            let said = redis_cli(&["-p", &port, "info", "replication"]);
            if said.contains(&followed) && said.contains("master_link_status:up") {
                return;
            }
            let waited = started.elapsed();
            assert!(waited < PATIENCE, "the replica is not in sync with {}:\n{said}\n{}", primary.port(), self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn wait(&mut self) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("a child") {
                panic!("redis-server on port {} ended with {status}:\n{}", self.port(), self.log());
            }
            let answer = redis::Client::open(self.url())
                .and_then(|client| client.get_connection())
                .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
            match answer {
                Ok(_) => return,
                // It asks for a password: it is there.
                Err(error) if error.code().is_some_and(|code| code != "LOADING") => return,
                Err(error) => {
                    let waited = started.elapsed();
                    assert!(waited < PATIENCE, "redis-server on port {}: {error}\n{}", self.port(), self.log());
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join(LOG)).unwrap_or_default()
    }
}

/// In a server's directory.
const LOG: &str = "redis.log";

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, directory: &TempDir, arguments: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(directory.path().join(LOG)).expect("a log file");
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--repl-diskless-sync-delay", "0"])
        .arg("--dir")
        .arg(directory.path())
        .args(arguments)
        .stdout(log)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("redis-server can't be started ({error}): apt-get update && apt-get install -y redis-server")
        })
}

/// Runs `redis-cli` to its end; its output.
pub fn redis_cli(arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(arguments).output().expect("redis-cli comes with redis-server");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How long a primary has to be silent before the Sentinel replaces it: longer than a busy machine may hold it up,
/// where it is alive; soon, where it was killed.
const ALIVE: Duration = PATIENCE;
const KILLED: Duration = Duration::from_millis(500);

/// A Sentinel that watches one primary as service `main`.
pub struct Sentinel {
    process: Child,
    port: Port,
    _directory: TempDir,
}

impl Sentinel {
    pub fn start(primary: &RedisServer) -> Self {
        let (port, directory) = (Port::claim(), tempfile::tempdir().unwrap());
        let file = directory.path().join("sentinel.conf");
        let settings = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main {}\nsentinel failover-timeout main 2000\n",
            port.number(),
            directory.path().display(),
            primary.port(),
            ALIVE.as_millis(),
        );
        std::fs::write(&file, settings).unwrap();
        let process = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server can be started");
        Self { process, port, _directory: directory }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    fn replace_after(&self, silence: Duration) {
        let (port, silence) = (self.port().to_string(), silence.as_millis().to_string());
        let answer = redis_cli(&["-p", &port, "sentinel", "set", "main", "down-after-milliseconds", &silence]);
        assert_eq!(answer.trim(), "OK");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A primary with replicas in sync, watched by a Sentinel.
#[allow(dead_code, reason = "each test binary uses its part")]
pub struct Guarded {
    servers: Vec<RedisServer>,
    /// Which of them is the primary.
    primary: usize,
    sentinel: Sentinel,
}

#[allow(dead_code, reason = "each test binary uses its part")]
impl Guarded {
    pub async fn start(replicas: usize) -> Self {
        let servers: Vec<_> = (0..=replicas).map(|_| RedisServer::start(&[])).collect();
        for replica in &servers[1..] {
            replica.follow(&servers[0]).await;
        }
        let sentinel = Sentinel::start(&servers[0]);
        let guarded = Self { servers, primary: 0, sentinel };
        guarded.seen().await;
        guarded
    }

    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.sentinel.port())
    }

    pub fn replicas(&self) -> impl Iterator<Item = &RedisServer> {
        self.servers.iter().enumerate().filter(|&(n, _)| n != self.primary).map(|(_, server)| server)
    }

    /// SIGKILL, which the Sentinel will notice.
    pub fn kill_primary(&mut self) {
        self.sentinel.replace_after(KILLED);
        self.servers[self.primary].kill();
    }

    /// Waits until a replica has taken over from the killed primary; that one comes back as a replica, without its
    /// data: what is kept is kept by the others.
    pub async fn recover(&mut self) {
        let promoted = self.promoted().await;
        let killed = std::mem::replace(&mut self.primary, promoted);
        let primary = &self.servers[self.primary];
        for replica in self.replicas().filter(|replica| replica.port() != self.servers[killed].port()) {
            replica.in_sync(primary).await;
        }
        self.servers[killed].start_again();
        // Sentinel would do it in ten seconds.
        self.servers[killed].follow(&self.servers[self.primary]).await;
        self.seen().await;
    }

    /// Waits until the Sentinel names another primary, whom it will not replace so soon.
    async fn promoted(&self) -> usize {
        let (asked, mut promoted) = (self.sentinel.port().to_string(), None);
        until("a replica is promoted", async || {
            let answer = redis_cli(&["-p", &asked, "sentinel", "get-master-addr-by-name", "main"]);
            let named: Option<u16> = answer.lines().nth(1).and_then(|port| port.trim().parse().ok());
            let primary = self.servers.iter().position(|server| Some(server.port()) == named);
            promoted = primary.filter(|&primary| primary != self.primary);
            promoted.is_some()
        })
        .await;
        self.sentinel.replace_after(ALIVE);
        promoted.expect("one was promoted")
    }

    /// Waits until the Sentinel knows all replicas, none `s_down` or `disconnected`.
    async fn seen(&self) {
        let port = self.sentinel.port().to_string();
        until("the Sentinel sees all replicas", async || {
            let known = redis_cli(&["-p", &port, "sentinel", "replicas", "main"]);
            known.matches("flags\nslave\n").count() == self.servers.len() - 1
        })
        .await;
    }
}

/// Three nodes that share the slots.
#[allow(dead_code, reason = "each test binary uses its part")]
pub struct Cluster {
    pub nodes: Vec<RedisServer>,
}

#[allow(dead_code, reason = "each test binary uses its part")]
impl Cluster {
    pub fn start() -> Self {
        // None of them is to believe that another is gone because the machine is busy.
        Self::of(3, &["--cluster-node-timeout", "15000"], &[])
    }

    /// Three primaries, each with a replica that takes over soon.
    pub async fn with_replicas() -> Self {
        let cluster = Self::of(6, &["--cluster-node-timeout", "3000"], &["--cluster-replicas", "1"]);
        for replica in &cluster.nodes[3..] {
            let port = replica.port().to_string();
            until("a replica is in sync", async || {
                redis_cli(&["-p", &port, "info", "replication"]).contains("master_link_status:up")
            })
            .await;
        }
        cluster
    }

    fn of(nodes: usize, arguments: &[&str], creation: &[&str]) -> Self {
        let arguments = [&["--cluster-enabled", "yes"], arguments].concat();
        let nodes: Vec<_> = (0..nodes).map(|_| RedisServer::start(&arguments)).collect();
        let cluster = Self { nodes };
        let addresses = cluster.addresses();
        let create = [&["--cluster", "create"], &addresses.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat();
        let output = redis_cli(&[&create[..], creation, &["--cluster-yes"]].concat());
        assert!(output.contains("All 16384 slots covered"), "{output}");
        let up = |node: &RedisServer| {
            redis_cli(&["-p", &node.port().to_string(), "cluster", "info"]).contains("cluster_state:ok")
        };
        until_blocking("the cluster is up", || cluster.nodes.iter().all(up));
        cluster
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect()
    }

    pub fn url(&self) -> String {
        let addresses = self.addresses();
        format!("redis+cluster://{},{}", addresses[0], addresses[1])
    }
}
