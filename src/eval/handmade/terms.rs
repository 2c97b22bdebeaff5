//! What items are described by.

use crate::data::Dataset;

/// Every item's terms in compressed sparse rows: the words of the training searches that clicked it, and its
/// attributes' values, numbered after the words.
#[derive(Debug)]
pub(super) struct Terms {
    ends: Vec<usize>,
    terms: Vec<u32>,
    /// By term: the squared inverse document frequency.
    weights: Vec<f32>,
}

impl Terms {
    /// Of all items.
    pub fn of(dataset: &Dataset) -> Self {
        let catalogue = &dataset.catalogue;
        let mut pairs: Vec<(u32, u32)> = vec![];
        let mut count = catalogue.words.rows() as u32;
        for attribute in &catalogue.items.attributes {
            let known = attribute.values.iter().zip(0u32..).filter(|(value, _)| **value != 0);
            pairs.extend(known.map(|(value, item)| (item, count + value)));
            count += attribute.rows;
        }
        for user in 0..dataset.users() as u32 {
            let searches = dataset.searches(user);
            for search in &searches[..dataset.training_searches(user)] {
                for &item in search.clicks {
                    pairs.extend(search.words.iter().map(|&word| (item, word)));
                }
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        let mut frequencies = vec![0u32; count as usize];
        let mut ends = vec![0; catalogue.items.rows()];
        for &(item, term) in &pairs {
            frequencies[term as usize] += 1;
            ends[item as usize] += 1;
        }
        ends.iter_mut().fold(0, |end, own| {
            *own += end;
            *own
        });
        let items = catalogue.items.ids.len() as f32;
        let weight = |&items_with_it: &u32| match items_with_it {
            0 => 0.0,
            n => (items / n as f32).ln().powi(2),
        };
        Self {
            ends,
            terms: pairs.into_iter().map(|(_, term)| term).collect(),
            weights: frequencies.iter().map(weight).collect(),
        }
    }

    /// How many different terms there are.
    pub fn count(&self) -> usize {
        self.weights.len()
    }

    /// The terms of an item.
    pub fn of_item(&self, item: u32) -> &[u32] {
        let start = if item == 0 { 0 } else { self.ends[item as usize - 1] };
        &self.terms[start..self.ends[item as usize]]
    }

    /// idf(t)².
    pub fn weight(&self, term: u32) -> f32 {
        self.weights[term as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::{Attribute, fixture};

    #[test]
    fn attributes_and_words_of_training_searches() {
        let mut user = fixture::User::clicking(&[1, 2, 3, 4]);
        // Validation is at time 30: the search at 35 is not yet known.
        user.searches = vec![(5, 1, vec![2, 3]), (35, 2, vec![3])];
        let mut dataset = fixture::dataset(4, 2, [user]);
        let catalogue = Arc::make_mut(&mut dataset.catalogue);
        catalogue.items.attributes = vec![Attribute { name: "colour".into(), rows: 3, values: vec![0, 1, 2, 1, 0] }];
        let terms = Terms::of(&dataset);
        // Words are rows 0 to 2, colours follow.
        assert_eq!(terms.count(), 6);
        assert_eq!(terms.of_item(0), [] as [u32; 0]);
        assert_eq!((terms.of_item(1), terms.of_item(2)), (&[4][..], &[1, 5][..]));
        assert_eq!((terms.of_item(3), terms.of_item(4)), (&[1, 4][..], &[][..]));
        assert!((terms.weight(1) - (4f32 / 2.0).ln().powi(2)).abs() < 1e-6);
        assert_eq!(terms.weight(2), 0.0);
    }
}
