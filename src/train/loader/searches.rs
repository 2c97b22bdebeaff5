//! Clicks of searches, for models that learn from these, too.

use rand::RngExt;

use super::Loader;
use crate::{
    data::{HistoryBatch, SearchClick},
    model::{Extras, SearchExamples},
    train::randomness::{Purpose, generator},
};

impl Loader<'_> {
    /// As many clicks of searches as there are targets, each with negatives.
    pub(super) fn search_examples(&self, count: usize, epoch: usize, step: usize) -> SearchExamples {
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

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::{
        super::test_data::{LIMITS, PLAN},
        *,
    };
    use crate::{
        data::{Featurizer, fixture},
        model::{BatchPlan, TrainingBatch},
        train::{Recipe, TrainingTargets},
    };

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
}
