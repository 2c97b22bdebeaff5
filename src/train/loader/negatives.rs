//! What nobody clicked: items beside the targets, beside the positions of a history, and rows to align against.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Loader;
use crate::{
    data::{HistoryBatch, Target},
    model::{Examples, Extras},
    train::{
        OwnClicks,
        randomness::{Purpose, generator},
    },
};

impl Loader<'_> {
    /// For every target as many as its kind of example asks for.
    pub(super) fn negatives(&self, targets: &[Target], history: &HistoryBatch, epoch: usize, step: usize) -> Vec<u32> {
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
    pub(super) fn history_negatives(
        &self,
        targets: &[Target],
        history: &HistoryBatch,
        epoch: usize,
        step: usize,
    ) -> Vec<u32> {
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

    /// Rows of items and of queries, for models that align the two.
    pub(super) fn alignment(&self, epoch: usize, step: usize) -> (Vec<u32>, Vec<u32>) {
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
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::{
        super::test_data::{LIMITS, PLAN, batches, dataset},
        *,
    };
    use crate::{
        data::{Featurizer, UserRow},
        model::{BatchPlan, TrainingBatch},
        train::Recipe,
    };

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
}
