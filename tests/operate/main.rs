//! What an operator relies on, with the real parts: `sesrec` processes, redis-server, nginx, an OTLP receiver,
//! promtool.
#![cfg(unix)]

mod bench;
#[path = "../support/bundle.rs"]
mod bundle;
mod images;
mod ingest;
mod load;
mod metrics;
mod plant;
#[path = "../support/program.rs"]
mod program;
mod rank_log;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/redis.rs"]
mod redis_server;
mod replicas;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/mod.rs"]
mod support;
mod traces;
