//! What a configuration of a model provides: everything that depends on which model it is.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};

use super::{InputConfig, ModelError, Parameter, RankerOptions, RankingModel, TrainableModel};
use crate::data::{Catalogue, Dataset};

/// A model's configuration, as the rest of the program sees it: behind a [`ModelConfig`](super::ModelConfig), which
/// checks tensors and itself before it hands them on.
pub(crate) trait Architecture {
    /// "sesrec", ...: the "model" of `config.json`.
    fn kind(&self) -> &'static str;

    /// What it embeds, and how much of a history it sees.
    fn inputs(&self) -> &InputConfig;

    /// Grows when the same settings, recipe and seed come to another model than before, so that finished runs of before
    /// aren't taken for new ones.
    fn revision(&self) -> u32 {
        0
    }

    /// Checks that the settings fit each other.
    fn validate(&self) -> Result<(), ModelError>;

    /// Every tensor of the model.
    fn parameters(&self) -> Vec<Parameter>;

    /// The tensors that hold rows instead of numbers, built from the training part of a data set and from nothing
    /// later: neighbours in a graph, the queries of an item.
    fn tables(&self, dataset: &Dataset) -> Result<HashMap<String, Tensor>, ModelError>;

    /// Checks the contents of such tensors, which come from files; their names, shapes and types are right.
    fn check_tables(&self, _: &HashMap<String, Tensor>) -> Result<(), ModelError> {
        Ok(())
    }

    /// A model that learns on from given tensors, which fit [`Self::parameters`].
    fn trainable(
        &self,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Box<dyn TrainableModel>, ModelError>;

    /// A model that answers, from tensors that fit [`Self::parameters`], with those of these options that it knows.
    fn ranker(
        &self,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
        options: RankerOptions,
    ) -> Result<Box<dyn RankingModel>, ModelError>;
}
