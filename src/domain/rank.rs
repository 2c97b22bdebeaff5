//! The parts of a ranking answer.

use std::time::Duration;

/// One candidate with its score. `candidate` is its place in the request.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedItem {
    /// Place in the request's candidate list.
    pub candidate: usize,
    /// σ of the model's logit, in [0, 1]: the probability of a click for a model that was trained to tell clicks from
    /// negatives (binary cross-entropy, `--recipe paper`); for one that was trained to choose among candidates
    /// (softmax, `--recipe best`) it orders the candidates of an answer, and no more.
    pub score: f32,
}

/// How one event of the history was weighed (eq. 8-11).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EventWeight {
    /// Co-attention weight; a side's weights sum to 1.
    pub coattention: f32,
    /// In the positive set: an interest that search and recommendation share.
    pub similar: bool,
    /// In the negative set.
    pub dissimilar: bool,
}

/// The weights of both sides, in the order of the *encoded* events: unknown items are not among them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HistoryWeights {
    /// Recommendation side.
    pub recommendations: Vec<EventWeight>,
    /// Search side.
    pub searches: Vec<EventWeight>,
}

/// The attention that the events of one side receive for a candidate in the three poolings (eq. 14-16).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventAttention {
    /// Over all events.
    pub all: Vec<f32>,
    /// Over the positive set, 0 outside.
    pub similar: Vec<f32>,
    /// Over the negative set, 0 outside.
    pub dissimilar: Vec<f32>,
}

/// Both sides' attention for one candidate.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemAttention {
    /// Recommendation side.
    pub recommendations: EventAttention,
    /// Search side.
    pub searches: EventAttention,
}

/// Where a request's time went in the engine; the stages are disjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageTimings {
    /// Waiting for the device.
    pub queue: Duration,
    /// History to user state; zero when it was cached.
    pub encode: Duration,
    /// User state and candidates to scores.
    pub score: Duration,
}
