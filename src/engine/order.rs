//! Scores to an ordered answer.

use std::cmp::Ordering;

use crate::domain::RankedItem;

/// The best `top_k` (0: all) by descending score, ties by request order. Scores are not NaN: callers refuse those.
pub(crate) fn order(scores: &[f32], top_k: usize) -> Vec<RankedItem> {
    let by_rank = |a: &RankedItem, b: &RankedItem| -> Ordering {
        b.score.total_cmp(&a.score).then(a.candidate.cmp(&b.candidate))
    };
    let mut items: Vec<RankedItem> =
        scores.iter().enumerate().map(|(candidate, &score)| RankedItem { candidate, score }).collect();
    if top_k > 0 && top_k < items.len() {
        // Selects in linear time, so that the best 10 of 10,000 don't cost a full sort.
        items.select_nth_unstable_by(top_k - 1, by_rank);
        items.truncate(top_k);
        items.shrink_to_fit();
    }
    items.sort_unstable_by(by_rank);
    items
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ties_keep_the_request_order() {
        let candidates =
            |top_k| order(&[0.5, 0.9, 0.5, 0.1, 0.9], top_k).iter().map(|i| i.candidate).collect::<Vec<_>>();
        assert_eq!(candidates(0), [1, 4, 0, 2, 3]);
        assert_eq!(candidates(3), [1, 4, 0]);
        assert_eq!(candidates(99), [1, 4, 0, 2, 3]);
        assert!(order(&[], 5).is_empty());
    }

    proptest! {
        #[test]
        fn top_k_is_a_prefix_of_all(levels in prop::collection::vec(0u8..8, 1..200), top_k in 1usize..250) {
            let scores: Vec<f32> = levels.iter().map(|&level| f32::from(level) / 8.0).collect();
            let mut expected: Vec<usize> = (0..scores.len()).collect();
            expected.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap());
            expected.truncate(top_k);
            let found: Vec<usize> = order(&scores, top_k).iter().map(|item| item.candidate).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
