//! A model's scores to an ordered answer.

use crate::{domain::RankedItem, nn::sigmoid};

/// The best `top_k` (0: all) by descending logit, ties by request order, each with its σ(logit). Logits are not NaN:
/// callers refuse those.
pub(crate) fn order(logits: &[f32], top_k: usize) -> Vec<RankedItem> {
    // One number that rises along the order: comparing two is one instruction, and there is nothing to predict wrongly.
    let mut keys: Vec<u64> = (0..).zip(logits).map(|(candidate, logit)| descending(*logit) | candidate).collect();
    if top_k > 0 && top_k < keys.len() {
        // Selects in linear time, so that the best 10 of 10,000 don't cost a full sort.
        keys.select_nth_unstable(top_k - 1);
        keys.truncate(top_k);
    }
    keys.sort_unstable();
    let candidates: Vec<usize> = keys.into_iter().map(|key| (key & u64::from(u32::MAX)) as usize).collect();
    let mut scores: Vec<f32> = candidates.iter().map(|&candidate| logits[candidate]).collect();
    sigmoid(&mut scores);
    candidates.into_iter().zip(scores).map(|(candidate, score)| RankedItem { candidate, score }).collect()
}

/// In the upper half, so that larger scores come first, in the order of [`f32::total_cmp`].
fn descending(logit: f32) -> u64 {
    let bits = logit.to_bits();
    let ascending = if logit.is_sign_negative() { !bits } else { bits | 1 << 31 };
    u64::from(!ascending) << 32
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
        let scores = [-0.0, f32::INFINITY, -1.5, 0.0, f32::NEG_INFINITY, -2.5, 1e-40];
        assert_eq!(order(&scores, 0).iter().map(|i| i.candidate).collect::<Vec<_>>(), [1, 6, 3, 0, 2, 5, 4]);
    }

    #[test]
    fn what_is_told_apart_stays_so_where_probabilities_round_to_one() {
        let items = order(&[30.0, 90.0, 30.5, -200.0], 0);
        assert_eq!(items.iter().map(|item| item.candidate).collect::<Vec<_>>(), [1, 2, 0, 3]);
        assert_eq!(items.iter().map(|item| item.score).collect::<Vec<_>>()[..3], [1.0; 3]);
        assert!(items[3].score < 1e-30);
        assert_eq!(order(&[0.0], 0)[0].score, 0.5);
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
