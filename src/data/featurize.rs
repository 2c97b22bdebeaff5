//! From a history to embedding rows: the one way for training, offline scoring and serving.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Catalogue;
use crate::domain::{History, HistorySearch, ItemId, Query, UserId};

/// How much of a history the model sees: the newest events, the first words and clicks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLimits {
    /// Recommendation events.
    #[serde(rename = "max_rec_history")]
    pub recommendations: usize,
    /// Search events.
    #[serde(rename = "max_src_history")]
    pub searches: usize,
    /// Words per query.
    #[serde(rename = "max_query_words")]
    pub words: usize,
    /// Clicked items per search.
    #[serde(rename = "max_clicked_items")]
    pub clicks: usize,
}

/// Which embedding rows stand for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UserRow {
    /// A user of the catalogue.
    Known(u32),
    /// Anyone else: the mean over all users.
    Mean,
}

/// One user as the model sees it. No row is 0 unless row 0 is meant: events are counted by length, never by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserFeatures {
    /// The user.
    pub user: UserRow,
    /// Item rows, oldest first, at most `HistoryLimits::recommendations`.
    pub recommendations: Vec<u32>,
    /// Searches, oldest first, at most `HistoryLimits::searches`.
    pub searches: Vec<SearchFeatures>,
    /// The moment that is asked about, in milliseconds since 1970: whatever a model knows besides the history (a graph
    /// of all users' clicks) counts only as far as it is older. `None` in serving: that is now, and all of it is past.
    pub as_of: Option<i64>,
}

impl UserFeatures {
    /// Whether the model sees no event at all: it ranks from user and item features alone.
    pub fn is_cold(&self) -> bool {
        self.recommendations.is_empty() && self.searches.is_empty()
    }

    /// The same, asked at a moment of the past.
    #[must_use]
    pub fn as_of(self, time: i64) -> Self {
        Self { as_of: Some(time), ..self }
    }
}

/// One search as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchFeatures {
    /// Query row; 0 (padding, which has no meaning of its own) for an unseen query, which still has its words.
    pub query: u32,
    /// Word rows, at most `HistoryLimits::words`.
    pub words: Vec<u32>,
    /// Source row.
    pub source: u32,
    /// Item rows, at most `HistoryLimits::clicks`.
    pub clicks: Vec<u32>,
    /// How many of [`UserFeatures::recommendations`] lie before it. Grows from search to search.
    pub place: u32,
}

/// A history in catalogue rows, before truncation: what a data set holds.
#[derive(Debug, Clone, Copy)]
pub struct RowHistory<'a> {
    /// Item rows, oldest first.
    pub recommendations: &'a [u32],
    /// Searches, oldest first.
    pub searches: &'a [RowSearch<'a>],
}

/// A search in catalogue rows, before truncation.
#[derive(Debug, Clone, Copy)]
pub struct RowSearch<'a> {
    /// Query row, 0 if unseen.
    pub query: u32,
    /// Word rows.
    pub words: &'a [u32],
    /// Source row.
    pub source: u32,
    /// Item rows.
    pub clicks: &'a [u32],
    /// How many of the user's recommendation events lie before it.
    pub place: usize,
}

/// What [`Featurizer::features`] found, and what it could not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Featurized {
    /// What the model sees.
    pub features: Arc<UserFeatures>,
    /// Which recommendation events of the history those are (indices, ascending).
    pub recommendation_events: Vec<usize>,
    /// Which search events of the history those are (indices, ascending).
    pub search_events: Vec<usize>,
    /// Items that were looked up: of the newest events, as many as it took.
    pub items: usize,
    /// Those of them that the catalogue doesn't have.
    pub unknown_items: usize,
}

/// Turns histories into [`UserFeatures`] by one catalogue.
#[derive(Debug, Clone)]
pub struct Featurizer {
    catalogue: Arc<Catalogue>,
    limits: HistoryLimits,
}

impl Featurizer {
    /// For a model with these limits.
    pub fn new(catalogue: Arc<Catalogue>, limits: HistoryLimits) -> Self {
        Self { catalogue, limits }
    }

    /// The catalogue behind it.
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// The limits.
    pub fn limits(&self) -> HistoryLimits {
        self.limits
    }

    /// The row that stands for a user.
    pub fn user(&self, user: &UserId) -> UserRow {
        self.catalogue.users.row(user.as_str()).map_or(UserRow::Mean, UserRow::Known)
    }

    /// The row of an item, or `None` outside the catalogue.
    pub fn item(&self, item: &ItemId) -> Option<u32> {
        self.catalogue.items.row(item.as_str())
    }

    /// A raw history. Recommendation events and clicks outside the catalogue are left out before the newest events
    /// are taken, so that they don't crowd out what the model knows.
    pub fn features(&self, user: &UserId, history: &History) -> Featurized {
        let (recommendation_events, recommendations, looked_up) = self.newest_known(&history.recommendations);
        let first_search = history.searches.len().saturating_sub(self.limits.searches);
        let searches = &history.searches[first_search..];
        let clicked: Vec<&str> =
            searches.iter().flat_map(|search| &search.clicked_item_ids).map(ItemId::as_str).collect();
        let clicked = self.catalogue.items.rows_of(&clicked);
        let unknown_clicks = clicked.iter().filter(|row| row.is_none()).count();
        let (items, unknown) = (looked_up + clicked.len(), looked_up - recommendations.len() + unknown_clicks);
        let mut clicked = clicked.into_iter();
        let searches = searches
            .iter()
            .map(|search| {
                let clicks: Vec<u32> = clicked.by_ref().take(search.clicked_item_ids.len()).flatten().collect();
                let (query, words) = self.query(search);
                // Of the events before it, those that the model sees.
                let place = recommendation_events.partition_point(|&event| event < search.place);
                let source = self.source(search);
                self.search(RowSearch { query, words: &words, source, clicks: &clicks, place }, 0)
            })
            .collect();
        Featurized {
            features: Arc::new(UserFeatures { user: self.user(user), recommendations, searches, as_of: None }),
            recommendation_events,
            search_events: (first_search..history.searches.len()).collect(),
            items,
            unknown_items: unknown,
        }
    }

    /// The newest items that the catalogue has, as many as the model sees: their indices and rows, oldest first, and
    /// how many were looked up. Looked up as many at a time as are still wanted.
    fn newest_known(&self, items: &[ItemId]) -> (Vec<usize>, Vec<u32>, usize) {
        let (mut events, mut rows, mut end) = (vec![], vec![], items.len());
        while end > 0 && rows.len() < self.limits.recommendations {
            let start = end.saturating_sub(self.limits.recommendations - rows.len());
            let ids: Vec<&str> = items[start..end].iter().map(ItemId::as_str).collect();
            let found = self.catalogue.items.rows_of(&ids).into_iter().enumerate().rev();
            for (n, row) in found.filter_map(|(n, row)| Some((n, row?))) {
                events.push(start + n);
                rows.push(row);
            }
            end = start;
        }
        events.reverse();
        rows.reverse();
        (events, rows, items.len() - end)
    }

    /// A history that is in rows already.
    pub fn from_rows(&self, user: UserRow, history: RowHistory<'_>) -> UserFeatures {
        let recommendations = tail(history.recommendations, self.limits.recommendations).to_vec();
        let unseen = history.recommendations.len() - recommendations.len();
        let searches = tail(history.searches, self.limits.searches).iter();
        let searches = searches.map(|&search| self.search(search, unseen)).collect();
        UserFeatures { user, recommendations, searches, as_of: None }
    }

    /// `unseen` recommendation events are too old for the model, and no longer counted.
    fn search(&self, search: RowSearch<'_>, unseen: usize) -> SearchFeatures {
        SearchFeatures {
            query: search.query,
            words: search.words[..search.words.len().min(self.limits.words)].to_vec(),
            source: search.source,
            clicks: search.clicks[..search.clicks.len().min(self.limits.clicks)].to_vec(),
            place: search.place.saturating_sub(unseen) as u32,
        }
    }

    fn query(&self, search: &HistorySearch) -> (u32, Vec<u32>) {
        let queries = &self.catalogue.queries;
        match &search.query {
            Query::Id(id) => match queries.row(id.as_str()) {
                Some(row) => (row, self.catalogue.words_of(row).to_vec()),
                None => (0, vec![]),
            },
            Query::Text(text) => {
                let texts = self.catalogue.tokenizer.words(text);
                let row = queries.row(&self.catalogue.tokenizer.canonical_of(&texts));
                let words: Vec<u32> = texts.iter().filter_map(|word| self.catalogue.words.row(word)).collect();
                let has_words = !self.catalogue.words.ids.is_empty();
                match row.map(|row| (row, self.catalogue.words_of(row))) {
                    // Where queries have ids of another kind than their text (converted bundles), a text may look like
                    // one: then the words differ, as far as the bundle has any.
                    Some((row, known)) if known.is_empty() || !has_words || sorted(known) == sorted(&words) => {
                        (row, known.to_vec())
                    }
                    _ => (0, words),
                }
            }
        }
    }

    fn source(&self, search: &HistorySearch) -> u32 {
        let known = search.source.as_deref().and_then(|source| self.catalogue.sources.row(source));
        known.unwrap_or(self.catalogue.default_source)
    }
}

fn sorted(words: &[u32]) -> Vec<u32> {
    let mut words = words.to_vec();
    words.sort_unstable();
    words
}

fn tail<T>(events: &[T], count: usize) -> &[T] {
    &events[events.len().saturating_sub(count)..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{data::EntityTable, domain::QueryId};

    /// A text is the query of its words, not one whose id merely looks like it.
    #[test]
    fn a_text_is_no_id() {
        let words = EntityTable { ids: ["red", "shoes", "3"].into_iter().collect(), ..EntityTable::padded() };
        let ids = ["red shoes", "3", "unsaid"].into_iter().collect();
        // The second query's words are those of the first.
        let lists = [&[1, 2][..], &[1, 2], &[]].into_iter().collect();
        let queries = EntityTable { ids, words: lists, ..EntityTable::padded() };
        let catalogue = Catalogue { words, queries, ..Catalogue::default() };
        let limits = HistoryLimits { recommendations: 1, searches: 1, words: 9, clicks: 1 };
        let featurizer = Featurizer::new(Arc::new(catalogue), limits);
        let query = |query: Query| {
            let search = HistorySearch { search_id: None, query, source: None, clicked_item_ids: vec![], place: 0 };
            featurizer.query(&search)
        };
        let text = |text: &str| query(Query::Text(text.into()));
        assert_eq!(text("Red, shoes!"), (1, vec![1, 2]));
        assert_eq!(text("shoes"), (0, vec![2]));
        assert_eq!(text("[3]"), (0, vec![3]));
        assert_eq!(query(Query::Id(QueryId::new("3").unwrap())), (2, vec![1, 2]));
        // Of a query whose words nobody gave, the id is all there is to go by.
        assert_eq!(text("unsaid"), (3, vec![]));
    }

    proptest! {
        /// Looked up in parts, the newest known events are those that going back one by one finds.
        #[test]
        fn newest_known_events(ids in prop::collection::vec(0_u32..60, 0..80), limit in 0_usize..12) {
            // Of 60 items, the catalogue has the first 40.
            let items = EntityTable { ids: (0..40).map(|n| n.to_string()).collect(), ..EntityTable::padded() };
            let catalogue = Catalogue { items, ..Catalogue::default() };
            let limits = HistoryLimits { recommendations: limit, searches: 1, words: 1, clicks: 1 };
            let history: Vec<ItemId> = ids.iter().map(|id| ItemId::new(&id.to_string()).unwrap()).collect();
            let found = Featurizer::new(Arc::new(catalogue), limits).newest_known(&history);

            let (mut events, mut rows, mut looked_up) = (vec![], vec![], 0);
            for (n, &id) in ids.iter().enumerate().rev() {
                if rows.len() == limit {
                    break;
                }
                looked_up += 1;
                if id < 40 {
                    events.insert(0, n);
                    rows.insert(0, id + 1);
                }
            }
            prop_assert_eq!(found, (events, rows, looked_up));
        }
    }
}
