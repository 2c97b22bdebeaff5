//! SESRec that learns.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};

use super::{Network, SesRecConfig, SesRecRanker, TrainingInputs, TrainingOutputs, check, initialise};
use crate::{
    data::Catalogue,
    model::{Losses, ModelError, RankingModel, TrainableModel, TrainingBatch},
    nn::{Dropout, Parameters},
};

/// The network over trainable variables.
#[derive(Debug)]
pub struct SesRecTrainable {
    config: SesRecConfig,
    catalogue: Arc<Catalogue>,
    parameters: Parameters,
    network: Network,
}

impl SesRecTrainable {
    /// New weights from a seed.
    pub fn new(
        config: SesRecConfig,
        catalogue: Arc<Catalogue>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let tensors = initialise(&config, seed)?;
        Self::from_tensors(config, catalogue, &tensors, device)
    }

    /// Continues from given weights: a checkpoint, a converted model.
    pub fn from_tensors(
        config: SesRecConfig,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        check(&config, tensors)?;
        let on_device = |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.to_device(device)?));
        let tensors = tensors.iter().map(on_device).collect::<Result<HashMap<_, _>, ModelError>>()?;
        let parameters = Parameters::from_tensors(&tensors)?;
        let vars = parameters.iter().map(|(name, var)| (name.to_owned(), var.as_tensor().clone())).collect();
        let network = Network::new(config.clone(), catalogue.clone(), &vars)?;
        Ok(Self { config, catalogue, parameters, network })
    }

    /// The forward pass behind [`TrainableModel::losses`], with every intermediate.
    pub fn forward(&self, batch: &TrainingBatch, dropout: &mut Dropout) -> Result<TrainingOutputs, ModelError> {
        let users = batch.history.users();
        if users == 0 || batch.positives.len() != users || !batch.negatives.len().is_multiple_of(users) {
            let (positives, negatives) = (batch.positives.len(), batch.negatives.len());
            return Err(ModelError::Config(format!(
                "a training batch of {users} users has {positives} clicked items and {negatives} negatives"
            )));
        }
        let per_user = batch.negatives.len() / users;
        let mut candidates = Vec::with_capacity(users * (1 + per_user));
        for (user, &positive) in batch.positives.iter().enumerate() {
            candidates.push(positive);
            candidates.extend_from_slice(&batch.negatives[user * per_user..(user + 1) * per_user]);
        }
        let inputs = TrainingInputs {
            history: &batch.history,
            candidates: &candidates,
            alignment_items: &batch.alignment_items,
            alignment_queries: &batch.alignment_queries,
        };
        Ok(self.network.train(inputs, dropout)?)
    }

    /// The network over the variables.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Its configuration.
    pub fn config(&self) -> &SesRecConfig {
        &self.config
    }
}

impl TrainableModel for SesRecTrainable {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn losses(&self, batch: &TrainingBatch, dropout: &mut Dropout) -> Result<Losses, ModelError> {
        Ok(self.forward(batch, dropout)?.losses)
    }

    fn ranker(&self) -> Result<Box<dyn RankingModel>, ModelError> {
        let tensors = self.parameters.snapshot()?;
        let device = self.network.device();
        Ok(Box::new(SesRecRanker::new(self.config.clone(), self.catalogue.clone(), &tensors, device)?))
    }
}
