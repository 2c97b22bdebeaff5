//! The files that a released model consists of, read together and checked against each other.

use std::{fs, path::PathBuf, sync::Arc};

use super::{ConvertError, item_table, read_catalogue, read_weights};
use crate::model::{Bundle, ModelConfig};

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
