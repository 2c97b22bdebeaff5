//! The six metrics, from the rank of the clicked item among its negatives.

use serde::{Deserialize, Serialize};

use super::UserRank;

/// How many of the negatives were ranked before the clicked item: 0 is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub u32);

/// A score that can't be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the score of candidate {0} is NaN")]
pub struct RankError(pub usize);

impl Rank {
    /// The rank of the first of `scores` among the others. Ties count against it: a model that gives every candidate
    /// the same score knows nothing, and must not look good for it.
    ///
    /// # Errors
    /// If a score is NaN.
    pub fn of_first(scores: &[f32]) -> Result<Self, RankError> {
        if let Some(candidate) = scores.iter().position(|score| score.is_nan()) {
            return Err(RankError(candidate));
        }
        let [clicked, negatives @ ..] = scores else { return Ok(Self(0)) };
        Ok(Self(negatives.iter().filter(|&score| score >= clicked).count() as u32))
    }

    /// 1 among the first `cutoff`, else 0.
    pub fn hit(self, cutoff: u32) -> f64 {
        f64::from(u8::from(self.0 < cutoff))
    }

    /// Normalised discounted cumulative gain: with one relevant item, 1 / log2(2 + rank) among the first `cutoff`, else
    /// 0.
    pub fn ndcg(self, cutoff: u32) -> f64 {
        if self.0 < cutoff { 1.0 / (f64::from(self.0) + 2.0).log2() } else { 0.0 }
    }

    /// 1 / (1 + rank), whatever the rank.
    pub fn reciprocal(self) -> f64 {
        1.0 / (f64::from(self.0) + 1.0)
    }
}

/// Means over users.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Metrics {
    /// NDCG@5.
    #[serde(rename = "ndcg@5")]
    pub ndcg_at_5: f64,
    /// NDCG@10.
    #[serde(rename = "ndcg@10")]
    pub ndcg_at_10: f64,
    /// HIT@1.
    #[serde(rename = "hit@1")]
    pub hit_at_1: f64,
    /// HIT@5.
    #[serde(rename = "hit@5")]
    pub hit_at_5: f64,
    /// HIT@10.
    #[serde(rename = "hit@10")]
    pub hit_at_10: f64,
    /// Mean reciprocal rank.
    pub mrr: f64,
    /// How many users that is.
    pub users: u64,
}

impl Metrics {
    /// Names, in the order of [`Self::values`].
    pub const NAMES: [&str; 6] = ["NDCG@5", "NDCG@10", "HIT@1", "HIT@5", "HIT@10", "MRR"];

    /// Means over `ranks`, one per user; all 0 without any.
    pub fn of(ranks: impl IntoIterator<Item = Rank>) -> Self {
        let mut sum = Self::default();
        for rank in ranks {
            sum.ndcg_at_5 += rank.ndcg(5);
            sum.ndcg_at_10 += rank.ndcg(10);
            sum.hit_at_1 += rank.hit(1);
            sum.hit_at_5 += rank.hit(5);
            sum.hit_at_10 += rank.hit(10);
            sum.mrr += rank.reciprocal();
            sum.users += 1;
        }
        let users = sum.users.max(1) as f64;
        Self {
            ndcg_at_5: sum.ndcg_at_5 / users,
            ndcg_at_10: sum.ndcg_at_10 / users,
            hit_at_1: sum.hit_at_1 / users,
            hit_at_5: sum.hit_at_5 / users,
            hit_at_10: sum.hit_at_10 / users,
            mrr: sum.mrr / users,
            users: sum.users,
        }
    }

    /// Means over users with their ranks.
    pub fn of_users(users: &[UserRank]) -> Self {
        Self::of(users.iter().map(|user| user.rank))
    }

    /// The six, in the order of [`Self::NAMES`].
    pub fn values(&self) -> [f64; 6] {
        [self.ndcg_at_5, self.ndcg_at_10, self.hit_at_1, self.hit_at_5, self.hit_at_10, self.mrr]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_against_the_clicked_item() {
        assert_eq!(Rank::of_first(&[0.5, 0.4, 0.6]), Ok(Rank(1)));
        assert_eq!(Rank::of_first(&[0.5; 100]), Ok(Rank(99)));
        assert_eq!(Rank::of_first(&[0.9, 0.1, 0.2]), Ok(Rank(0)));
    }

    #[test]
    fn nan_is_an_error_wherever_it_stands() {
        assert_eq!(Rank::of_first(&[f32::NAN, 0.4]), Err(RankError(0)));
        assert_eq!(Rank::of_first(&[0.5, 0.4, f32::NAN]), Err(RankError(2)));
        assert_eq!(Rank::of_first(&[f32::INFINITY, 0.4, f32::NEG_INFINITY]), Ok(Rank(0)));
    }

    #[test]
    fn metrics_by_hand() {
        let metrics = Metrics::of([Rank(0), Rank(4), Rank(5), Rank(10)]);
        let expected = [
            (1.0 + 1.0 / 6f64.log2()) / 4.0,
            (1.0 + 1.0 / 6f64.log2() + 1.0 / 7f64.log2()) / 4.0,
            0.25,
            0.5,
            0.75,
            (1.0 + 1.0 / 5.0 + 1.0 / 6.0 + 1.0 / 11.0) / 4.0,
        ];
        for (name, (found, expected)) in Metrics::NAMES.iter().zip(metrics.values().iter().zip(expected)) {
            assert!((found - expected).abs() < 1e-12, "{name}: {found} instead of {expected}");
        }
        assert_eq!(metrics.users, 4);
        assert_eq!(Metrics::of([]), Metrics::default());
    }
}
