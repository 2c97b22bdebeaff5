//! From a data set's rows to those of a bundle's catalogue, by id: a bundle can be evaluated on any import of its logs.

use crate::data::{Catalogue, EntityTable, Featurizer, RowHistory, RowSearch, UserFeatures, UserRow};

/// A data set and a bundle that have nothing to do with each other.
#[derive(Debug, thiserror::Error)]
pub enum RowMapError {
    /// Not one id in common.
    #[error("none of the data set's {0} is in the bundle's catalogue: the bundle was made from other logs")]
    Disjoint(&'static str),
    /// A candidate that the bundle can't score.
    #[error(
        "item {0:?} is a candidate here and not in the bundle's catalogue: evaluate on the data set that the bundle was \
         trained on, or train on this one"
    )]
    UnknownItem(String),
}

/// Each row's counterpart; `None` is what the bundle doesn't know.
#[derive(Debug, Clone)]
pub struct RowMap {
    items: Vec<Option<u32>>,
    users: Vec<Option<u32>>,
    queries: Vec<Option<u32>>,
    words: Vec<Option<u32>>,
    sources: Vec<Option<u32>>,
    default_source: u32,
}

impl RowMap {
    /// From the rows of `data` to those of `bundle`; nothing where they are the same.
    ///
    /// # Errors
    /// If the catalogues have no item or no user in common.
    pub fn between(data: &Catalogue, bundle: &Catalogue) -> Result<Option<Self>, RowMapError> {
        let map = Self {
            items: rows(&data.items, &bundle.items),
            users: rows(&data.users, &bundle.users),
            queries: rows(&data.queries, &bundle.queries),
            words: rows(&data.words, &bundle.words),
            sources: rows(&data.sources, &bundle.sources),
            default_source: bundle.default_source,
        };
        let known = |rows: &[Option<u32>]| rows.iter().flatten().any(|&row| row != 0);
        if !known(&map.items) {
            return Err(RowMapError::Disjoint("items"));
        }
        if map.users.iter().all(Option::is_none) {
            return Err(RowMapError::Disjoint("users"));
        }
        let same = [&map.items, &map.users, &map.queries, &map.words, &map.sources]
            .iter()
            .all(|rows| rows.iter().enumerate().all(|(n, row)| *row == Some(n as u32)));
        // The words of a query may have been split otherwise, which the ids alone don't show.
        Ok(if same && data.queries.words == bundle.queries.words { None } else { Some(map) })
    }

    /// An item's row in the bundle.
    pub fn item(&self, item: u32) -> Option<u32> {
        self.items[item as usize]
    }

    /// What the bundle's model sees of a history in the data set's rows. As in serving, items that the bundle doesn't
    /// know are left out, an unknown query keeps its known words, and an unknown user is the mean user.
    pub fn features(&self, user: u32, history: RowHistory<'_>, featurizer: &Featurizer) -> UserFeatures {
        let recommendations: Vec<u32> = history.recommendations.iter().filter_map(|&item| self.item(item)).collect();
        let catalogue = featurizer.catalogue();
        let known: Vec<bool> = history.recommendations.iter().map(|&item| self.item(item).is_some()).collect();
        let translated: Vec<Translated> = history
            .searches
            .iter()
            .map(|search| {
                let query = self.queries[search.query as usize].unwrap_or(0);
                let words = match query {
                    0 => search.words.iter().filter_map(|&word| self.words[word as usize]).collect(),
                    row => catalogue.words_of(row).to_vec(),
                };
                let source = self.sources[search.source as usize].unwrap_or(self.default_source);
                let place = known[..search.place.min(known.len())].iter().filter(|&&known| known).count();
                let clicks = search.clicks.iter().filter_map(|&item| self.item(item)).collect();
                Translated { query, words, source, clicks, place }
            })
            .collect();
        let searches: Vec<RowSearch<'_>> = translated
            .iter()
            .map(|&Translated { query, ref words, source, ref clicks, place }| RowSearch {
                query,
                words,
                source,
                clicks,
                place,
            })
            .collect();
        let user = self.users[user as usize].map_or(UserRow::Mean, UserRow::Known);
        featurizer.from_rows(user, RowHistory { recommendations: &recommendations, searches: &searches })
    }

    /// Items of `data` that the bundle doesn't have.
    pub fn unknown_items(&self) -> usize {
        self.items.iter().filter(|row| row.is_none()).count()
    }
}

/// For every row of `from`, the row in `to` with the same id; padding to padding.
fn rows(from: &EntityTable, to: &EntityTable) -> Vec<Option<u32>> {
    let padding = (0..from.first_row).map(|row| (row < to.first_row).then_some(row));
    padding.chain(from.ids.iter().map(|id| to.row(id))).collect()
}

/// A search in the bundle's rows.
struct Translated {
    query: u32,
    words: Vec<u32>,
    source: u32,
    clicks: Vec<u32>,
    place: usize,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::HistoryLimits;

    fn table(first_row: u32, ids: &[&str]) -> EntityTable {
        EntityTable { ids: ids.iter().collect(), first_row, ..EntityTable::default() }
    }

    fn catalogue(items: &[&str], users: &[&str]) -> Catalogue {
        Catalogue {
            items: table(1, items),
            users: table(0, users),
            queries: EntityTable { words: [[1, 2]].into_iter().collect(), ..table(1, &["red shoes"]) },
            words: table(1, &["red", "shoes"]),
            sources: table(0, &["typed"]),
            ..Catalogue::default()
        }
    }

    #[test]
    fn equal_catalogues_need_no_map() {
        let data = catalogue(&["a", "b"], &["u"]);
        assert!(RowMap::between(&data, &data.clone()).unwrap().is_none());
    }

    #[test]
    fn rows_are_translated_and_the_unknown_is_left_out() {
        let data = catalogue(&["a", "new", "b"], &["u", "stranger"]);
        let mut bundle = catalogue(&["b", "a"], &["x", "u"]);
        bundle.queries = EntityTable { words: [[1]].into_iter().collect(), ..table(1, &["other"]) };
        bundle.words = table(1, &["shoes"]);
        bundle.sources = table(0, &["suggested", "scanned"]);
        bundle.default_source = 1;
        let map = RowMap::between(&data, &bundle).unwrap().unwrap();
        assert_eq!((map.item(1), map.item(2), map.item(3)), (Some(2), None, Some(1)));
        let limits = HistoryLimits { recommendations: 5, searches: 5, words: 5, clicks: 5 };
        let featurizer = Featurizer::new(Arc::new(bundle), limits);
        let search = RowSearch { query: 1, words: &[1, 2], source: 0, clicks: &[2, 3], place: 1 };
        let history = RowHistory { recommendations: &[1, 2, 3], searches: &[search] };
        let features = map.features(0, history, &featurizer);
        assert_eq!(features.user, UserRow::Known(1));
        assert_eq!(features.recommendations, [2, 1]);
        let search = &features.searches[0];
        assert_eq!((search.query, &search.words[..], search.source, &search.clicks[..]), (0, &[1][..], 1, &[1][..]));
        assert_eq!(map.features(1, history, &featurizer).user, UserRow::Mean);
    }

    #[test]
    fn other_logs_are_refused() {
        let data = catalogue(&["a"], &["u"]);
        let error = RowMap::between(&data, &catalogue(&["z"], &["u"])).unwrap_err();
        assert!(matches!(error, RowMapError::Disjoint("items")));
        let error = RowMap::between(&data, &catalogue(&["a"], &["z"])).unwrap_err();
        assert!(matches!(error, RowMapError::Disjoint("users")));
    }
}
