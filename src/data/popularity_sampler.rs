//! Items that a user did not click, drawn anew in every step of training.

use std::collections::HashSet;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::NegativesError;

/// Draws that are rejected before a sampler takes another way: with half of the clicks excluded, one in 10^19 samples.
const MAX_REJECTIONS: usize = 64;

/// Draws items in proportion to their training clicks, as the release draws its training negatives from the list of
/// interactions. Walker's alias method: two random numbers per draw, whatever the size of the catalogue.
#[derive(Debug, Clone)]
pub struct PopularitySampler {
    /// For each row: the share (of 2^32) of its slot that is its own, and whose the rest is.
    slots: Vec<(u32, u32)>,
    first_item: u32,
}

impl PopularitySampler {
    /// `clicks` by item row ([`Dataset::popularity`](super::Dataset::popularity)), `first_item` the first row that is
    /// an item.
    ///
    /// # Errors
    /// If there are fewer than two items: then no item is a negative of another. Without any click, all items are
    /// equally likely.
    pub fn new(clicks: &[u32], first_item: u32) -> Result<Self, NegativesError> {
        let items = clicks.len().saturating_sub(first_item as usize);
        if items < 2 {
            let message = format!("the catalogue has {items} items: sampling negatives takes at least two");
            return Err(NegativesError::TooFewItems(message));
        }
        let clicks = &clicks[first_item as usize..];
        let total: u64 = clicks.iter().map(|&count| u64::from(count)).sum();
        // Vose's construction in integers: exact, and so the same on every machine.
        let full = u128::from(total.max(1));
        let mut shares: Vec<u128> = match total {
            0 => vec![1; items],
            _ => clicks.iter().map(|&count| u128::from(count) * items as u128).collect(),
        };
        let mut slots: Vec<(u32, u32)> = (0..items as u32).map(|n| (u32::MAX, n)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..items).partition(|&n| shares[n] < full);
        while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
            small.pop();
            slots[poor] = (((shares[poor] << 32) / full) as u32, rich as u32);
            shares[rich] -= full - shares[poor];
            if shares[rich] < full {
                large.pop();
                small.push(rich);
            }
        }
        Ok(Self { slots, first_item })
    }

    /// One item row.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> u32 {
        let slot = rng.random_range(0..self.slots.len() as u32);
        let (own, alias) = self.slots[slot as usize];
        // u32::MAX is a full slot, not one short of it.
        let item = if own == u32::MAX || rng.random::<u32>() < own { slot } else { alias };
        item + self.first_item
    }

    /// `count` item rows, distinct and none of `excluded`, appended to `negatives`. Where a user has clicked nearly
    /// everything popular, the rest is drawn uniformly from what is left; where less than `count` is left, items
    /// repeat, and a user who has clicked everything gets any items but `excluded`'s last, which is the target.
    pub fn sample(&self, excluded: &[u32], count: usize, rng: &mut ChaCha8Rng, negatives: &mut Vec<u32>) {
        let start = negatives.len();
        for _ in 0..count {
            let taken = &negatives[start..];
            let free = |item: &u32| !taken.contains(item) && !excluded.contains(item);
            let drawn = (0..MAX_REJECTIONS).map(|_| self.draw(rng)).find(free);
            let item = drawn.unwrap_or_else(|| self.uniform(excluded, taken, rng));
            negatives.push(item);
        }
    }

    /// The slow way, for the rare user whom rejection fails.
    fn uniform(&self, excluded: &[u32], taken: &[u32], rng: &mut ChaCha8Rng) -> u32 {
        let rows = self.first_item..self.first_item + self.slots.len() as u32;
        let clicked: HashSet<u32> = excluded.iter().copied().collect();
        let mut left: Vec<u32> = rows.clone().filter(|row| !clicked.contains(row) && !taken.contains(row)).collect();
        if left.is_empty() {
            left = rows.clone().filter(|row| !clicked.contains(row)).collect();
        }
        if left.is_empty() {
            left = rows.filter(|row| Some(row) != excluded.last()).collect();
        }
        left[rng.random_range(0..left.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    #[test]
    fn draws_in_proportion_to_clicks() {
        let clicks = [0, 1, 0, 6, 3, 10];
        let sampler = PopularitySampler::new(&clicks, 1).unwrap();
        let (mut counts, mut rng, draws) = ([0u32; 6], rng(1), 200_000);
        (0..draws).for_each(|_| counts[sampler.draw(&mut rng) as usize] += 1);
        assert_eq!((counts[0], counts[2]), (0, 0), "padding and items without clicks are never drawn");
        for (row, &clicks) in clicks.iter().enumerate() {
            let expected = f64::from(draws) * f64::from(clicks) / 20.0;
            let deviation = (f64::from(counts[row]) - expected).abs();
            // Five standard deviations of a binomial count.
            assert!(deviation <= 5.0 * expected.sqrt(), "row {row}: {} instead of {expected}", counts[row]);
        }
    }

    #[test]
    fn without_clicks_all_items_are_equally_likely() {
        let sampler = PopularitySampler::new(&[0; 5], 1).unwrap();
        let (mut counts, mut rng) = ([0u32; 5], rng(2));
        (0..40_000).for_each(|_| counts[sampler.draw(&mut rng) as usize] += 1);
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|&count| count.abs_diff(10_000) < 500), "{counts:?}");
    }

    #[test]
    fn samples_are_distinct_outside_the_history_and_repeatable() {
        let clicks: Vec<u32> = (0..50).map(|n| n * n).collect();
        let sampler = PopularitySampler::new(&clicks, 1).unwrap();
        let excluded: Vec<u32> = (30..50).collect();
        for seed in 0..500 {
            let (mut first, mut second) = (vec![], vec![]);
            sampler.sample(&excluded, 4, &mut rng(seed), &mut first);
            sampler.sample(&excluded, 4, &mut rng(seed), &mut second);
            assert_eq!(first, second);
            assert_eq!(first.iter().collect::<HashSet<_>>().len(), 4);
            assert!(first.iter().all(|item| (1..30).contains(item)), "{first:?}");
        }
    }

    #[test]
    fn a_user_who_has_nearly_everything_still_gets_negatives() {
        // Everything that was ever clicked is excluded: only the uniform way finds items 4 and 5.
        let sampler = PopularitySampler::new(&[0, 9, 9, 9, 0, 0], 1).unwrap();
        let mut negatives = vec![];
        sampler.sample(&[1, 2, 3], 2, &mut rng(3), &mut negatives);
        negatives.sort_unstable();
        assert_eq!(negatives, [4, 5]);
        // Fewer items than asked for: they repeat.
        negatives.clear();
        sampler.sample(&[1, 2, 3, 4], 3, &mut rng(4), &mut negatives);
        assert_eq!(negatives, [5, 5, 5]);
        // Nothing is left: anything but the target.
        negatives.clear();
        sampler.sample(&[1, 2, 3, 4, 5], 20, &mut rng(5), &mut negatives);
        assert!(negatives.iter().all(|item| (1..5).contains(item)), "{negatives:?}");
        assert!(PopularitySampler::new(&[0, 3], 1).is_err());
    }
}
