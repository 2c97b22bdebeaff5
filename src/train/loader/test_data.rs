//! What the loader's tests load.

use std::sync::Arc;

use super::Loader;
use crate::{
    data::{Dataset, Featurizer, HistoryLimits, fixture},
    model::{BatchPlan, Examples, Extras, HistoryPadding, TrainingBatch},
    train::Recipe,
};

pub(super) const LIMITS: HistoryLimits = HistoryLimits { recommendations: 3, searches: 2, words: 2, clicks: 1 };

pub(super) const PLAN: BatchPlan =
    BatchPlan { padding: HistoryPadding::Longest, examples: Examples::Clicks, extras: Extras::Alignment };

/// Users of 6 clicks at times 10..60; those with an even row search at time 15.
pub(super) fn dataset() -> Dataset {
    fixture::dataset(
        40,
        5,
        (0..20).map(|user| {
            let mut logs = fixture::User::clicking(&[0, 1, 2, 3, 4, 5].map(|n| 1 + (user * 7 + n) % 40));
            if user % 2 == 0 {
                logs.searches.push((15, 1 + user % 5, vec![2]));
            }
            logs
        }),
    )
}

pub(super) fn batches(dataset: &Dataset, recipe: &Recipe, epoch: usize, first_step: usize) -> Vec<TrainingBatch> {
    let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), LIMITS);
    let loader = Loader::new(dataset, featurizer, recipe, PLAN).unwrap();
    loader.stream(epoch, first_step, |receiver| receiver.iter().collect())
}
