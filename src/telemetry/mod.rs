//! What an operator sees: metrics, logs, traces, and the HTTP port with `/metrics`, `/healthz` and `/readyz`.
//!
//! Every metric is declared in `metrics`, under the name and help text that dashboards and alerts use; `guards` count
//! what starts and ends (a guard that is dropped was cancelled, and is counted so).

pub mod descriptors;
mod drift;
mod exposition;
mod guards;
pub mod http;
mod labels;
pub mod logging;
mod memory;
mod metrics;
pub mod rank_log;
mod readiness;
mod throttle;
pub mod trace;

pub(crate) use guards::ConnectionGuard;
pub use guards::{RequestGuard, StoreCallGuard};
pub use labels::{
    Abandoned, AppendOutcome, ItemPlace, ModelLabels, Phase, RankLogOutcome, Rejection, Reloaded, Rpc, Stage,
    StoreFailure, StoreOperation,
};
pub(crate) use memory::resident_bytes;
pub(crate) use metrics::BatchSize;
pub use metrics::{Metrics, RequestStages};
pub use readiness::{Readiness, ReadinessWatch};
pub(crate) use throttle::Throttle;
