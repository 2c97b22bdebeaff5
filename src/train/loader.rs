//! Batches, assembled in a thread of their own so that the device never waits for them.

use std::sync::mpsc::{Receiver, sync_channel};

use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    NegativeSampling, Order, OwnClicks, Recipe, TrainingError, TrainingTargets,
    randomness::{Purpose, generator},
    substitution::Substitutes,
};
use crate::{
    data::{Dataset, Featurizer, HistoryBatch, PopularitySampler, SearchClick, Split, Target, UserFeatures},
    model::{BatchPlan, Examples, Extras, SearchExamples, TrainingBatch},
};

/// Batches that wait for the device, at most: enough to hide the loader's hiccups, few enough to be cheap to drop.
const PREFETCH: usize = 4;
/// Batches whose targets are sorted by length together: enough for batches of nearly one length, few enough that each
/// epoch's batches are others.
const SORTED_BATCHES: usize = 32;

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

    fn ordered(&self, epoch: usize) -> Vec<Target> {
        let mut targets = self.targets.clone();
        let mut rng = generator(self.recipe.seed, Purpose::Shuffle, epoch, 0);
        match self.recipe.order {
            Order::ByUser => {}
            Order::Shuffled => targets.shuffle(&mut rng),
            Order::ByLength => {
                targets.shuffle(&mut rng);
                let size = self.recipe.batch_size;
                for window in targets.chunks_mut(SORTED_BATCHES * size) {
                    window.sort_by_cached_key(|&target| self.seen_events(target));
                }
                // The last batch may be smaller and stays the last.
                let batches = targets.chunks_exact(size);
                let rest = batches.remainder();
                let mut batches: Vec<&[Target]> = batches.collect();
                batches.shuffle(&mut rng);
                batches.push(rest);
                return batches.concat();
            }
        }
        targets
    }

    /// How many recommendations and searches the model sees of the history before a target.
    fn seen_events(&self, target: Target) -> (usize, usize) {
        let limits = self.featurizer.limits();
        let clicks = (target.position as usize).min(limits.recommendations);
        (clicks, self.dataset.searches_before(target).min(limits.searches))
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

    fn negatives(&self, targets: &[Target], history: &HistoryBatch, epoch: usize, step: usize) -> Vec<u32> {
        let mut rng = generator(self.recipe.seed, Purpose::Negatives, epoch, step);
        let mut negatives = vec![];
        for target in targets {
            let clicked = self.dataset.recommendations(target.user);
            let end = match self.recipe.own_clicks {
                // A sequence predicts all its clicks.
                OwnClicks::Earlier if self.plan.examples == Examples::Sequences => self.dataset.learned(target.user),
                OwnClicks::Earlier => target.position as usize + 1,
                OwnClicks::Training => self.dataset.learned(target.user),
                OwnClicks::All => clicked.len(),
            };
            // The sampler wants the target last.
            let excluded = [&clicked[..end], &clicked[target.position as usize..=target.position as usize]].concat();
            match self.plan.examples {
                Examples::Clicks => {
                    self.sampler.sample(&excluded, self.recipe.negatives, &mut rng, &mut negatives);
                }
                Examples::Prefixes => negatives.push(self.any_item(&excluded, &mut rng)),
                Examples::Sequences => {
                    negatives.extend((0..history.rec_len).map(|_| self.any_item(&excluded, &mut rng)));
                }
            }
        }
        negatives
    }

    /// For every position of the histories an item that the user had not clicked up to the target.
    fn history_negatives(&self, targets: &[Target], history: &HistoryBatch, epoch: usize, step: usize) -> Vec<u32> {
        if self.plan.extras != Extras::HistoryNegatives {
            return vec![];
        }
        let mut rng = generator(self.recipe.seed, Purpose::HistoryNegatives, epoch, step);
        let mut negatives = Vec::with_capacity(history.rec_items.len());
        for target in targets {
            let clicked = &self.dataset.recommendations(target.user)[..=target.position as usize];
            negatives.extend((0..history.rec_len).map(|_| self.any_item(clicked, &mut rng)));
        }
        negatives
    }

    /// An item that is not excluded, all equally likely. A user who has clicked nearly everything gets an item anyway.
    fn any_item(&self, excluded: &[u32], rng: &mut ChaCha8Rng) -> u32 {
        const ATTEMPTS: usize = 100;
        let items = &self.dataset.catalogue.items;
        let mut drawn = || rng.random_range(items.first_row..items.rows() as u32);
        let mut item = drawn();
        for _ in 0..ATTEMPTS {
            if !excluded.contains(&item) {
                break;
            }
            item = drawn();
        }
        item
    }

    fn alignment(&self, epoch: usize, step: usize) -> (Vec<u32>, Vec<u32>) {
        if self.plan.extras != Extras::Alignment {
            return (vec![], vec![]);
        }
        // Of the whole catalogue, also of what occurs in later events only.
        let mut rng = generator(self.recipe.seed, Purpose::AlignmentNegatives, epoch, step);
        let mut rows = |first: u32, end: u32| -> Vec<u32> {
            let count = if first < end { self.recipe.alignment_negatives } else { 0 };
            (0..count).map(|_| rng.random_range(first..end)).collect()
        };
        let (items, queries) = (&self.dataset.catalogue.items, &self.dataset.catalogue.queries);
        (rows(items.first_row, items.rows() as u32), rows(queries.first_row, queries.rows() as u32))
    }

    /// As many clicks of searches as there are targets, each with negatives.
    fn search_examples(&self, count: usize, epoch: usize, step: usize) -> SearchExamples {
        let mut examples = SearchExamples::default();
        if self.searches.is_empty() {
            return examples;
        }
        let mut rng = generator(self.recipe.seed, Purpose::Searches, epoch, step);
        let mut histories = vec![];
        for _ in 0..count {
            let SearchClick { user, search, query, item, .. } = self.searches[rng.random_range(0..self.searches.len())];
            examples.queries.push(query);
            examples.clicked.push(item);
            // Other clicks of the search are answers to its query, too; the sampler wants the target last.
            let excluded = [self.dataset.clicks_of_search(user, search), &[item]].concat();
            self.sampler.sample(&excluded, self.recipe.negatives, &mut rng, &mut examples.negatives);
            if self.plan.extras == Extras::SearchesWithHistories {
                histories.push(self.dataset.features_at_search(user, search as usize, &self.featurizer));
            }
        }
        if self.plan.extras == Extras::SearchesWithHistories {
            examples.histories = Some(HistoryBatch::padded_to_longest(&histories, self.featurizer.limits()));
        }
        examples
    }
}

/// The training interactions that are learned from one by one.
fn examples(dataset: &Dataset, examples: Examples) -> Vec<Target> {
    let mut targets = dataset.targets(Split::Train);
    match examples {
        Examples::Clicks => {}
        Examples::Prefixes => {
            let trained = |&user: &u32| dataset.learned(user) > 0;
            targets.extend((0..dataset.users() as u32).filter(trained).map(|user| Target { user, position: 0 }));
            targets.sort_unstable_by_key(|target| (target.user, target.position));
        }
        Examples::Sequences => {
            targets.retain(|target| target.position as usize + 1 == dataset.learned(target.user));
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::*;
    use crate::{
        data::{HistoryLimits, UserRow, fixture},
        model::{HistoryPadding, Substitution},
    };

    const LIMITS: HistoryLimits = HistoryLimits { recommendations: 3, searches: 2, words: 2, clicks: 1 };

    const PLAN: BatchPlan =
        BatchPlan { padding: HistoryPadding::Longest, examples: Examples::Clicks, extras: Extras::Alignment };

    /// Users of 6 clicks at times 10..60; those with an even row search at time 15.
    fn dataset() -> Dataset {
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

    fn batches(dataset: &Dataset, recipe: &Recipe, epoch: usize, first_step: usize) -> Vec<TrainingBatch> {
        let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), LIMITS);
        let loader = Loader::new(dataset, featurizer, recipe, PLAN).unwrap();
        loader.stream(epoch, first_step, |receiver| receiver.iter().collect())
    }

    #[test]
    fn an_epoch_has_every_target_once_in_an_order_of_its_own() {
        let dataset = dataset();
        let recipe =
            Recipe { batch_size: 8, alignment_negatives: 6, targets: TrainingTargets::All, ..Recipe::default() };
        let epochs: Vec<Vec<TrainingBatch>> = (1..=2).map(|epoch| batches(&dataset, &recipe, epoch, 0)).collect();
        let seen = |batches: &[TrainingBatch]| -> Vec<(UserRow, u32)> {
            batches.iter().flat_map(|b| b.history.user_rows.iter().copied().zip(b.positives.iter().copied())).collect()
        };
        assert_ne!(seen(&epochs[0]), seen(&epochs[1]));
        for batches in &epochs {
            // Positions 1, 2 and 3 of six: the last two are validation and test, the first has no history.
            assert_eq!(batches.iter().map(|batch| batch.positives.len()).collect::<Vec<_>>(), [8, 8, 8, 8, 8, 8, 8, 4]);
            let seen: HashSet<_> = seen(batches).into_iter().collect();
            let expected = dataset.targets(Split::Train).into_iter();
            let expected = expected.map(|target| (UserRow::Known(target.user), dataset.item(target)));
            assert_eq!(seen, expected.collect());
        }
    }

    #[test]
    fn batches_by_length_hold_every_target_once_with_little_padding() {
        let users = (0..50u32).map(|user| {
            let clicks: Vec<u32> = (0..4 + user % 9).map(|n| 1 + (user * 7 + n) % 40).collect();
            fixture::User::clicking(&clicks)
        });
        let dataset = fixture::dataset(40, 5, users);
        let limits = HistoryLimits { recommendations: 8, ..LIMITS };
        let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), limits);
        let epoch = |order: Order, epoch: usize| -> Vec<TrainingBatch> {
            let recipe = Recipe { batch_size: 8, targets: TrainingTargets::All, order, ..Recipe::default() };
            let loader = Loader::new(&dataset, featurizer.clone(), &recipe, PLAN).unwrap();
            loader.stream(epoch, 0, |receiver| receiver.iter().collect())
        };
        let padding = |batches: &[TrainingBatch]| -> usize {
            let of = |batch: &TrainingBatch| {
                batch.history.rec_len * batch.positives.len() - batch.history.rec_lengths.iter().sum::<usize>()
            };
            batches.iter().map(of).sum()
        };
        let seen = |batches: &[TrainingBatch]| -> Vec<(UserRow, u32)> {
            batches.iter().flat_map(|b| b.history.user_rows.iter().copied().zip(b.positives.iter().copied())).collect()
        };
        let (sorted, shuffled) = (epoch(Order::ByLength, 1), epoch(Order::Shuffled, 1));
        assert!(4 * padding(&sorted) < padding(&shuffled), "{} < {}", padding(&sorted), padding(&shuffled));
        let targets = dataset.targets(Split::Train);
        assert_eq!(seen(&sorted).len(), targets.len());
        let expected = targets.into_iter().map(|target| (UserRow::Known(target.user), dataset.item(target)));
        assert_eq!(seen(&sorted).into_iter().collect::<HashSet<_>>(), expected.collect());
        assert_ne!(seen(&sorted), seen(&epoch(Order::ByLength, 2)));
        let lengths: Vec<usize> = sorted.iter().map(|batch| batch.history.rec_len).collect();
        assert!(!lengths.is_sorted(), "long and short batches alternate: {lengths:?}");
        assert!(sorted.iter().rev().skip(1).all(|batch| batch.positives.len() == 8));
    }

    #[test]
    fn negatives_are_outside_the_history_and_rows_are_valid() {
        let dataset = dataset();
        let recipe = Recipe { batch_size: 8, alignment_negatives: 6, ..Recipe::default() };
        for batch in batches(&dataset, &recipe, 1, 0) {
            for ((user, &positive), negatives) in
                batch.history.user_rows.iter().zip(&batch.positives).zip(batch.negatives.chunks(4))
            {
                let UserRow::Known(user) = *user else { panic!("a training user is known") };
                assert_eq!(user % 2, 0, "only targets with an earlier search");
                let items = dataset.recommendations(user);
                let end = items.iter().position(|&item| item == positive).unwrap();
                assert!(negatives.iter().all(|item| (1..=40).contains(item) && !items[..=end].contains(item)));
                assert_eq!(negatives.iter().collect::<HashSet<_>>().len(), 4);
            }
            assert_eq!((batch.alignment_items.len(), batch.alignment_queries.len()), (6, 6));
            assert!(batch.alignment_items.iter().all(|row| (1..=40).contains(row)));
            assert!(batch.alignment_queries.iter().all(|row| (1..=5).contains(row)));
        }
    }

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

    /// At and after a user's validation interaction, searches and their clicks are not for learning.
    #[test]
    fn searches_to_learn_from_are_earlier_than_what_is_to_be_predicted() {
        let mut user = fixture::User::clicking(&[1, 2, 3, 4, 5, 6]);
        // Validation is at 50.
        user.searches = vec![(15, 1, vec![7]), (25, 2, vec![8, 9]), (50, 3, vec![10]), (51, 4, vec![11])];
        let dataset = fixture::dataset(12, 5, [user]);
        let recipe = Recipe { batch_size: 3, targets: TrainingTargets::All, ..Recipe::default() };
        let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), LIMITS);
        let plan = BatchPlan { extras: Extras::SearchesWithHistories, ..PLAN };
        let loader = Loader::new(&dataset, featurizer, &recipe, plan).unwrap();
        let batches: Vec<TrainingBatch> =
            (0..20).flat_map(|epoch| loader.stream(epoch, 0, |receiver| receiver.iter().collect::<Vec<_>>())).collect();
        let mut clicked = HashSet::new();
        for batch in &batches {
            for (&item, as_of) in batch.positives.iter().zip(&batch.history.as_of) {
                assert_eq!(*as_of, Some(10 * i64::from(item)), "a click's own time");
            }
            let searches = &batch.searches;
            let histories = searches.histories.as_ref().unwrap();
            assert_eq!((searches.queries.len(), histories.users()), (3, 3));
            assert_eq!(searches.candidates().unwrap().len(), 3 * 5);
            for (n, (&query, &item)) in searches.queries.iter().zip(&searches.clicked).enumerate() {
                clicked.insert((query, item));
                let others = if query == 1 { &[7][..] } else { &[8, 9] };
                let negatives = &searches.negatives[n * 4..(n + 1) * 4];
                assert!(
                    negatives.iter().all(|item| !others.contains(item)),
                    "an answer to the same query: {negatives:?}"
                );
                // One search and one click before the first, two of each before the second: strictly.
                let seen = (histories.as_of[n], histories.rec_lengths[n], histories.src_lengths[n]);
                assert_eq!(seen, if query == 1 { (Some(15), 1, 0) } else { (Some(25), 2, 1) });
            }
        }
        assert_eq!(clicked, HashSet::from([(1, 7), (2, 8), (2, 9)]));
        let without = fixture::dataset(9, 1, [fixture::User::clicking(&[1, 2, 3, 4, 5])]);
        let featurizer = Featurizer::new(Arc::clone(&without.catalogue), LIMITS);
        let error = Loader::new(&without, featurizer, &recipe, plan).unwrap_err();
        assert!(error.to_string().contains("learns from clicks of searches"), "{error}");
    }

    #[test]
    fn every_position_has_a_negative_that_was_not_clicked() {
        let dataset = dataset();
        let recipe = Recipe { batch_size: 8, ..Recipe::default() };
        let plan = BatchPlan { extras: Extras::HistoryNegatives, ..PLAN };
        let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), LIMITS);
        let loader = Loader::new(&dataset, featurizer, &recipe, plan).unwrap();
        let all = |step| loader.stream(2, step, |receiver| receiver.into_iter().collect::<Vec<_>>());
        let batches = all(0);
        for batch in &batches {
            assert_eq!(batch.history_negatives.len(), batch.history.rec_items.len());
            let by_user = batch.history_negatives.chunks(batch.history.rec_len);
            for ((user, &positive), negatives) in batch.history.user_rows.iter().zip(&batch.positives).zip(by_user) {
                let UserRow::Known(user) = *user else { panic!("a training user is known") };
                let items = dataset.recommendations(user);
                let end = items.iter().position(|&item| item == positive).unwrap();
                assert!(negatives.iter().all(|item| (1..=40).contains(item) && !items[..=end].contains(item)));
            }
        }
        let negatives = |batches: &[TrainingBatch]| -> Vec<Vec<u32>> {
            batches.iter().map(|batch| batch.history_negatives.clone()).collect()
        };
        assert_eq!(negatives(&batches[1..]), negatives(&all(1)), "the same from any step on");
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
