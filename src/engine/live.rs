//! A model that is ready to answer, with all that belongs to it.

use std::time::{Duration, SystemTime};

use crate::{data::Featurizer, domain::ModelVersion, model::RankingModel};

/// A loaded model. Requests hold it by `Arc` from featurizing to their answer, so that each answer comes from one
/// version and the old model is freed when its last request ends.
pub struct LoadedModel {
    /// Computes.
    pub ranker: Box<dyn RankingModel>,
    /// Turns histories into rows by this model's catalogue.
    pub featurizer: Featurizer,
    /// What it is.
    pub info: ModelInfo,
}

/// What is told about a loaded model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: ModelVersion,
    /// Architecture: "sesrec", ...
    pub kind: String,
    /// The bundle's config.json.
    pub config_json: String,
    /// When loading ended.
    pub loaded_at: SystemTime,
    /// How long loading and warming took.
    pub load_time: Duration,
}
