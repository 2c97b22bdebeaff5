//! SESRec among the other models.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};

use super::{SesRecConfig, SesRecRanker, SesRecTrainable, counts::Counts, parameters};
use crate::{
    data::{Catalogue, Dataset},
    model::{Architecture, InputConfig, ModelError, Parameter, RankerOptions, RankingModel, TrainableModel},
};

impl Architecture for SesRecConfig {
    fn kind(&self) -> &'static str {
        "sesrec"
    }

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn revision(&self) -> u32 {
        // 1: what counts weigh is fitted, not learned.
        u32::from(self.shared_words || self.clicked_together)
    }

    fn validate(&self) -> Result<(), ModelError> {
        SesRecConfig::validate(self)
    }

    fn parameters(&self) -> Vec<Parameter> {
        parameters(self)
    }

    fn tables(&self, dataset: &Dataset) -> Result<HashMap<String, Tensor>, ModelError> {
        Ok(Counts::tables(self, dataset)?)
    }

    fn check_tables(&self, tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
        Counts::check_tables(self, tensors)
    }

    fn trainable(
        &self,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Box<dyn TrainableModel>, ModelError> {
        Ok(Box::new(SesRecTrainable::of_checked(self.clone(), catalogue, tensors, device)?))
    }

    fn ranker(
        &self,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
        options: RankerOptions,
    ) -> Result<Box<dyn RankingModel>, ModelError> {
        Ok(Box::new(SesRecRanker::of_checked(self.clone(), catalogue, tensors, device, options)?))
    }
}
