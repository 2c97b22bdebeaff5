//! The queries that led to items, as they were known at any moment.

use std::{cmp::Reverse, collections::HashMap};

use candle_core::{Device, Result, Tensor};

use crate::{
    data::{Dataset, SearchClick},
    model::{ModelError, time_from_words, time_words},
};

/// A query that led to a click.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Click {
    item: u32,
    /// In milliseconds since 1970.
    time: i64,
    query: u32,
}

/// Of every item the N queries that most often led to a click of it; the smaller row first where they are equally
/// frequent. An item's own row is what is known now, that is after all clicks. What was known before is at rows behind
/// the items', one for each time that an item's queries changed.
#[derive(Debug, Clone, Default)]
pub struct Instruments {
    most: usize,
    /// `[items + changes, N]` query rows, 0 for none.
    queries: Vec<u32>,
    /// `[changes]`, by item and time.
    changes: Vec<Change>,
    items: usize,
}

/// The end of what was known of an item.
#[derive(Debug, Clone, Copy)]
struct Change {
    item: u32,
    /// The first click that counts differently: it is known later than this.
    time: i64,
}

impl Instruments {
    /// Numbers per click of the table: item, query, and the time's halves.
    pub(super) const WIDTH: usize = 4;

    /// The clicks of searches before their users' validation interactions: `[clicks, 4]`.
    pub(super) fn table(dataset: &Dataset) -> Result<Tensor> {
        let row = |SearchClick { item, query, time, .. }| {
            let [high, low] = time_words(time);
            [item, query, high, low]
        };
        let rows: Vec<u32> = dataset.training_search_clicks().flat_map(row).collect();
        let clicks = rows.len() / Self::WIDTH;
        Tensor::from_vec(rows, (clicks, Self::WIDTH), &Device::Cpu)
    }

    /// From such a table: `most` queries per item. There are so many `items` and `queries`.
    ///
    /// # Errors
    /// If a click mentions others.
    pub(super) fn from_table(
        name: &str,
        table: &Tensor,
        most: usize,
        [items, queries]: [usize; 2],
    ) -> std::result::Result<Self, ModelError> {
        let values = table.flatten_all()?.to_vec1::<u32>()?;
        let click = |row: &[u32]| Click { item: row[0], query: row[1], time: time_from_words([row[2], row[3]]) };
        let mut clicks: Vec<Click> = values.chunks_exact(Self::WIDTH).map(click).collect();
        for (n, click) in clicks.iter().enumerate() {
            for (what, row, rows) in [("item", click.item, items), ("query", click.query, queries)] {
                if row as usize >= rows {
                    let message = format!("click {n} has {what} {row}; the model has {rows} rows of them");
                    return Err(ModelError::Weights { name: name.into(), message });
                }
            }
        }
        clicks.sort_unstable();
        Ok(Self::new(&clicks, items, most))
    }

    /// Of clicks by item and time.
    fn new(clicks: &[Click], items: usize, most: usize) -> Self {
        let mut it = Self { most, queries: vec![0; items * most], changes: vec![], items };
        for clicks in clicks.chunk_by(|a, b| a.item == b.item) {
            let (mut queries, item) = (MostFrequent::new(most), clicks[0].item);
            for clicks in clicks.chunk_by(|a, b| a.time == b.time) {
                let before = queries.rows();
                clicks.iter().for_each(|click| queries.count(click.query));
                if before != queries.rows() {
                    it.changes.push(Change { item, time: clicks[0].time });
                    it.queries.extend(before);
                }
            }
            it.queries[item as usize * most..][..most].copy_from_slice(&queries.rows());
        }
        it
    }

    /// Whether no item has any.
    pub(super) fn is_empty(&self) -> bool {
        self.queries.iter().all(|&query| query == 0)
    }

    /// How many items there are.
    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// The row that says what was known of an item by clicks older than a moment, or now; nothing for what is no item.
    pub fn as_of(&self, item: u32, moment: Option<i64>) -> Option<u32> {
        if item as usize >= self.items {
            return None;
        }
        let Some(moment) = moment else { return Some(item) };
        let next = self.changes.partition_point(|change| (change.item, change.time) < (item, moment));
        let changed_later = self.changes.get(next).is_some_and(|change| change.item == item);
        Some(if changed_later { (self.items + next) as u32 } else { item })
    }

    /// Whose row it is.
    pub(super) fn item_of(&self, row: u32) -> u32 {
        (row as usize).checked_sub(self.items).and_then(|n| self.changes.get(n)).map_or(row, |change| change.item)
    }

    /// The N queries of a row, 0 for none; nothing of a row that there isn't.
    pub fn of(&self, row: u32) -> Option<&[u32]> {
        self.queries.get(row as usize * self.most..)?.get(..self.most)
    }
}

/// The N most frequent of what is counted. Counts only grow, so that what isn't among them can be forgotten until it is
/// counted again.
struct MostFrequent {
    most: usize,
    counts: HashMap<u32, u32>,
    /// How often, and which.
    best: Vec<(Reverse<u32>, u32)>,
}

impl MostFrequent {
    fn new(most: usize) -> Self {
        Self { most, counts: HashMap::new(), best: vec![] }
    }

    fn count(&mut self, query: u32) {
        let count = self.counts.entry(query).or_default();
        *count += 1;
        let count = *count;
        self.best.retain(|&(_, best)| best != query);
        self.best.push((Reverse(count), query));
        self.best.sort_unstable();
        self.best.truncate(self.most);
    }

    /// N of them, 0 for none.
    fn rows(&self) -> Vec<u32> {
        let rows = self.best.iter().map(|&(_, query)| query).chain(std::iter::repeat(0));
        rows.take(self.most).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ITEMS: usize = 4;
    const MOST: usize = 2;

    /// The definition.
    fn by_counting(clicks: &[Click], item: u32, moment: Option<i64>) -> Vec<u32> {
        let mut counts: HashMap<u32, u32> = HashMap::new();
        let known = clicks.iter().filter(|click| click.item == item && moment.is_none_or(|moment| click.time < moment));
        known.for_each(|click| *counts.entry(click.query).or_default() += 1);
        let mut best: Vec<_> = counts.into_iter().map(|(query, count)| (Reverse(count), query)).collect();
        best.sort_unstable();
        best.into_iter().map(|(_, query)| query).chain([0; MOST]).take(MOST).collect()
    }

    proptest! {
        #[test]
        fn what_was_known_is_what_the_clicks_before_say(
            clicks in prop::collection::vec((1..ITEMS as u32, -3..9_i64, 1..5_u32), 0..40),
        ) {
            let mut clicks: Vec<Click> =
                clicks.into_iter().map(|(item, time, query)| Click { item, time, query }).collect();
            clicks.sort_unstable();
            let instruments = Instruments::new(&clicks, ITEMS, MOST);
            prop_assert_eq!(instruments.as_of(ITEMS as u32, Some(3)), None);
            for item in 0..ITEMS as u32 {
                prop_assert_eq!(instruments.of(item).unwrap(), by_counting(&clicks, item, None));
                prop_assert_eq!(instruments.as_of(item, None), Some(item));
                for moment in -4..11 {
                    let row = instruments.as_of(item, Some(moment)).unwrap();
                    prop_assert_eq!(instruments.item_of(row), item);
                    prop_assert_eq!(instruments.of(row).unwrap(), by_counting(&clicks, item, Some(moment)));
                }
            }
        }
    }
}
