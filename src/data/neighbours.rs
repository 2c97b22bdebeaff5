//! Which items are clicked shortly after each other.

use super::Dataset;

/// How often two items stand within three steps of each other in users' training clicks, in compressed sparse rows.
#[derive(Debug)]
pub struct Neighbours {
    ends: Vec<usize>,
    items: Vec<u32>,
    counts: Vec<u32>,
}

impl Neighbours {
    /// Clicks this far apart in a user's sequence count as together.
    pub const STEPS: usize = 3;

    /// Counted over all users.
    pub fn of(dataset: &Dataset) -> Self {
        let mut pairs: Vec<(u32, u32)> = vec![];
        for user in 0..dataset.users() as u32 {
            let clicks = dataset.recommendations(user);
            let clicks = &clicks[..dataset.learned(user)];
            for (n, &item) in clicks.iter().enumerate() {
                for &other in clicks.iter().skip(n + 1).take(Self::STEPS).filter(|&&other| other != item) {
                    pairs.extend([(item, other), (other, item)]);
                }
            }
        }
        pairs.sort_unstable();
        let counted = pairs.chunk_by(|a, b| a == b).map(|same| [same[0].0, same[0].1, same.len() as u32]);
        Self::from_sorted(dataset.catalogue.items.rows(), counted)
    }

    /// Of an item, another one and how often they were seen, by item, then by the other, of so many items.
    ///
    /// # Panics
    /// If there is no such item.
    pub fn from_sorted(rows: usize, counted: impl IntoIterator<Item = [u32; 3]>) -> Self {
        let mut neighbours = Self { ends: vec![0; rows], items: vec![], counts: vec![] };
        for [item, other, count] in counted {
            neighbours.items.push(other);
            neighbours.counts.push(count);
            neighbours.ends[item as usize] = neighbours.items.len();
        }
        // Items without neighbours end where the one before them does.
        let mut end = 0;
        for own in &mut neighbours.ends {
            end = end.max(*own);
            *own = end;
        }
        neighbours
    }

    /// An item's neighbours by row, and how often each was seen.
    pub fn of_item(&self, item: u32) -> impl Iterator<Item = (u32, u32)> {
        let row = self.row(item);
        self.items[row.clone()].iter().copied().zip(self.counts[row].iter().copied())
    }

    fn row(&self, item: u32) -> std::ops::Range<usize> {
        let start = if item == 0 { 0 } else { self.ends[item as usize - 1] };
        start..self.ends[item as usize]
    }

    /// How often a pair was seen.
    pub fn count(&self, item: u32, other: u32) -> u32 {
        let row = self.row(item);
        self.items[row.clone()].binary_search(&other).map_or(0, |n| self.counts[row][n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixture;

    #[test]
    fn counts_within_three_steps_of_training_clicks() {
        // The last two clicks are validation and test.
        let users = [&[1, 2, 3, 4, 5, 8, 9][..], &[2, 1, 2, 8, 9]].map(fixture::User::clicking);
        let neighbours = Neighbours::of(&fixture::dataset(9, 0, users));
        assert_eq!(neighbours.count(1, 2), 3, "1 2 of the first user, 2 1 and 1 2 of the second");
        assert_eq!((neighbours.count(2, 1), neighbours.count(2, 2)), (3, 0));
        assert_eq!((neighbours.count(1, 4), neighbours.count(4, 1), neighbours.count(1, 5)), (1, 1, 0));
        assert_eq!((neighbours.count(5, 8), neighbours.count(9, 8), neighbours.count(7, 1)), (0, 0, 0));
    }
}
