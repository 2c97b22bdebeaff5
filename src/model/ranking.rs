//! What the engine knows of a model.

use std::{any::Any, sync::Arc};

use candle_core::Device;

use crate::{
    data::{HistoryLimits, UserFeatures},
    domain::{HistoryWeights, ItemAttention},
};

/// A model could not compute.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The tensor library's error, with the shapes it carries.
    #[error("model: {0}")]
    Tensor(#[from] candle_core::Error),
    /// Weights that don't fit the configuration.
    #[error("tensor {name}: {message}")]
    Weights {
        /// Which tensor.
        name: String,
        /// What doesn't fit.
        message: String,
    },
    /// A configuration that makes no sense.
    #[error("configuration: {0}")]
    Config(String),
}

/// How a model answers. The defaults are for everyone but a server, which has them from its flags: f32 throughout, and
/// an item table of 4 GiB at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankerOptions {
    /// Host memory for vectors that are precomputed by item; a catalogue that takes more has them computed with each
    /// request.
    pub item_table_bytes: u64,
    /// On a GPU, the prediction layers' products in TF32 (10 bits of mantissa) instead of f32.
    pub reduced_precision: bool,
}

impl Default for RankerOptions {
    fn default() -> Self {
        Self { item_table_bytes: 4 << 30, reduced_precision: false }
    }
}

/// A trained model on a device. Everything that doesn't depend on the candidate happens in `encode`, so that its result
/// can be cached per user; everything that doesn't depend on the user is computed once, when the model is loaded.
///
/// Calls block; the engine makes them on the device's own thread. Both batch: answers don't depend on the company.
pub trait RankingModel: Send + Sync {
    /// How much of a history it sees.
    fn limits(&self) -> HistoryLimits;

    /// Where it computes.
    fn device(&self) -> &Device;

    /// Histories to user states, in order. Any history is fine, empty ones included.
    fn encode(&self, users: &[&UserFeatures]) -> Result<Vec<UserState>, ModelError>;

    /// Scores of every request's candidates (item rows), in order. Requests may differ in length.
    ///
    /// A score is the logit of a click, the model's last number before its sigmoid: in f32 the probabilities of good
    /// candidates round to the same number near 1, and their order would be lost.
    fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>, ModelError>;

    /// How the events of an encoded history were weighed, and the attention that each gives to `items`.
    fn explain(&self, state: &UserState, items: &[u32]) -> Result<(HistoryWeights, Vec<ItemAttention>), ModelError>;
}

/// One user's candidates.
#[derive(Debug, Clone, Copy)]
pub struct ScoreRequest<'a> {
    /// From [`RankingModel::encode`] of the same model.
    pub state: &'a UserState,
    /// Candidate item rows; valid rows of the catalogue.
    pub items: &'a [u32],
}

impl ScoreRequest<'_> {
    /// The scores of all requests' candidates, which stand one after another, by request.
    pub(super) fn split(requests: &[Self], mut scores: &[f32]) -> Vec<Vec<f32>> {
        let of_one = |request: &Self| {
            let (own, others) = scores.split_at(request.items.len());
            scores = others;
            own.to_vec()
        };
        requests.iter().map(of_one).collect()
    }
}

/// An encoded user. Opaque outside its model; cheap to clone.
#[derive(Clone)]
pub struct UserState {
    state: Arc<dyn Any + Send + Sync>,
    bytes: usize,
}

impl UserState {
    /// Wraps a model's state that occupies `bytes`.
    pub fn new<S: Any + Send + Sync>(state: S, bytes: usize) -> Self {
        Self { state: Arc::new(state), bytes }
    }

    /// The state, for the model that made it.
    ///
    /// # Panics
    /// If another kind of model made it: the engine keys states by model version, so that is a bug.
    pub fn get<S: Any + Send + Sync>(&self) -> &S {
        self.state.downcast_ref().expect("a user state is read by the model that made it")
    }

    /// Memory it occupies, device memory included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl std::fmt::Debug for UserState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UserState({} bytes)", self.bytes)
    }
}
