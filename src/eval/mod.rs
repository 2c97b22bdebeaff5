//! How well a model ranks: leave-one-out, the clicked item among sampled negatives, six metrics.
//!
//! [`Evaluator`] asks any [`RankingModel`](crate::model::RankingModel) as serving does, through `encode` and `score`,
//! and keeps every user's rank, from which [`Metrics`] follow. [`popularity_ranks`] and the [`HandmadeScore`] are what
//! a model has to beat. [`LiveJoin`] measures what was really shown.

mod chunks;
mod evaluator;
mod handmade;
mod live;
mod metrics;
mod popularity;
mod report;
mod row_map;
#[cfg(test)]
mod tests;

pub(crate) use chunks::in_chunks;
pub(crate) use evaluator::progress_bar;
pub use evaluator::{EvaluationError, Evaluator, UserRank, candidates};
pub use handmade::{HandmadeScore, HandmadeWeights};
pub use live::{LiveJoin, LiveMetrics, LiveReport};
pub use metrics::{Metrics, Rank, RankError};
pub use popularity::popularity_ranks;
pub use report::{MetricsRow, metrics_table};
pub use row_map::{RowMap, RowMapError};
