//! What an epoch learns from, and in which order.

use rand::seq::SliceRandom;

use super::Loader;
use crate::{
    data::{Dataset, Split, Target},
    model::Examples,
    train::{
        Order,
        randomness::{Purpose, generator},
    },
};

/// Batches whose targets are sorted by length together: enough for batches of nearly one length, few enough that each
/// epoch's batches are others.
const SORTED_BATCHES: usize = 32;

/// The training interactions that are learned from one by one.
pub(super) fn examples(dataset: &Dataset, examples: Examples) -> Vec<Target> {
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

impl Loader<'_> {
    /// The targets in an epoch's order.
    pub(super) fn ordered(&self, epoch: usize) -> Vec<Target> {
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
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::{
        super::test_data::{LIMITS, PLAN, batches, dataset},
        *,
    };
    use crate::{
        data::{Featurizer, HistoryLimits, UserRow, fixture},
        model::TrainingBatch,
        train::{Recipe, TrainingTargets},
    };

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
}
