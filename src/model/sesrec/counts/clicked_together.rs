//! Items that users click shortly after each other.
//!
//! With n(i) clicks of item i in the training part, and n(i, j) times that a user clicked i and j within
//! [`Neighbours::STEPS`] of each other, candidate c has from the user's newest clicks h
//!
//!   40 · the mean of n(h, c) / √(n(h) · n(c)), weighted by γ^(clicks after h)
//!
//! for each γ of [`DECAYS`]. Only each item's [`NEIGHBOURS`] nearest ones count. A click that is learned from doesn't count
//! itself: n(h, c) and n(c) lack it.

use std::{collections::HashMap as StdMap, sync::Arc};

use candle_core::{Device, Result, Tensor};
use hashbrown::HashMap;

use super::{DECAYS, First, by_age, weighted};
use crate::{
    data::{Dataset, Neighbours, UserFeatures},
    model::{ModelError, ParameterList, Weights},
    nn::{Initial, project},
};

/// Newest clicks of a history that count: the neighbours of many would fill the cache of encoded users.
const NEWEST: usize = 20;
/// Neighbours of an item that count.
const NEIGHBOURS: usize = 32;
/// The means are of a size at which weights of about a half make the most of them, as learning doesn't go far.
const SCALE: f32 = 40.0;

/// `[2]`: what the sums weigh.
const WEIGHTS: &str = "clicked_together.weight";
/// `[pairs, 3]`: an item, a neighbour, how often they were clicked together; by item, then by neighbour.
const PAIRS: &str = "clicked_together.pairs";
/// `[items]`: clicks.
const CLICKS: &str = "clicked_together.clicks";

/// Who is near whom, and what the sums weigh.
#[derive(Debug, Clone)]
pub(super) struct ClickedTogether {
    near: Arc<Near>,
    weights: Tensor,
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

/// The newest clicks of a history that is oldest first.
pub(super) fn newest(items: &[u32]) -> Vec<u32> {
    items.iter().rev().take(NEWEST).copied().collect()
}

impl ClickedTogether {
    pub(super) fn parameters(items: usize, list: &mut ParameterList) {
        list.add(WEIGHTS.into(), &[DECAYS.len()], Initial::Constant(0.0));
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
        Ok(Self { near: Arc::new(near), weights: weights.get(WEIGHTS)? })
    }

    /// What candidates `[B · C]` get for the newest clicks of their users, `[B, C]`; nothing for users left out.
    pub(super) fn logits<'a>(
        &self,
        histories: impl ExactSizeIterator<Item = Option<&'a [u32]>>,
        (candidates, first): (&[u32], First),
    ) -> Result<Tensor> {
        const SUMS: usize = DECAYS.len();
        let users = histories.len();
        let per_user = candidates.len().checked_div(users).unwrap_or(0);
        let mut sums = vec![[0.0_f32; SUMS]; candidates.len()];
        let by_user = candidates.chunks(per_user.max(1)).zip(sums.chunks_mut(per_user.max(1)));
        for (newest, (items, sums)) in histories.zip(by_user) {
            let Some(newest) = newest else { continue };
            let mut near: HashMap<u32, [f32; SUMS]> = HashMap::new();
            self.near.each(newest, |item, cosine, counts| {
                let shares = near.entry(item).or_default();
                shares.iter_mut().zip(counts).for_each(|(share, count)| *share += SCALE * cosine * count);
            });
            for (item, sums) in items.iter().zip(&mut *sums) {
                *sums = near.get(item).copied().unwrap_or_default();
            }
            if let (First::Clicked, [clicked, ..], [sums, ..]) = (first, items, sums) {
                *sums = self.near.without_last_click(newest, *clicked).map(|sum| SCALE * sum);
            }
        }
        let sums = Tensor::from_vec(sums.into_flattened(), (users, per_user, SUMS), self.weights.device())?;
        project(&sums, &self.weights.unsqueeze(0)?)?.squeeze(2)
    }

    pub(super) fn on_host(&self) -> Result<HostClickedTogether> {
        let weights = self.weights.to_vec1::<f32>()?;
        let weights = std::array::from_fn(|decay| SCALE * weights[decay]);
        Ok(HostClickedTogether { near: self.near.clone(), weights })
    }
}

/// For scoring.
#[derive(Debug, Clone)]
pub(super) struct HostClickedTogether {
    near: Arc<Near>,
    weights: [f32; DECAYS.len()],
}

impl HostClickedTogether {
    pub(super) fn of_user(&self, user: &UserFeatures) -> ItemLogits {
        let mut items: HashMap<u32, f32> = HashMap::new();
        self.near.each(&newest(&user.recommendations), |item, cosine, counts| {
            *items.entry(item).or_default() += cosine * weighted(counts, &self.weights);
        });
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

    /// Every neighbour of the newest clicks, with its cosine and how much its click counts.
    fn each(&self, newest: &[u32], mut with: impl FnMut(u32, f32, [f32; DECAYS.len()])) {
        for (&item, counts) in newest.iter().zip(by_age(newest.len())) {
            for (other, count) in self.neighbours.of_item(item) {
                with(other, cosine(count, self.clicks[item as usize], self.clicks[other as usize]), counts);
            }
        }
    }

    /// The sums of an item that was clicked right after the newest clicks, as if it had not been. (Where the user later came
    /// back to one of them within the steps, that still counts.)
    fn without_last_click(&self, newest: &[u32], clicked: u32) -> [f32; DECAYS.len()] {
        let mut sums = [0.0; DECAYS.len()];
        for (&item, counts) in newest.iter().zip(by_age(newest.len())) {
            let own = newest.iter().take(Neighbours::STEPS).filter(|&&other| other == item).count() as u32;
            let together = self.neighbours.count(item, clicked).saturating_sub(own);
            let cosine = cosine(together, self.clicks[item as usize], self.clicks[clicked as usize].saturating_sub(1));
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += cosine * count);
        }
        sums
    }
}

/// Of two items' clicks.
fn cosine(together: u32, clicks: u32, others: u32) -> f32 {
    if together == 0 { 0.0 } else { together as f32 / (clicks as f32 * others.max(1) as f32).sqrt() }
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
        ClickedTogether { near: Arc::new(near), weights: Tensor::new(&weights, &Device::Cpu).unwrap() }
    }

    fn user(recommendations: &[u32]) -> UserFeatures {
        UserFeatures { user: UserRow::Mean, recommendations: recommendations.to_vec(), searches: vec![], as_of: None }
    }

    fn logits(together: &ClickedTogether, newest: &[u32], candidates: &[u32], first: First) -> Vec<f32> {
        let logits = together.logits([Some(newest)].into_iter(), (candidates, first)).unwrap();
        logits.flatten_all().unwrap().to_vec1().unwrap()
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
        let refit = ClickedTogether::tables(&dataset().with_validation_learned()).unwrap();
        assert_eq!(refit[CLICKS].to_vec1::<u32>().unwrap()[8], 3, "validation is learned from, too");
    }

    #[test]
    fn each_sum_is_what_it_says() {
        let tables = ClickedTogether::tables(&dataset()).unwrap();
        let (near_3, near_2) = (1.0 / 3_f32.sqrt(), 1.0);
        for (weights, expected) in
            [([1.0, 0.0], [near_3, near_2 / 2.0, 0.0]), ([0.0, 1.0], [near_3, near_2 / 1.5, 0.0])]
        {
            let together = over(&tables, weights);
            // Clicked 2, then 1; of the candidates 3 is near both, 2 near the newer one.
            let expected = expected.map(|mean| 40.0 * mean);
            close(&logits(&together, &[1, 2], &[3, 2, 9], First::Unknown)[..1], &expected[..1]);
            let mut added = [0.5; 3];
            together.on_host().unwrap().of_user(&user(&[2, 1])).add(&[3, 2, 9], &mut added);
            close(&added.map(|logit| logit - 0.5), &logits(&together, &[1, 2], &[3, 2, 9], First::Unknown));
            close(&added[..1], &[expected[0] + 0.5]);
            close(&added[1..], &[expected[1] + 0.5, 0.5]);
        }
    }

    /// What a click is given in training is what the counts of logs without it give.
    #[test]
    fn a_click_that_is_learned_from_does_not_count_itself() {
        let (weights, newest) = ([0.7, 0.4], [1, 2, 1]);
        let users = [&[1, 2, 1, 3, 8, 9][..], &[2, 1, 2, 8, 9], &[3, 1, 8, 9]].map(fixture::User::clicking);
        let with = over(&ClickedTogether::tables(&fixture::dataset(9, 0, users)).unwrap(), weights);
        // The first user's click of 3 after 1, 2 and 1.
        let users = [&[1, 2, 1, 8, 9][..], &[2, 1, 2, 8, 9], &[3, 1, 8, 9]].map(fixture::User::clicking);
        let without = over(&ClickedTogether::tables(&fixture::dataset(9, 0, users)).unwrap(), weights);
        let found = logits(&with, &newest, &[3, 2], First::Clicked);
        close(&found[..1], &logits(&without, &newest, &[3], First::Unknown));
        assert!(found[0] > 0.0, "the third user clicked it, too");
        close(&found[1..], &logits(&with, &newest, &[2], First::Unknown));
    }

    #[test]
    fn users_who_are_left_out_get_nothing() {
        let together = over(&ClickedTogether::tables(&dataset()).unwrap(), [1.0, 1.0]);
        let users = [None, Some(&[1][..])].into_iter();
        let logits = together.logits(users, (&[2, 3, 2, 3], First::Clicked)).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(logits[0], [0.0, 0.0]);
        assert!(logits[1].iter().all(|&logit| logit > 0.0));
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
        assert_eq!(logits(&together, &[1], &[2, 1], First::Unknown), [0.0, 0.0]);
        let items = together.on_host().unwrap().of_user(&user(&[1]));
        assert_eq!(items.bytes(), 0);
    }
}
