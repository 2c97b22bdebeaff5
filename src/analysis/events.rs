//! Users' events as SESRec weighs them.

use std::{ops::Range, sync::Arc};

use candle_core::Device;

use super::AnalysisError;
use crate::{
    data::{Dataset, Featurizer, UserFeatures},
    domain::{EventWeight, HistoryWeights},
    eval::{RowMap, in_chunks},
    model::{Bundle, ModelConfig, RankerOptions, RankingModel, sesrec::SesRecRanker},
};

/// All users of a data set, to be weighed by a model.
pub struct WeighedUsers<'a> {
    dataset: &'a Dataset,
    ranker: SesRecRanker,
    featurizer: Featurizer,
}

/// The newest events of a user, as many as the model reads, with the weights that it gives them.
#[derive(Debug, Clone)]
pub struct WeighedEvents {
    /// User row.
    pub user: u32,
    /// Which of [`Dataset::recommendations`] they are.
    pub recommendations: Range<usize>,
    /// Which of [`Dataset::searches`].
    pub searches: Range<usize>,
    /// Parallel to both.
    pub weights: HistoryWeights,
}

impl<'a> WeighedUsers<'a> {
    /// With a bundle that was trained on this data set.
    ///
    /// # Errors
    /// If the bundle is no SESRec, or of another data set.
    pub fn open(bundle: &Bundle, dataset: &'a Dataset, device: &Device) -> Result<Self, AnalysisError> {
        let ranker = sesrec(bundle, dataset, device, "co-attention weights")?;
        let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), ranker.limits());
        Ok(Self { dataset, ranker, featurizer })
    }

    /// What `take` makes of each user's whole history, by user row; users without an event are left out.
    ///
    /// # Errors
    /// If the model fails.
    pub fn map<T: Send>(&self, take: impl Fn(&WeighedEvents) -> T + Sync) -> Result<Vec<T>, AnalysisError> {
        let users: Vec<u32> = (0..self.dataset.users() as u32).collect();
        in_chunks(self.ranker.device(), &users, |users| {
            let histories = users.iter().map(|&user| (user, self.dataset.whole_history(user, &self.featurizer)));
            let (users, features): (Vec<u32>, Vec<UserFeatures>) =
                histories.filter(|(_, features)| !features.is_cold()).unzip();
            let states = self.ranker.encode(&features.iter().collect::<Vec<_>>())?;
            let weighed = users.into_iter().zip(&states).map(|(user, state)| {
                let (weights, _) = self.ranker.explain(state, &[])?;
                let newest = |all: usize, read: &[EventWeight]| all - read.len()..all;
                let events = WeighedEvents {
                    user,
                    recommendations: newest(self.dataset.recommendations(user).len(), &weights.recommendations),
                    searches: newest(self.dataset.search_times(user).len(), &weights.searches),
                    weights,
                };
                Ok(take(&events))
            });
            weighed.collect()
        })
    }
}

/// The bundle's model, provided that it is a SESRec over the data set's rows.
pub(super) fn sesrec(
    bundle: &Bundle,
    dataset: &Dataset,
    device: &Device,
    what: &'static str,
) -> Result<SesRecRanker, AnalysisError> {
    let ModelConfig::Sesrec(config) = &bundle.config else {
        let (bundle, kind) = (bundle.name.clone(), bundle.config.kind().to_owned());
        return Err(AnalysisError::NotSesrec { bundle, kind, what });
    };
    if RowMap::between(&dataset.catalogue, &bundle.catalogue)?.is_some() {
        return Err(AnalysisError::OtherCatalogue(bundle.name.clone()));
    }
    let (catalogue, options) = (Arc::clone(&bundle.catalogue), RankerOptions::default());
    Ok(SesRecRanker::new(config.clone(), catalogue, &bundle.tensors, device, options)?)
}
