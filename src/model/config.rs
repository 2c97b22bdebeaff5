//! Which model it is: the one place that lists them.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    ModelError, RankingModel, TrainableModel,
    sesrec::{self, SesRecConfig, SesRecRanker, SesRecTrainable},
};
use crate::data::{Catalogue, HistoryLimits};

/// A bundle's `config.json`: `{"model": "sesrec", …}` with that model's own settings beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case")]
pub enum ModelConfig {
    /// SESRec.
    Sesrec(SesRecConfig),
}

impl ModelConfig {
    /// From JSON; without a "model" key, as the release's files are, it is SESRec's.
    pub fn from_json(json: &[u8]) -> Result<Self, ModelError> {
        let wrong = |error: serde_json::Error| ModelError::Config(error.to_string());
        let mut value: serde_json::Value = serde_json::from_slice(json).map_err(wrong)?;
        let Some(settings) = value.as_object_mut() else {
            return Err(ModelError::Config("expected a JSON object".into()));
        };
        settings.entry("model").or_insert_with(|| "sesrec".into());
        let config: Self = serde_json::from_value(value).map_err(wrong)?;
        config.validate()?;
        Ok(config)
    }

    /// Indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a configuration has string keys only")
    }

    /// "sesrec", ...
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sesrec(_) => "sesrec",
        }
    }

    /// How much of a history it sees.
    pub fn limits(&self) -> HistoryLimits {
        match self {
            Self::Sesrec(config) => config.limits,
        }
    }

    /// Checks that the settings fit each other.
    pub fn validate(&self) -> Result<(), ModelError> {
        match self {
            Self::Sesrec(config) => config.validate(),
        }
    }

    /// Checks that the model's tables hold the catalogue's rows.
    pub fn check_catalogue(&self, catalogue: &Catalogue) -> Result<(), ModelError> {
        match self {
            Self::Sesrec(config) => config.check_catalogue(catalogue),
        }
    }

    /// Checks that the tensors are this model's: names, shapes, finite values.
    pub fn check_weights(&self, tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
        match self {
            Self::Sesrec(config) => sesrec::check(config, tensors),
        }
    }

    /// A model that begins to learn; equal seeds begin equally.
    pub fn new_trainable(
        &self,
        catalogue: Arc<Catalogue>,
        seed: u64,
        device: &Device,
    ) -> Result<Box<dyn TrainableModel>, ModelError> {
        match self {
            Self::Sesrec(config) => Ok(Box::new(SesRecTrainable::new(config.clone(), catalogue, seed, device)?)),
        }
    }

    /// A model that learns on from given weights.
    pub fn trainable_from(
        &self,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Box<dyn TrainableModel>, ModelError> {
        match self {
            Self::Sesrec(config) => {
                Ok(Box::new(SesRecTrainable::from_tensors(config.clone(), catalogue, tensors, device)?))
            }
        }
    }

    /// A model that answers.
    pub fn ranker(
        &self,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Box<dyn RankingModel>, ModelError> {
        match self {
            Self::Sesrec(config) => Ok(Box::new(SesRecRanker::new(config.clone(), catalogue, tensors, device)?)),
        }
    }
}
