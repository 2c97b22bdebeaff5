//! What the service asks of the engine, and what it gets.

use std::sync::Arc;

use super::LoadedModel;
use crate::{
    data::UserFeatures,
    domain::{Deadline, HistoryVersion, HistoryWeights, ItemAttention, RankedItem, StageTimings, UserId},
};

/// One Rank: one queue entry, after one admission decision.
#[derive(Clone)]
pub struct RankJob {
    /// The model that made `features` and `items`; it will answer, whatever is live by then.
    pub model: Arc<LoadedModel>,
    /// The user as that model sees them.
    pub features: Arc<UserFeatures>,
    /// Under which the encoded user may be cached; `None` for inline histories.
    pub cache_key: Option<(UserId, HistoryVersion)>,
    /// Candidate rows, in request order.
    pub items: Vec<u32>,
    /// How many to return; 0 is all.
    pub top_k: usize,
    /// Whether to explain the returned items.
    pub explain: Explain,
    /// No model time is spent after it.
    pub deadline: Deadline,
}

/// Whether attention weights are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Explain {
    /// Scores only.
    No,
    /// Weights of every event, attention for the first returned items, as many as the engine's options say.
    Yes,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// By descending score, ties by request order, at most `top_k`.
    pub items: Vec<RankedItem>,
    /// With [`Explain::Yes`]: weights by encoded event, attention parallel to the first `items`.
    pub explanation: Option<(HistoryWeights, Vec<ItemAttention>)>,
    /// Where the time went.
    pub timings: StageTimings,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The queue or the admission limit is full; decided at once.
    #[error("overloaded: {0}; try again later")]
    Overloaded(&'static str),
    /// The deadline passed, also while queued.
    #[error("deadline exceeded before the model could answer")]
    DeadlineExceeded,
    /// The engine is shutting down.
    #[error("shutting down")]
    ShuttingDown,
    /// The model failed.
    #[error("{0}")]
    Model(String),
}
