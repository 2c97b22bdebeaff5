//! Query-SeqRec's augmentation: events of training histories replaced by others.

use std::collections::HashMap;

use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    data::{Dataset, SearchClick, Target, UserFeatures},
    model::Substitution,
};

/// What may stand for what: the clicks of training searches as a graph of queries and items.
#[derive(Debug)]
pub(super) struct Substitutes<'a> {
    dataset: &'a Dataset,
    rates: Substitution,
    max_words: usize,
    clicked: HashMap<u32, Known>,
    asked: HashMap<u32, Known>,
    /// All queries that led to a click, and all items that were clicked so.
    queries: Known,
    items: Known,
}

/// Rows in the order in which they became known.
#[derive(Debug, Default)]
struct Known {
    rows: Vec<u32>,
    /// Milliseconds since 1970, of each.
    times: Vec<i64>,
}

impl Known {
    fn push(&mut self, row: u32, time: i64) {
        self.rows.push(row);
        self.times.push(time);
    }

    /// Those of before a moment.
    fn before(&self, time: i64) -> &[u32] {
        &self.rows[..self.times.partition_point(|&known| known < time)]
    }
}

impl<'a> Substitutes<'a> {
    /// For queries of at most `max_words`.
    pub fn new(dataset: &'a Dataset, rates: Substitution, max_words: usize) -> Self {
        let mut clicks: Vec<SearchClick> = dataset.training_search_clicks().collect();
        clicks.sort_by_key(|click| click.time);
        let (mut clicked, mut asked) = (HashMap::<u32, Known>::new(), HashMap::<u32, Known>::new());
        let (mut queries, mut items) = (Known::default(), Known::default());
        for SearchClick { query, item, time, .. } in clicks {
            let (of_query, of_item) = (clicked.entry(query).or_default(), asked.entry(item).or_default());
            // The first time.
            if of_query.rows.is_empty() {
                queries.push(query, time);
            }
            if of_item.rows.is_empty() {
                items.push(item, time);
            }
            of_query.push(item, time);
            of_item.push(query, time);
        }
        Self { dataset, rates, max_words, clicked, asked, queries, items }
    }

    /// Replaces some events of the history before a target: items by items that share a query with them, queries by
    /// queries that led to the item that comes next, either by any. An event is replaced by what was known before it:
    /// what came later might tell of what is to be predicted.
    pub fn apply(&self, user: &mut UserFeatures, target: Target, rng: &mut ChaCha8Rng) {
        let original = user.recommendations.clone();
        let newest = |times: &'a [i64], count: usize| &times[times.len() - count..];
        let times = &self.dataset.recommendation_times(target.user)[..target.position as usize];
        for (item, &time) in user.recommendations.iter_mut().zip(newest(times, original.len())) {
            if rng.random_bool(self.rates.share) {
                let query = self.asked.get(item).and_then(|queries| queries.before(time).choose(rng));
                let related = query.and_then(|query| self.clicked.get(query));
                *item = self.substitute(related, &self.items, time, rng).unwrap_or(*item);
            }
        }
        let times = &self.dataset.search_times(target.user)[..self.dataset.searches_before(target)];
        let times = newest(times, user.searches.len());
        let places: Vec<usize> = user.searches.iter().map(|search| search.place as usize).collect();
        for (n, search) in user.searches.iter_mut().enumerate() {
            // What the last event leads to is what is to be predicted.
            let is_last = n + 1 == places.len() && places[n] >= original.len();
            if is_last || !rng.random_bool(self.rates.share) {
                continue;
            }
            let next = if places.get(n + 1) == Some(&places[n]) { None } else { original.get(places[n]) };
            let related = next.and_then(|item| self.asked.get(item));
            if let Some(query) = self.substitute(related, &self.queries, times[n], rng) {
                search.query = query;
                let words = self.dataset.catalogue.words_of(query);
                search.words = words[..words.len().min(self.max_words)].to_vec();
            }
        }
    }

    /// One of the related rows, or of all, of before a moment; nothing if there are none.
    fn substitute(&self, related: Option<&Known>, all: &Known, time: i64, rng: &mut ChaCha8Rng) -> Option<u32> {
        let related = related.map(|related| related.before(time)).filter(|related| !related.is_empty());
        let related = related.filter(|_| rng.random_bool(self.rates.related));
        related.unwrap_or_else(|| all.before(time)).choose(rng).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use rand::SeedableRng;

    use super::*;
    use crate::data::{Featurizer, HistoryLimits, fixture};

    const LIMITS: HistoryLimits = HistoryLimits { recommendations: 9, searches: 9, words: 2, clicks: 0 };

    /// The first user searches between all clicks and after the last; the second makes the graph. Query 1 leads to
    /// items 1 and 7, query 2 to items 2 and 8, query 5 to nothing that may be learned from. Query 1 leads to item 10,
    /// too, but later than the first user's first two clicks.
    fn dataset() -> Dataset {
        let mut first = fixture::User::clicking(&[1, 2, 9, 4, 5, 6]);
        first.searches = vec![(11, 3, vec![]), (12, 4, vec![]), (25, 3, vec![]), (35, 3, vec![])];
        let mut second = fixture::User::clicking(&[11, 12, 13, 14, 15]);
        second.searches =
            vec![(1, 1, vec![1, 7]), (2, 2, vec![2, 8]), (3, 6, vec![2]), (24, 1, vec![10]), (41, 5, vec![3])];
        fixture::dataset(40, 6, [first, second])
    }

    /// The first user's history before its fourth click, substituted many times.
    fn applied(rates: Substitution) -> Vec<(Vec<u32>, Vec<u32>)> {
        let dataset = dataset();
        let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), LIMITS);
        let target = Target { user: 0, position: 3 };
        let substitutes = Substitutes::new(&dataset, rates, LIMITS.words);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut applied = || {
            let mut user = dataset.features(target, &featurizer);
            substitutes.apply(&mut user, target, &mut rng);
            assert!(user.searches.iter().all(|search| search.words == dataset.catalogue.words_of(search.query)));
            (user.recommendations, user.searches.iter().map(|search| search.query).collect())
        };
        (0..200).map(|_| applied()).collect()
    }

    fn seen<T: Copy + Eq + std::hash::Hash>(values: impl Iterator<Item = T>) -> HashSet<T> {
        values.collect()
    }

    #[test]
    fn related_events_share_a_query_or_lead_to_the_next_item() {
        let applied = applied(Substitution { share: 1.0, related: 1.0 });
        let items = |n: usize| seen(applied.iter().map(|(items, _)| items[n]));
        let queries = |n: usize| seen(applied.iter().map(|(_, queries)| queries[n]));
        assert_eq!(items(0), HashSet::from([1, 7]));
        assert_eq!(items(1), HashSet::from([2, 8]));
        // Item 9 has no query: any item that has one by then.
        assert_eq!(items(2), HashSet::from([1, 2, 7, 8, 10]));
        // The first search is followed by another: any query. The second is followed by item 2, the third by item 9.
        assert_eq!(queries(0), HashSet::from([1, 2, 6]));
        assert_eq!(queries(1), HashSet::from([2, 6]));
        assert_eq!(queries(2), HashSet::from([1, 2, 6]));
        // The last event leads to the target.
        assert_eq!(queries(3), HashSet::from([3]));
    }

    #[test]
    fn rates_are_shares() {
        let untouched = applied(Substitution { share: 0.0, related: 1.0 });
        assert!(untouched.iter().all(|(items, queries)| items == &[1, 2, 9] && queries == &[3, 4, 3, 3]));
        let some = applied(Substitution { share: 0.25, related: 0.0 });
        let replaced = some.iter().filter(|(_, queries)| queries[1] != 4).count();
        assert!((30..70).contains(&replaced), "a quarter of 200: {replaced}");
        let any = seen(some.iter().map(|(items, _)| items[0]));
        assert_eq!(any, HashSet::from([1, 2, 7, 8]), "not only related ones");
    }
}
