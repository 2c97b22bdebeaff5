//! Why training ends without a model.

use std::path::PathBuf;

use super::RecipeError;
use crate::{data::NegativesError, eval::EvaluationError, model::ModelError, nn::OptimizerError};

/// Why training ends without a model.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// A hyper-parameter that makes no sense.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// No interaction to learn from.
    #[error("{0}")]
    NoTargets(String),
    /// Negatives can't be drawn.
    #[error(transparent)]
    Negatives(#[from] NegativesError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The optimizer refused a step.
    #[error("epoch {epoch}, step {step}: {source}")]
    Optimizer {
        /// From 1.
        epoch: usize,
        /// Of the epoch, from 1.
        step: usize,
        /// What it refused.
        source: OptimizerError,
    },
    /// A loss or gradient that is NaN or infinite. The weights are those of the step before.
    #[error(
        "epoch {epoch}, step {step}: {what} is not finite; the batch's users: {users}. \
         The weights were not changed. Try a smaller learning rate; if it happens at the first steps, look at these users' logs"
    )]
    NotFinite {
        /// From 1.
        epoch: usize,
        /// Of the epoch, from 1.
        step: usize,
        /// Which loss or gradient, with its value.
        what: String,
        /// Ids of the batch's first users.
        users: String,
    },
    /// Validation failed.
    #[error("validation after epoch {epoch}: {source}")]
    Validation {
        /// From 1.
        epoch: usize,
        /// Why.
        source: EvaluationError,
    },
    /// A checkpoint or event file can't be written or read.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint that doesn't belong to this run.
    #[error("{path}: {message}")]
    Checkpoint {
        /// Which checkpoint.
        path: PathBuf,
        /// What is wrong, and what to do.
        message: String,
    },
}
