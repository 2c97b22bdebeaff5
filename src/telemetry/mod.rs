//! What an operator sees: metrics, logs, and the HTTP port with `/metrics`, `/healthz` and `/readyz`.
//!
//! Every metric is declared in `metrics`, under the name and help text that dashboards and alerts use; `guards` count
//! what starts and ends (a guard that is dropped was cancelled, and is counted so).

mod guards;
pub mod http;
mod labels;
pub mod logging;
mod metrics;
mod readiness;

pub use guards::{RequestGuard, StoreCallGuard};
pub use labels::{
    Abandoned, AppendOutcome, ItemPlace, ModelLabels, Phase, Rejection, Rpc, Stage, StoreFailure, StoreOperation,
};
pub(crate) use metrics::BatchSize;
pub use metrics::{Metrics, RequestStages};
pub use readiness::{Readiness, ReadinessWatch};
