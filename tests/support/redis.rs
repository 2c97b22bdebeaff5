//! A real redis-server on a free port, for the length of a test.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A server without persistence, killed when dropped.
pub struct RedisServer {
    process: Child,
    arguments: Vec<String>,
    port: u16,
    directory: TempDir,
}

impl RedisServer {
    /// Starts a server; `arguments` are added to its command line.
    pub fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let process = spawn(port, &directory, &arguments);
        let mut server = Self { process, arguments, port, directory };
        server.wait();
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection past the store.
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
        self.process = spawn(self.port, &self.directory, &self.arguments);
        self.wait();
    }

    /// Sends a signal such as "STOP" or "CONT".
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.process.id().to_string()]).status();
        assert!(status.expect("kill is there").success());
    }

    fn wait(&mut self) {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.process.try_wait().expect("a child") {
                panic!("redis-server on port {} ended with {status}", self.port);
            }
            let answered = TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && redis::Client::open(self.url())
                    .and_then(|client| client.get_connection())
                    .is_ok_and(|mut connection| redis::cmd("PING").query::<String>(&mut connection).is_ok());
            if answered {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server on port {} did not answer for 20 s", self.port);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, directory: &TempDir, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(directory.path())
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("redis-server can't be started ({error}): apt-get update && apt-get install -y redis-server")
        })
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    // A Cluster node also listens on port + 10000.
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 50_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}
