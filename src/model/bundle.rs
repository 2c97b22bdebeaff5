//! A model on disk with everything that serving needs.
//!
//! | file | what |
//! |---|---|
//! | `config.json` | which model, its sizes and constants |
//! | `model.safetensors` | its weights |
//! | `catalogue/` | items, users, queries, words, sources |
//! | `metrics.json` | how it did, where it was trained here |
//! | `manifest.json` | a BLAKE3 checksum per file |

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{Device, Tensor};

use super::{Manifest, ModelConfig, ModelError, RankerOptions, RankingModel, manifest::listed, tensor_file};
use crate::{
    data::{Catalogue, DatasetError, Existing, StagedDirectory},
    domain::ModelVersion,
};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const CATALOGUE: &str = "catalogue";
const METRICS: &str = "metrics.json";

/// Why a bundle can't be read or written; names the file.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file can't be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {message}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file has changed since the bundle was written.
    #[error("{path}: does not match its checksum in manifest.json: the copy is truncated or damaged; copy it again")]
    Checksum {
        /// Which file.
        path: PathBuf,
    },
    /// Weights or configuration that don't fit.
    #[error("{path}: {source}")]
    Model {
        /// Which file.
        path: PathBuf,
        /// What doesn't fit.
        source: ModelError,
    },
    /// The catalogue's files, or the directory that all go to.
    #[error(transparent)]
    Catalogue(#[from] DatasetError),
}

impl BundleError {
    /// For `map_err` on an operation about `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn model(path: PathBuf) -> impl FnOnce(ModelError) -> Self {
        move |source| Self::Model { path, source }
    }
}

/// A model with its catalogue. Weights are on the CPU.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The directory's name.
    pub name: String,
    /// Changes whenever a byte of the bundle changes; "unsaved" before it is written.
    pub version: ModelVersion,
    /// Which model.
    pub config: ModelConfig,
    /// What has a row in its tables.
    pub catalogue: Arc<Catalogue>,
    /// Its weights by name.
    pub tensors: HashMap<String, Tensor>,
    /// How it did.
    pub metrics: Option<serde_json::Value>,
}

impl Bundle {
    /// A bundle yet to be written. Checks that configuration, catalogue and weights fit each other.
    ///
    /// # Errors
    /// Names the setting, the catalogue's table or the tensor that doesn't fit.
    pub fn new(
        config: ModelConfig,
        catalogue: Arc<Catalogue>,
        tensors: HashMap<String, Tensor>,
        metrics: Option<serde_json::Value>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        config.check_catalogue(&catalogue)?;
        config.check_weights(&tensors)?;
        let tensors =
            tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?.contiguous()?)));
        let tensors = tensors.collect::<Result<_, ModelError>>()?;
        let version = ModelVersion::new("unsaved").expect("a valid id");
        Ok(Self { name: "unsaved".into(), version, config, catalogue, tensors, metrics })
    }

    /// Reads a bundle and checks all of it: checksums, shapes, finite weights, tables that hold the catalogue.
    ///
    /// # Errors
    /// Names the file, and the tensor where it is about one.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        let manifest = Manifest::read(dir, WEIGHTS)?;
        let required = [CONFIG, WEIGHTS].map(str::to_owned).into_iter();
        let catalogue_files = Catalogue::FILES.iter().map(|file| format!("{CATALOGUE}/{file}"));
        for file in required.chain(catalogue_files) {
            if !manifest.contains(&file) {
                let message = format!("lists no {file}: not a complete bundle");
                return Err(BundleError::Format { path: dir.join(Manifest::FILE), message });
            }
        }
        let path = dir.join(CONFIG);
        let json = fs::read(&path).map_err(BundleError::io(&path))?;
        let config = ModelConfig::from_json(&json).map_err(BundleError::model(path.clone()))?;
        // Millions of ids take as long as millions of rows.
        let (catalogue, weights) = std::thread::scope(|scope| {
            let weights = scope.spawn(|| tensor_file::read(&dir.join(WEIGHTS)));
            let catalogue = Catalogue::read(&dir.join(CATALOGUE));
            (catalogue, weights.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let tensors = manifest.check((dir, WEIGHTS), weights)?;
        let catalogue = catalogue?;
        config.check_catalogue(&catalogue).map_err(BundleError::model(path))?;
        config.check_weights(&tensors).map_err(BundleError::model(dir.join(WEIGHTS)))?;
        let metrics = if manifest.contains(METRICS) { Some(read_json(&dir.join(METRICS))?) } else { None };
        manifest.confirm(dir)?;
        let version = manifest.version();
        Ok(Self { name: name_of(dir), version, config, catalogue: Arc::new(catalogue), tensors, metrics })
    }

    /// Writes the bundle to `dir`, all or nothing: a temporary directory beside it is filled and then renamed. A bundle
    /// that is there already is replaced; any other directory with content is left alone.
    ///
    /// # Errors
    /// Names the file, or the directory that may not be replaced.
    pub fn write(&self, dir: &Path) -> Result<ModelVersion, BundleError> {
        let staged = StagedDirectory::begin(dir, Manifest::FILE, Existing::Replace)?;
        let version = self.fill(staged.path())?;
        staged.commit()?;
        Ok(version)
    }

    /// The model, ready to answer on a device, with these options.
    ///
    /// # Errors
    /// As [`ModelConfig::ranker`], which checks the weights again: whoever has the bundle may have changed them.
    pub fn ranker(&self, device: &Device, options: RankerOptions) -> Result<Box<dyn RankingModel>, ModelError> {
        self.config.ranker(self.catalogue.clone(), &self.tensors, device, options)
    }

    fn fill(&self, dir: &Path) -> Result<ModelVersion, BundleError> {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).map_err(BundleError::io(&path))
        };
        write(CONFIG, self.config.to_json())?;
        let path = dir.join(WEIGHTS);
        tensor_file::write(&self.tensors, &path).map_err(BundleError::io(&path))?;
        self.catalogue.write(&dir.join(CATALOGUE))?;
        if let Some(metrics) = &self.metrics {
            write(METRICS, serde_json::to_string_pretty(metrics).expect("JSON values have string keys"))?;
        }
        let manifest = Manifest::of(dir)?;
        manifest.write(dir)?;
        // The rename must not reach the disk before the content does.
        for name in listed(dir, "")? {
            let path = dir.join(name);
            crate::files::sync(&path).map_err(BundleError::io(&path))?;
        }
        Ok(manifest.version())
    }
}

fn read_json(path: &Path) -> Result<serde_json::Value, BundleError> {
    let json = fs::read(path).map_err(BundleError::io(path))?;
    serde_json::from_slice(&json)
        .map_err(|error| BundleError::Format { path: path.to_owned(), message: error.to_string() })
}

fn name_of(dir: &Path) -> String {
    let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    absolute.file_name().map_or_else(|| "bundle".into(), |name| name.to_string_lossy().into_owned())
}
