//! Ranking by popularity alone: the score without learning that every model has to beat.

use super::{EvaluationError, Rank, UserRank, evaluator::candidates};
use crate::data::{Dataset, EvaluationNegatives, Target};

/// Every target's rank when candidates are ordered by their training clicks.
///
/// # Errors
/// As [`Evaluator::ranks`](super::Evaluator::ranks).
pub fn popularity_ranks(
    dataset: &Dataset,
    targets: &[Target],
    negatives: &EvaluationNegatives,
) -> Result<Vec<UserRank>, EvaluationError> {
    let clicks = dataset.popularity();
    let rank = |&target: &Target| {
        let items = candidates(dataset, target, negatives)?;
        let clicked = clicks[items[0] as usize];
        // Compared as integers: beyond 2^24 clicks floats would make ties that are none.
        let before = items[1..].iter().filter(|&&item| clicks[item as usize] >= clicked).count();
        Ok(UserRank { user: target.user, rank: Rank(before as u32) })
    };
    targets.iter().map(rank).collect()
}
