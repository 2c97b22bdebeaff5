//! SESRec that learns.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};

use super::{
    Network, SesRecConfig, SesRecRanker, TrainingInputs, TrainingOutputs, check,
    counts::{choice, fitted_weights},
    initialise, parameters,
};
use crate::{
    data::{Catalogue, HistoryBatch, HistoryLimits},
    model::{
        BatchPlan, Extras, HeldOutClick, Losses, ModelError, RankerOptions, RankingModel, TrainableModel,
        TrainingBatch, Weights, weights,
    },
    nn::{Dropout, Parameters},
};

/// Held-out clicks that are scored together.
const CLICKS_TOGETHER: usize = 64;

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
        Self::of_checked(config, catalogue, tensors, device)
    }

    /// As [`Self::from_tensors`], of tensors that are known to fit.
    pub(super) fn of_checked(
        config: SesRecConfig,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let parameters = weights::variables(&parameters(&config), tensors, device)?;
        let vars = parameters.all().map(|(name, var)| (name.to_owned(), var.as_tensor().clone())).collect();
        let network = Network::new(config.clone(), catalogue.clone(), &Weights::new(&vars))?;
        Ok(Self { config, catalogue, parameters, network })
    }

    /// The forward pass behind [`TrainableModel::losses`], with every intermediate.
    pub fn forward(&self, batch: &TrainingBatch, dropout: &mut Dropout) -> Result<TrainingOutputs, ModelError> {
        let candidates = batch.candidates()?;
        let inputs = TrainingInputs {
            history: &batch.history,
            candidates: &candidates,
            alignment_items: &batch.alignment_items,
            alignment_queries: &batch.alignment_queries,
        };
        Ok(self.network.train(inputs, dropout)?)
    }

    /// Sets what counts weigh, in the order of their tensors.
    fn set_count_weights(&self, weights: &[f32]) -> Result<(), ModelError> {
        let mut rest = weights;
        for (name, length) in self.network.counts.weights() {
            let (new, others) = rest.split_at(length);
            let missing = || ModelError::Weights { name: name.into(), message: "is missing".into() };
            let (_, var) = self.parameters.all().find(|(other, _)| *other == name).ok_or_else(missing)?;
            var.set(&Tensor::new(new, var.device())?)?;
            rest = others;
        }
        Ok(())
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

    fn limits(&self) -> HistoryLimits {
        self.config.inputs.limits
    }

    fn batch_plan(&self) -> BatchPlan {
        // What weighs nothing is not computed.
        let extras = if self.config.loss_weights.align > 0.0 { Extras::Alignment } else { Extras::None };
        BatchPlan { padding: self.config.history_padding(), extras, ..BatchPlan::default() }
    }

    fn logits(&self, history: &HistoryBatch, candidates: &[u32], dropout: &mut Dropout) -> Result<Tensor, ModelError> {
        let encoded = self.network.encode(history, &[candidates], dropout)?;
        let vectors = self.network.candidates(&encoded, 2)?;
        Ok(self.network.logits(&encoded, (candidates, &vectors), dropout)?)
    }

    fn losses(&self, batch: &TrainingBatch, dropout: &mut Dropout) -> Result<Losses, ModelError> {
        Ok(self.forward(batch, dropout)?.losses)
    }

    fn fitted(&self) -> Vec<&'static str> {
        self.network.counts.weights().into_iter().map(|(name, _)| name).collect()
    }

    fn fit_held_out(&self, clicks: &[HeldOutClick]) -> Result<(), ModelError> {
        let (each, limits) = (self.network.counts.each(), self.config.inputs.limits);
        let mut choices = Vec::with_capacity(clicks.len());
        for clicks in clicks.chunks(CLICKS_TOGETHER) {
            let users = clicks.iter().map(|click| &click.user);
            let history = self.config.history_padding().batch(users, limits);
            // Shorter lists are filled up with their clicked items, which are cut off again.
            let longest = clicks.iter().map(|click| click.candidates.len()).max().unwrap_or(0);
            let lists = clicks.iter().map(|click| &click.candidates);
            let lists = lists.flat_map(|list| list.iter().chain(std::iter::repeat(&list[0])).take(longest));
            let candidates: Vec<u32> = lists.copied().collect();
            let learned = self.logits(&history, &candidates, &mut Dropout::off())?.to_vec2::<f32>()?;
            for (HeldOutClick { user, candidates }, learned) in clicks.iter().zip(&learned) {
                choices.push(choice(&each, user, (candidates, &learned[..candidates.len()])));
            }
        }
        self.set_count_weights(&fitted_weights(&choices, each.len()))
    }

    fn ranker(&self) -> Result<Box<dyn RankingModel>, ModelError> {
        let (tensors, device) = (self.parameters.snapshot()?, self.network.device());
        let (config, catalogue) = (self.config.clone(), self.catalogue.clone());
        // With its check: training has changed the weights since the last one.
        Ok(Box::new(SesRecRanker::new(config, catalogue, &tensors, device, RankerOptions::default())?))
    }
}
