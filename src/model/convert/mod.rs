//! From the PyTorch release's files to a bundle: a state dict, a configuration, CSV catalogues.

mod catalogue;
mod item_table;
mod weights;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Bundle, ModelConfig, ModelError};

pub use catalogue::read_catalogue;
pub use weights::read_weights;

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
    fn file(path: &Path, message: impl ToString) -> Self {
        Self::File { path: path.display().to_string(), message: message.to_string() }
    }
}

/// What is converted.
#[derive(Debug, Clone)]
pub struct Sources {
    /// `.safetensors`, or a pickled state dict (`.pth`, `.pt`, `.bin`).
    pub weights: PathBuf,
    /// `config.json` as in a bundle; the "model" key may be missing.
    pub config: PathBuf,
    /// The directory with `items.csv`, `users.csv`, `queries.csv`, `sources.csv`, and optionally `words.csv`.
    pub catalogue: PathBuf,
}

/// Reads everything and checks that it fits together.
///
/// # Errors
/// Names the file, or the tensor that is missing, unexpected, of another shape or not finite.
pub fn convert(sources: &Sources) -> Result<Bundle, ConvertError> {
    let json = fs::read(&sources.config).map_err(|error| ConvertError::file(&sources.config, error))?;
    let config = ModelConfig::from_json(&json).map_err(|error| ConvertError::file(&sources.config, error))?;
    let catalogue = read_catalogue(&sources.catalogue, &config)?;
    let tensors = item_table::with_projection(&config, read_weights(&sources.weights)?)?;
    Ok(Bundle::new(config, Arc::new(catalogue), tensors, None)?)
}
