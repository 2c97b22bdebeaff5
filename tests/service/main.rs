//! The service over real ports with real clients: every method, every row of the error table, health, reflection,
//! overload, deadlines and the drain. The model's scores can be computed by hand and the store can be broken
//! (`support`); `tests/stores.rs` has the real stores.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/mod.rs"]
mod support;

mod append;
mod counted;
mod errors;
mod hostile;
mod lifecycle;
mod limits;
mod metrics_port;
mod outage;
mod overload;
mod rank;
mod reflection;
mod security;
mod swap;
