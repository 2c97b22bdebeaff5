//! Why an experiment can't go on.

use std::path::{Path, PathBuf};

use crate::{data::NegativesError, eval::EvaluationError, model::ModelError, train::TrainingError};

/// Why an experiment can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// A file can't be written or read.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A declaration that can't be run; names the key.
    #[error("{0}")]
    Declaration(String),
    /// Somebody else writes into the directory.
    #[error("{0}: another experiment is running in this directory: wait for it, or choose another --out")]
    Occupied(PathBuf),
    /// The directory has something else in it.
    #[error("{0} has logs, a data set or a bundle in it: choose another --out")]
    Foreign(PathBuf),
    /// A variant whose settings don't fit.
    #[error("{variant}: {source}")]
    Variant {
        /// Its name.
        variant: String,
        /// What doesn't fit.
        source: ModelError,
    },
    /// Nothing to rank among.
    #[error(transparent)]
    Negatives(#[from] NegativesError),
    /// A model can't learn.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// A model can't be evaluated.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// A model can't compute.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl ExperimentError {
    /// For `map_err` on an operation about `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
