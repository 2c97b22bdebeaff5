//! The three parts of the score for every candidate.

use rayon::prelude::*;

use super::{HandmadeWeights, terms::Terms};
use crate::{
    data::{Dataset, EvaluationNegatives, Neighbours, Target},
    eval::{EvaluationError, Metrics, Rank, UserRank, evaluator::candidates},
};

/// Newest events of each side that are looked at.
const NEWEST: usize = 50;
/// Validation users that weights are picked on, at most, evenly over all: more would not change them.
const PICKED_ON: usize = 10_000;
/// Users that share a profile's memory.
const CHUNK: usize = 256;

/// A data set's counts.
#[derive(Debug)]
pub struct HandmadeScore<'a> {
    dataset: &'a Dataset,
    negatives: &'a EvaluationNegatives,
    log_clicks: Vec<f32>,
    terms: Terms,
    neighbours: Neighbours,
}

/// What a candidate has, before it is weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Parts {
    pub log_clicks: f32,
    pub overlap: f32,
    pub together: f32,
}

/// One user's candidates, the clicked one first.
pub(super) type Scored = Vec<Parts>;

impl<'a> HandmadeScore<'a> {
    /// Counts the training part.
    pub fn new(dataset: &'a Dataset, negatives: &'a EvaluationNegatives) -> Self {
        Self {
            dataset,
            negatives,
            log_clicks: dataset.popularity().into_iter().map(|clicks| (clicks as f32).ln_1p()).collect(),
            terms: Terms::of(dataset),
            neighbours: Neighbours::of(dataset),
        }
    }

    /// The weights with the highest `selection` on these targets, which are validation's.
    ///
    /// # Errors
    /// If there is no target, or a user has no negatives.
    pub fn pick_weights(
        &self,
        targets: &[Target],
        selection: impl Fn(&Metrics) -> f64,
    ) -> Result<HandmadeWeights, EvaluationError> {
        let step = targets.len().div_ceil(PICKED_ON).max(1);
        let targets: Vec<Target> = targets.iter().copied().step_by(step).collect();
        HandmadeWeights::pick(|decay| self.parts(&targets, decay), selection)
    }

    /// Every target's rank, in the targets' order.
    ///
    /// # Errors
    /// As [`Evaluator::ranks`](crate::eval::Evaluator::ranks).
    pub fn ranks(&self, weights: HandmadeWeights, targets: &[Target]) -> Result<Vec<UserRank>, EvaluationError> {
        let parts = self.parts(targets, weights.decay)?;
        let ranks = targets.iter().zip(&parts);
        Ok(ranks.map(|(target, parts)| UserRank { user: target.user, rank: weights.rank(parts) }).collect())
    }

    fn parts(&self, targets: &[Target], decay: f32) -> Result<Vec<Scored>, EvaluationError> {
        if targets.is_empty() {
            return Err(EvaluationError::NoTargets);
        }
        let chunk = |targets: &[Target]| {
            let mut profile = Profile::new(self.terms.count());
            let of_target = |&target: &Target| {
                let items = candidates(self.dataset, target, self.negatives)?;
                Ok(self.parts_of(target, &items, decay, &mut profile))
            };
            targets.iter().map(of_target).collect::<Result<Vec<_>, EvaluationError>>()
        };
        let parts: Vec<Vec<Scored>> = targets.par_chunks(CHUNK).map(chunk).collect::<Result<_, _>>()?;
        Ok(parts.concat())
    }

    fn parts_of(&self, target: Target, items: &[u32], decay: f32, profile: &mut Profile) -> Scored {
        let clicked = &self.dataset.recommendations(target.user)[..target.position as usize];
        let newest: Vec<(u32, f32)> = clicked.iter().rev().copied().zip(powers(decay)).take(NEWEST).collect();
        profile.clear();
        for &(item, share) in &newest {
            self.terms.of_item(item).iter().for_each(|&term| profile.add(term, share));
        }
        let searches = self.dataset.searches(target.user);
        let visible = &searches[..self.dataset.searches_before(target)];
        for (search, share) in visible.iter().rev().zip(powers(decay)).take(NEWEST) {
            search.words.iter().for_each(|&word| profile.add(word, share));
        }
        let parts = |&item: &u32| {
            let terms = self.terms.of_item(item).iter();
            let together = newest.iter().map(|&(other, share)| share * self.neighbours.count(other, item) as f32);
            Parts {
                log_clicks: self.log_clicks[item as usize],
                overlap: terms.map(|&term| profile.shares[term as usize] * self.terms.weight(term)).sum(),
                together: together.sum(),
            }
        };
        items.iter().map(parts).collect()
    }
}

/// 1, γ, γ², ...
fn powers(decay: f32) -> impl Iterator<Item = f32> {
    std::iter::successors(Some(1.0), move |power| Some(power * decay))
}

/// How much a user has to do with each term; memory that is used user after user.
struct Profile {
    shares: Vec<f32>,
    touched: Vec<u32>,
}

impl Profile {
    fn new(terms: usize) -> Self {
        Self { shares: vec![0.0; terms], touched: vec![] }
    }

    fn add(&mut self, term: u32, share: f32) {
        self.shares[term as usize] += share;
        self.touched.push(term);
    }

    fn clear(&mut self) {
        self.touched.drain(..).for_each(|term| self.shares[term as usize] = 0.0);
    }
}

impl HandmadeWeights {
    /// Of the first among the others; ties count against it.
    pub(super) fn rank(self, parts: &[Parts]) -> Rank {
        let score =
            |parts: &Parts| parts.log_clicks + self.overlap * parts.overlap + self.co_occurrence * parts.together;
        let Some((clicked, negatives)) = parts.split_first() else { return Rank(0) };
        let clicked = score(clicked);
        Rank(negatives.iter().filter(|negative| score(negative) >= clicked).count() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Split, fixture};

    #[test]
    fn parts_by_hand() {
        let mut user = fixture::User::clicking(&[1, 2, 3, 4]);
        user.searches = vec![(5, 1, vec![2]), (25, 2, vec![4]), (35, 1, vec![1])];
        let others = [&[1, 3, 5, 6][..], &[2, 3, 6, 5]].map(fixture::User::clicking);
        let dataset = fixture::dataset(6, 2, std::iter::once(user).chain(others));
        let negatives = EvaluationNegatives::sampled(2, 1);
        let score = HandmadeScore::new(&dataset, &negatives);
        let target = Target { user: 0, position: 2 };
        let mut profile = Profile::new(score.terms.count());
        let parts = score.parts_of(target, &[3, 2, 4], 0.5, &mut profile);
        // Clicked before: 2, then 1; searched before time 30: words 2, then 1. Item 2 has word 1, item 4 word 2.
        let idf = 6f32.ln().powi(2);
        let expected = [
            Parts { log_clicks: 2f32.ln_1p(), overlap: 0.0, together: 1.0 + 0.5 },
            Parts { log_clicks: 2f32.ln_1p(), overlap: idf * (1.0 + 0.5), together: 0.5 },
            Parts { log_clicks: 0.0, overlap: idf, together: 0.0 },
        ];
        assert_eq!(parts.len(), expected.len());
        for (found, expected) in parts.iter().zip(expected) {
            let close = |a: f32, b: f32| (a - b).abs() < 1e-5;
            assert!(
                close(found.log_clicks, expected.log_clicks)
                    && close(found.overlap, expected.overlap)
                    && close(found.together, expected.together),
                "{found:?} instead of {expected:?}"
            );
        }
        // The memory is clean for the next user.
        let nobody = score.parts_of(Target { user: 1, position: 0 }, &[2, 4], 0.5, &mut profile);
        assert!(nobody.iter().all(|parts| parts.overlap == 0.0 && parts.together == 0.0));
    }

    #[test]
    fn picks_what_validation_rewards() {
        // Each click is followed by its neighbour, whatever is popular.
        let users = (0..40u32).map(|user| {
            let first = 1 + 3 * (user % 10);
            fixture::User::clicking(&[31 + user % 5, first, first + 1, first + 2, first, first + 1])
        });
        let dataset = fixture::dataset(60, 1, users);
        let negatives = EvaluationNegatives::sampled(30, 1);
        let score = HandmadeScore::new(&dataset, &negatives);
        let (validation, test) = (dataset.targets(Split::Validation), dataset.targets(Split::Test));
        let weights = score.pick_weights(&validation, |metrics| metrics.mrr).unwrap();
        assert!(weights.co_occurrence > 0.0, "{weights:?}");
        let metrics = |weights| Metrics::of_users(&score.ranks(weights, &test).unwrap());
        let popularity = HandmadeWeights { decay: 1.0, overlap: 0.0, co_occurrence: 0.0 };
        assert!(metrics(weights).mrr > 0.6 && metrics(weights).mrr > metrics(popularity).mrr + 0.1);
        assert!(score.pick_weights(&[], |metrics| metrics.mrr).is_err());
    }
}
