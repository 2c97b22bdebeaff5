//! Batches, assembled in a thread of their own so that the device never waits for them.
//!
//! `targets` says what an epoch learns from and in which order, `negatives` and `searches` draw what goes with it.

mod negatives;
mod searches;
mod targets;
#[cfg(test)]
mod test_data;

use std::sync::mpsc::{Receiver, sync_channel};

use targets::examples;

use super::{
    NegativeSampling, Recipe, TrainingError, TrainingTargets,
    randomness::{Purpose, generator},
    substitution::Substitutes,
};
use crate::{
    data::{Dataset, Featurizer, PopularitySampler, SearchClick, Target, UserFeatures},
    model::{BatchPlan, Extras, TrainingBatch},
};

/// Batches that wait for the device, at most: enough to hide the loader's hiccups, few enough to be cheap to drop.
const PREFETCH: usize = 4;

/// A training data set as a sequence of batches.
///
/// By default every epoch shuffles the targets anew. The release does not shuffle; the order here would be by user, and
/// a batch of a few users' neighbouring targets is a poor sample. Histories, negatives and order are functions of
/// (seed, epoch, step), so that training can begin at any step.
#[derive(Debug)]
pub(super) struct Loader<'a> {
    dataset: &'a Dataset,
    featurizer: Featurizer,
    sampler: PopularitySampler,
    targets: Vec<Target>,
    recipe: &'a Recipe,
    plan: BatchPlan,
    searches: Vec<SearchClick>,
    substitutes: Option<Substitutes<'a>>,
}

impl<'a> Loader<'a> {
    /// # Errors
    /// If the data set has nothing to learn from.
    pub fn new(
        dataset: &'a Dataset,
        featurizer: Featurizer,
        recipe: &'a Recipe,
        plan: BatchPlan,
    ) -> Result<Self, TrainingError> {
        let clicks = match recipe.negative_sampling {
            NegativeSampling::Popularity => dataset.popularity(),
            NegativeSampling::Uniform => vec![0; dataset.catalogue.items.rows()],
        };
        let sampler = PopularitySampler::new(&clicks, dataset.catalogue.items.first_row)?;
        let mut targets = examples(dataset, plan.examples);
        let all = targets.len();
        if recipe.targets == TrainingTargets::AfterSearch {
            targets.retain(|&target| dataset.searches_before(target) > 0);
        }
        if targets.is_empty() {
            return Err(TrainingError::NoTargets(match all {
                0 => "the data set has no training target: no user has two interactions in the training part".into(),
                _ => format!(
                    "none of the {all} training targets has an earlier search of its user: \
                     learn from all of them with --targets all"
                ),
            }));
        }
        let from_searches = matches!(plan.extras, Extras::Searches | Extras::SearchesWithHistories);
        let searches = if from_searches { dataset.training_search_clicks().collect() } else { vec![] };
        if from_searches && searches.is_empty() {
            return Err(TrainingError::NoTargets(
                "this model learns from clicks of searches, and the data set has none before the validation \
                 interactions: choose another --model"
                    .into(),
            ));
        }
        let substitutes = match plan.extras {
            Extras::Substitutes(rates) => Some(Substitutes::new(dataset, rates, featurizer.limits().words)),
            _ => None,
        };
        Ok(Self { dataset, featurizer, sampler, targets, recipe, plan, searches, substitutes })
    }

    /// Targets of an epoch.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Steps of an epoch; the last batch may be smaller.
    pub fn steps(&self) -> usize {
        self.targets.len().div_ceil(self.recipe.batch_size)
    }

    /// Gives `consume` the batches of an epoch from a step on, in order. The thread that makes them ends with it.
    pub fn stream<R>(&self, epoch: usize, first_step: usize, consume: impl FnOnce(Receiver<TrainingBatch>) -> R) -> R {
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(PREFETCH);
            scope.spawn(move || {
                let targets = self.ordered(epoch);
                for (step, targets) in targets.chunks(self.recipe.batch_size).enumerate().skip(first_step) {
                    if sender.send(self.batch(targets, epoch, step)).is_err() {
                        break; // The consumer has stopped.
                    }
                }
            });
            consume(receiver)
        })
    }

    fn batch(&self, targets: &[Target], epoch: usize, step: usize) -> TrainingBatch {
        let mut features: Vec<UserFeatures> =
            targets.iter().map(|&target| self.dataset.features(target, &self.featurizer)).collect();
        let limits = self.featurizer.limits();
        let padded = |features: &[UserFeatures]| self.plan.padding.batch(features, limits);
        let (mut history, mut original_items) = (padded(&features), vec![]);
        if let Some(substitutes) = &self.substitutes {
            let mut rng = generator(self.recipe.seed, Purpose::Substitutes, epoch, step);
            for (user, &target) in features.iter_mut().zip(targets) {
                substitutes.apply(user, target, &mut rng);
            }
            original_items = std::mem::replace(&mut history, padded(&features)).rec_items;
        }
        let negatives = self.negatives(targets, &history, epoch, step);
        let history_negatives = self.history_negatives(targets, &history, epoch, step);
        let (alignment_items, alignment_queries) = self.alignment(epoch, step);
        TrainingBatch {
            history,
            original_items,
            positives: targets.iter().map(|&target| self.dataset.item(target)).collect(),
            negatives,
            history_negatives,
            alignment_items,
            alignment_queries,
            searches: self.search_examples(targets.len(), epoch, step),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        test_data::{LIMITS, PLAN, batches, dataset},
        *,
    };
    use crate::{
        data::{HistoryBatch, fixture},
        model::{HistoryPadding, Substitution},
    };

    #[test]
    fn the_same_from_any_step_on() {
        let dataset = dataset();
        let recipe = Recipe { batch_size: 4, alignment_negatives: 6, ..Recipe::default() };
        let (all, rest) = (batches(&dataset, &recipe, 3, 0), batches(&dataset, &recipe, 3, 5));
        assert_eq!(all.len(), rest.len() + 5);
        for (a, b) in all[5..].iter().zip(&rest) {
            assert_eq!((&a.history, &a.positives, &a.negatives), (&b.history, &b.positives, &b.negatives));
            assert_eq!((&a.alignment_items, &a.alignment_queries), (&b.alignment_items, &b.alignment_queries));
        }
    }

    #[test]
    fn substituted_histories_come_with_the_original_items() {
        let dataset = dataset();
        let recipe = Recipe { batch_size: 8, targets: TrainingTargets::All, ..Recipe::default() };
        let plan = BatchPlan { extras: Extras::Substitutes(Substitution { share: 0.5, related: 0.5 }), ..PLAN };
        let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), LIMITS);
        let loader = Loader::new(&dataset, featurizer, &recipe, plan).unwrap();
        let all = |step| loader.stream(2, step, |receiver| receiver.into_iter().collect::<Vec<_>>());
        let (substituted, plain) = (all(0), batches(&dataset, &recipe, 2, 0));
        assert_eq!(substituted.len(), plain.len());
        for (substituted, plain) in substituted.iter().zip(&plain) {
            assert_eq!(substituted.original_items, plain.history.rec_items);
            assert_eq!((&substituted.positives, &substituted.negatives), (&plain.positives, &plain.negatives));
        }
        assert!(substituted.iter().zip(&plain).any(|(substituted, plain)| substituted.history != plain.history));
        let rest: Vec<HistoryBatch> = all(1).into_iter().map(|batch| batch.history).collect();
        assert!(substituted[1..].iter().map(|batch| &batch.history).eq(&rest), "the same from any step on");
    }

    #[test]
    fn logs_without_searches_say_what_to_do() {
        let dataset = fixture::dataset(9, 0, [fixture::User::clicking(&[1, 2, 3, 4, 5])]);
        let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), LIMITS);
        let recipe = Recipe::default();
        let error = Loader::new(&dataset, featurizer.clone(), &recipe, PLAN).unwrap_err();
        assert!(error.to_string().contains("--targets all"), "{error}");
        let recipe = Recipe { targets: TrainingTargets::All, ..recipe };
        let loader =
            Loader::new(&dataset, featurizer, &recipe, BatchPlan { padding: HistoryPadding::Limits, ..PLAN }).unwrap();
        loader.stream(0, 0, |receiver| {
            let batch = receiver.recv().unwrap();
            assert_eq!((batch.history.rec_len, batch.history.src_len), (3, 2));
            assert!(batch.alignment_queries.is_empty(), "there is no query to draw");
        });
    }
}
