//! Any network that learns.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};

use super::{Baseline, Candidates, Network, NetworkRanker, Step, network::items_as_of};
use crate::{
    data::{Catalogue, HistoryBatch, HistoryLimits},
    model::{
        Architecture, BatchPlan, Embeddings, HistoryVectors, ItemRows, Losses, ModelError, RankingModel,
        TrainableModel, TrainingBatch, Weights, weights,
    },
    nn::{Dropout, Parameters},
};

/// A network over trainable variables.
#[derive(Debug)]
pub struct NetworkTrainable<B: Baseline> {
    config: B,
    catalogue: Arc<Catalogue>,
    parameters: Parameters,
    embeddings: Embeddings,
    network: B::Network,
}

impl<B: Baseline> NetworkTrainable<B> {
    /// Over copies of the tensors.
    pub fn new(
        config: B,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let parameters = weights::variables(&Architecture::parameters(&config), tensors, device)?;
        let vars = parameters.all().map(|(name, var)| (name.to_owned(), var.as_tensor().clone())).collect();
        let vars = Weights::new(&vars);
        Ok(Self {
            embeddings: Embeddings::new(Baseline::inputs(&config), catalogue.clone(), &vars)?,
            network: config.network(&vars)?,
            parameters,
            catalogue,
            config,
        })
    }
}

impl<B: Baseline> TrainableModel for NetworkTrainable<B> {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn limits(&self) -> HistoryLimits {
        self.config.inputs().limits
    }

    fn batch_plan(&self) -> BatchPlan {
        self.config.batch_plan()
    }

    fn logits(&self, history: &HistoryBatch, candidates: &[u32], dropout: &mut Dropout) -> Result<Tensor, ModelError> {
        let history = history.at_least_one_position();
        let items = items_as_of(&self.network, &history, candidates, |lists| {
            ItemRows::distinct(lists, |rows| self.network.items(&self.embeddings, rows, dropout))
        })?;
        let users = self.network.encode(&HistoryVectors::new(&history, &self.embeddings, &items), dropout)?;
        let vectors = items.list(2)?;
        let vectors = vectors.reshape((history.users(), (), vectors.dim(1)?))?;
        let candidates = Candidates { rows: candidates, vectors, embeddings: &self.embeddings };
        Ok(self.network.logits(&users, &candidates, dropout)?)
    }

    fn losses(&self, batch: &TrainingBatch, dropout: &mut Dropout) -> Result<Losses, ModelError> {
        let step = Step::new(&self.network, &self.embeddings, batch, dropout)?;
        Ok(self.network.losses(&step, dropout)?)
    }

    fn ranker(&self) -> Result<Box<dyn RankingModel>, ModelError> {
        let (tensors, device) = (self.parameters.snapshot()?, self.embeddings.device());
        Ok(Box::new(NetworkRanker::new(&self.config, self.catalogue.clone(), &tensors, device)?))
    }
}
