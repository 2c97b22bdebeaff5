//! Items that users click shortly after each other.
//!
//! With n(i) clicks of item i in the training part, and n(i, j) times that a user clicked i and j within
//! [`Neighbours::STEPS`] of each other, candidate c has from the user's newest clicks h
//!
//!   40 · the mean of n(h, c) / √(n(h) · n(c)), weighted by γ^(clicks after h)
//!
//! for each γ of [`DECAYS`]. Only each item's [`NEIGHBOURS`] nearest ones count.

use std::{collections::HashMap as StdMap, sync::Arc};

use candle_core::{Device, Result, Tensor};
use hashbrown::HashMap;

use super::decay::{DECAYS, by_age, weighted};
use crate::{
    data::{Dataset, Neighbours, UserFeatures},
    model::{ModelError, ParameterList, Weights},
};

/// Newest clicks of a history that count: the neighbours of many would fill the cache of encoded users.
const NEWEST: usize = 20;
/// Neighbours of an item that count.
const NEIGHBOURS: usize = 32;
/// The means are of a size at which weights are below one: the prior of [`super::stacking`] is of that width.
const SCALE: f32 = 40.0;

/// `[2]`: what the sums weigh.
pub(super) const WEIGHTS: &str = "clicked_together.weight";
/// `[pairs, 3]`: an item, a neighbour, how often they were clicked together; by item, then by neighbour.
const PAIRS: &str = "clicked_together.pairs";
/// `[items]`: clicks.
const CLICKS: &str = "clicked_together.clicks";

/// Who is near whom, and what the sums weigh.
#[derive(Debug, Clone)]
pub(super) struct ClickedTogether {
    near: Arc<Near>,
    pub(super) weights: [f32; DECAYS.len()],
}

/// Each item's nearest neighbours.
#[derive(Debug)]
struct Near {
    /// By item row.
    clicks: Vec<u32>,
    neighbours: Neighbours,
}

/// What a user's newest clicks add to their neighbours.
#[derive(Debug, Clone, Default)]
pub(super) struct ItemLogits(HashMap<u32, f32>);

impl ClickedTogether {
    pub(super) fn parameters(items: usize, list: &mut ParameterList) {
        list.fitted(WEIGHTS.into(), &[DECAYS.len()]);
        list.list(PAIRS.into(), 3);
        list.table(CLICKS.into(), &[items]);
    }

    pub(super) fn tables(dataset: &Dataset) -> Result<StdMap<String, Tensor>> {
        let (clicks, neighbours) = (dataset.popularity(), Neighbours::of(dataset));
        let mut pairs: Vec<u32> = vec![];
        for item in 0..clicks.len() as u32 {
            let mut nearest: Vec<(u32, u32)> = neighbours.of_item(item).collect();
            let cosine = |&(other, count): &(u32, u32)| count as f32 / (clicks[other as usize] as f32).sqrt();
            // Ties go to the smaller row.
            nearest.sort_by(|a, b| cosine(b).total_cmp(&cosine(a)));
            nearest.truncate(NEIGHBOURS);
            nearest.sort_unstable();
            pairs.extend(nearest.into_iter().flat_map(|(other, count)| [item, other, count]));
        }
        let (rows, items) = (pairs.len() / 3, clicks.len());
        Ok(StdMap::from([
            (PAIRS.to_owned(), Tensor::from_vec(pairs, (rows, 3), &Device::Cpu)?),
            (CLICKS.to_owned(), Tensor::from_vec(clicks, items, &Device::Cpu)?),
        ]))
    }

    pub(super) fn check_tables(tensors: &StdMap<String, Tensor>) -> std::result::Result<(), ModelError> {
        let (Some(pairs), Some(clicks)) = (tensors.get(PAIRS), tensors.get(CLICKS)) else { return Ok(()) };
        Near::new(pairs, clicks).map(|_| ())
    }

    pub(super) fn new(weights: &Weights<'_>) -> std::result::Result<Self, ModelError> {
        let near = Near::new(&weights.get(PAIRS)?, &weights.get(CLICKS)?)?;
        let weights = weights.get(WEIGHTS)?.to_vec1::<f32>()?;
        Ok(Self { near: Arc::new(near), weights: std::array::from_fn(|decay| weights[decay]) })
    }

    /// What a user's newest clicks add to their neighbours.
    pub(super) fn of_user(&self, user: &UserFeatures) -> ItemLogits {
        let Near { clicks, neighbours } = &*self.near;
        let mut items: HashMap<u32, f32> = HashMap::new();
        let newest = user.recommendations.iter().rev().take(NEWEST);
        for (&item, counts) in newest.clone().zip(by_age(newest.len())) {
            let weight = SCALE * weighted(counts, &self.weights);
            for (other, count) in neighbours.of_item(item) {
                let cosine = count as f32 / (clicks[item as usize] as f32 * clicks[other as usize] as f32).sqrt();
                *items.entry(other).or_default() += weight * cosine;
            }
        }
        ItemLogits(items)
    }
}

impl ItemLogits {
    /// Added to candidates' logits.
    pub(super) fn add(&self, items: &[u32], logits: &mut [f32]) {
        if self.0.is_empty() {
            return;
        }
        for (item, logit) in items.iter().zip(logits) {
            *logit += self.0.get(item).copied().unwrap_or(0.0);
        }
    }

    /// Memory it occupies.
    pub(super) fn bytes(&self) -> usize {
        self.0.allocation_size()
    }
}

impl Near {
    fn new(pairs: &Tensor, clicks: &Tensor) -> std::result::Result<Self, ModelError> {
        let fail = |message: String| ModelError::Weights { name: PAIRS.into(), message };
        let clicks = clicks.to_vec1::<u32>()?;
        let rows = pairs.flatten_all()?.to_vec1::<u32>()?;
        let mut before = None;
        for &[item, other, _] in rows.as_chunks().0 {
            if [item, other].iter().any(|&row| clicks.get(row as usize).is_none_or(|&clicks| clicks == 0)) {
                return Err(fail(format!("items {item} and {other} are together without clicks, or not there at all")));
            }
            if before.replace((item, other)) >= Some((item, other)) {
                return Err(fail(format!("items {item} and {other} come out of order")));
            }
        }
        let neighbours = Neighbours::from_sorted(clicks.len(), rows.as_chunks().0.iter().copied());
        Ok(Self { clicks, neighbours })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{UserRow, fixture};

    /// The last two clicks of each are validation and test.
    fn dataset() -> Dataset {
        let users = [&[1, 2, 3, 8, 9][..], &[2, 1, 2, 8, 9], &[4, 1, 8, 9]].map(fixture::User::clicking);
        fixture::dataset(9, 0, users)
    }

    fn over(tables: &StdMap<String, Tensor>, weights: [f32; 2]) -> ClickedTogether {
        let near = Near::new(&tables[PAIRS], &tables[CLICKS]).unwrap();
        ClickedTogether { near: Arc::new(near), weights }
    }

    fn user(recommendations: &[u32]) -> UserFeatures {
        UserFeatures { user: UserRow::Mean, recommendations: recommendations.to_vec(), searches: vec![], as_of: None }
    }

    /// Candidates' logits for a user's clicks, oldest first.
    fn added(together: &ClickedTogether, clicks: &[u32], candidates: &[u32]) -> Vec<f32> {
        let mut logits = vec![0.5; candidates.len()];
        together.of_user(&user(clicks)).add(candidates, &mut logits);
        logits.into_iter().map(|logit| logit - 0.5).collect()
    }

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}, not {expected:?}");
    }

    #[test]
    fn tables_are_of_the_training_part() {
        let tables = ClickedTogether::tables(&dataset()).unwrap();
        assert_eq!(tables[CLICKS].to_vec1::<u32>().unwrap(), [0, 3, 3, 1, 1, 0, 0, 0, 0, 0]);
        let pairs = [[1, 2, 3], [1, 3, 1], [1, 4, 1], [2, 1, 3], [2, 3, 1], [3, 1, 1], [3, 2, 1], [4, 1, 1]];
        assert_eq!(tables[PAIRS].to_vec2::<u32>().unwrap(), pairs);
        let refit = ClickedTogether::tables(&dataset().with_validation_learned(true)).unwrap();
        assert_eq!(refit[CLICKS].to_vec1::<u32>().unwrap()[8], 3, "validation is learned from, too");
    }

    #[test]
    fn each_sum_is_what_it_says() {
        let tables = ClickedTogether::tables(&dataset()).unwrap();
        let (near_3, near_2) = (1.0 / 3_f32.sqrt(), 1.0);
        for (weights, expected) in
            [([1.0, 0.0], [near_3, near_2 / 2.0, 0.0]), ([0.0, 1.0], [near_3, near_2 / 1.5, 0.0])]
        {
            // Clicked 2, then 1; of the candidates 3 is near both, 2 near the newer one.
            close(&added(&over(&tables, weights), &[2, 1], &[3, 2, 9]), &expected.map(|mean| 40.0 * mean));
        }
    }

    #[test]
    fn old_clicks_do_not_count() {
        let together = over(&ClickedTogether::tables(&dataset()).unwrap(), [1.0, 1.0]);
        let mut clicks = [9; 1 + NEWEST];
        clicks[0] = 1;
        assert_eq!(added(&together, &clicks, &[2]), [0.0]);
        assert!(added(&together, &clicks[..NEWEST], &[2])[0] > 0.0);
    }

    #[test]
    fn only_the_nearest_are_kept() {
        // Item 1 with each of 2 to 51, and once more with 51.
        let pairs: Vec<Vec<u32>> = (2..=51).chain([51]).map(|other| vec![1, other, 60, 60]).collect();
        let users: Vec<fixture::User> = pairs.iter().map(|clicks| fixture::User::clicking(clicks)).collect();
        let tables = ClickedTogether::tables(&fixture::dataset(60, 0, users)).unwrap();
        let pairs = tables[PAIRS].to_vec2::<u32>().unwrap();
        let of_1: Vec<&Vec<u32>> = pairs.iter().filter(|pair| pair[0] == 1).collect();
        assert_eq!(of_1.len(), NEIGHBOURS);
        assert_eq!((of_1[0], of_1[NEIGHBOURS - 1]), (&vec![1, 2, 1], &vec![1, 51, 2]));
    }

    #[test]
    fn damaged_tables_are_refused() {
        let tables = ClickedTogether::tables(&dataset()).unwrap();
        let refused = |pairs: &[[u32; 3]]| {
            let pairs = Tensor::from_vec(pairs.concat(), (pairs.len(), 3), &Device::Cpu).unwrap();
            Near::new(&pairs, &tables[CLICKS]).unwrap_err().to_string()
        };
        assert!(refused(&[[1, 99, 1]]).contains("items 1 and 99"));
        assert!(refused(&[[1, 5, 1]]).contains("without clicks"));
        assert!(refused(&[[1, 3, 1], [1, 2, 3]]).contains("out of order"));
        assert!(refused(&[[1, 2, 3], [1, 2, 3]]).contains("out of order"));
    }

    #[test]
    fn logs_without_neighbours_add_nothing() {
        let tables = ClickedTogether::tables(&fixture::dataset(9, 0, [fixture::User::clicking(&[1])])).unwrap();
        assert_eq!(tables[PAIRS].dims(), [0, 3]);
        let together = over(&tables, [1.0, 1.0]);
        assert_eq!(added(&together, &[1], &[2, 1]), [0.0, 0.0]);
        assert_eq!(together.of_user(&user(&[1])).bytes(), 0);
    }
}
