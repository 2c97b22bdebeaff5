//! What the trainer knows of a model.

use candle_core::Tensor;

use super::{ModelError, RankingModel};
use crate::{
    data::HistoryBatch,
    nn::{Dropout, Parameters},
};

/// One step's examples, in host memory.
#[derive(Debug, Clone)]
pub struct TrainingBatch {
    /// Histories, [B] users.
    pub history: HistoryBatch,
    /// The clicked item of each example `[B]`.
    pub positives: Vec<u32>,
    /// Sampled items of each example `[B, N]`.
    pub negatives: Vec<u32>,
    /// Item rows sampled for the whole batch: the alignment loss's negatives `[M]`.
    pub alignment_items: Vec<u32>,
    /// Query rows sampled for the whole batch `[M]`.
    pub alignment_queries: Vec<u32>,
}

/// A step's losses, all scalars.
#[derive(Debug, Clone)]
pub struct Losses {
    /// What is minimised: the weighted sum.
    pub total: Tensor,
    /// The parts, unweighted, by the name that progress and TensorBoard show.
    pub parts: Vec<(&'static str, Tensor)>,
}

/// A model that learns by gradient descent.
pub trait TrainableModel: Send {
    /// Everything that learns, by the names of the bundle's tensors.
    fn parameters(&self) -> &Parameters;

    /// The losses of a batch; `total.backward()` gives every parameter a gradient.
    fn losses(&self, batch: &TrainingBatch, dropout: &mut Dropout) -> Result<Losses, ModelError>;

    /// The model as it stands, for validation: later steps don't change it.
    fn ranker(&self) -> Result<Box<dyn RankingModel>, ModelError>;
}
