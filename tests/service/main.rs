//! The service over real ports with real clients: every method, every row of the error table, health, reflection,
//! overload, deadlines and the drain. The model's scores can be computed by hand and the store can be broken
//! (`support`); `tests/stores.rs` has the real stores.

#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/damage.rs"]
mod damage;
#[path = "../support/program.rs"]
mod program;
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
mod raw;
mod reflection;
mod security;
mod swap;
