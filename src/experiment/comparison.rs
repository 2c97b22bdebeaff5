//! Whether one row is better than another by more than chance among the users.

use super::{PairedTest, Row, paired_t_test, wilcoxon_signed_rank};
use crate::eval::Metrics;

/// Below it a difference is marked, as in the paper.
pub(super) const SIGNIFICANT: f64 = 0.01;

/// Two rows compared user by user in one metric. Each user's metric is averaged over a row's seeds first, so that there
/// is one difference per user.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// As in [`Metrics::NAMES`].
    pub metric: &'static str,
    /// The row that is asked about.
    pub row: String,
    /// The row that it is compared with.
    pub other: String,
    /// Mean difference, `row` less `other`.
    pub difference: f64,
    /// Differences there are.
    pub users: usize,
    /// Student's paired t-test; nothing where all differences are equal.
    pub t: Option<PairedTest>,
    /// Wilcoxon's signed-rank test; nothing where all differences are zero.
    pub wilcoxon: Option<PairedTest>,
}

impl Comparison {
    /// Of two rows over the same users.
    pub fn of(row: &Row, other: &Row, metric: usize) -> Self {
        let pairs = row.per_user(metric).into_iter().zip(other.per_user(metric));
        let differences: Vec<f64> = pairs.map(|(a, b)| rounded(a - b)).collect();
        Self {
            metric: Metrics::NAMES[metric],
            row: row.name.clone(),
            other: other.name.clone(),
            difference: differences.iter().sum::<f64>() / differences.len().max(1) as f64,
            users: differences.len(),
            t: paired_t_test(&differences),
            wilcoxon: wilcoxon_signed_rank(&differences),
        }
    }

    /// Whether the row is better with p < 0.01 in the t-test.
    pub fn is_significant(&self) -> bool {
        self.difference > 0.0 && self.t.is_some_and(|test| test.p < SIGNIFICANT)
    }
}

/// Without the last bits, in which equal differences of means differ: 1/3 − 0 and 1 − 2/3. They would be no ties.
fn rounded(difference: f64) -> f64 {
    const STEPS: f64 = (1_u64 << 40) as f64;
    (difference * STEPS).round() / STEPS
}
