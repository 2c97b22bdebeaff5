//! Ports for processes that have to be told theirs.

use std::{
    net::{TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports that systems give to connections and to listeners on port 0 (from 32768 on Linux): nothing takes one
/// of these between this look and the process's own, or while the process is restarted.
const FIRST: u16 = 12_000;
const COUNT: u16 = 8_000;
/// Where a Redis Cluster's node listens, too.
const BUS: u16 = 10_000;

/// A TCP port that nobody else has until this is dropped, whether its process listens or not.
pub struct Port {
    number: u16,
    /// The UDP port of the same number, which keeps other tests away, also those of other processes.
    _claim: UdpSocket,
}

impl Port {
    pub fn claim() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let number = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
            let Ok(claim) = UdpSocket::bind(("127.0.0.1", number)) else { continue };
            let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if free(number) && free(number + BUS) {
                return Self { number, _claim: claim };
            }
        }
        panic!("none of {COUNT} ports from {FIRST} on is free");
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
