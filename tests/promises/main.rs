//! The README's promises under faults: real `sesrec serve` processes, real Redis servers, real sockets.
//!
//! Figures are printed: `cargo test --test promises -- --nocapture`. What takes long is shortened here and has a
//! variable: `SESREC_KILLS=200`, `SESREC_OPERATIONS=100000`, `SESREC_OVERLOAD_SECONDS=30`, `SESREC_SAMPLES=2000`. What
//! is ignored because it takes even longer has one, too: `SESREC_EVENTS=1000000`.

mod appender;
mod bundle;
#[path = "../support/certificates.rs"]
mod certificates;
mod checker;
mod kills;
mod log;
#[path = "../support/metric.rs"]
mod metric;
#[cfg(target_os = "linux")]
mod overload;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/redis.rs"]
mod redis_server;
mod replicas;
mod secrets;
mod server;
mod swap;
mod toll;
mod visibility;

/// How much of something a run does.
fn amount(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}
