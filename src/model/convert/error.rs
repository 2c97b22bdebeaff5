//! Why a model can't be converted, with the file that is to blame.

use std::path::Path;

use crate::model::ModelError;

/// Why a model can't be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A file that can't be read, or is not what it should be.
    #[error("{path}: {message}")]
    File {
        /// Which file, with the line where it is about one.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// Weights that don't fit the configuration, a configuration that doesn't fit the catalogue.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl ConvertError {
    pub(super) fn file(path: &Path, message: impl ToString) -> Self {
        Self::File { path: path.display().to_string(), message: message.to_string() }
    }
}
