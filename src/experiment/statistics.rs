//! Means, deviations, and paired tests.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// The exact distribution of the signed-rank statistic is counted up to this many differences, as SciPy does.
const EXACT: usize = 50;

/// A mean with the sample standard deviation, which takes two values.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// √(Σ (x − mean)² / (n − 1)).
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of some values; 0 without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) }
    }
}

/// A test's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairedTest {
    /// t, or the smaller of the two rank sums.
    pub statistic: f64,
    /// Two-sided.
    pub p: f64,
}

/// Student's t-test on `differences`: whether their mean is 0. Nothing where fewer than two or all equal leave it
/// undefined.
pub fn paired_t_test(differences: &[f64]) -> Option<PairedTest> {
    let Spread { mean, deviation } = Spread::of(differences.iter().copied());
    let error = deviation.filter(|&deviation| deviation > 0.0)? / (differences.len() as f64).sqrt();
    let t = mean / error;
    let distribution = StudentsT::new(0.0, 1.0, differences.len() as f64 - 1.0).ok()?;
    Some(PairedTest { statistic: t, p: (2.0 * distribution.sf(t.abs())).min(1.0) })
}

/// Wilcoxon's signed-rank test on `differences`: whether they are symmetric about 0. Zeros are left out, ties share
/// their mean rank. Exact for up to 50 differences without zeros and ties, else by the normal approximation with the
/// variance corrected for ties and without continuity correction, as `scipy.stats.wilcoxon` does. Nothing if all are
/// zero.
pub fn wilcoxon_signed_rank(differences: &[f64]) -> Option<PairedTest> {
    let mut nonzero: Vec<f64> = differences.iter().copied().filter(|&difference| difference != 0.0).collect();
    nonzero.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let n = nonzero.len() as f64;
    let (mut positive, mut ties, mut rank) = (0.0, 0.0, 0.0);
    for equal in nonzero.chunk_by(|a, b| a.abs() == b.abs()) {
        let count = equal.len() as f64;
        let shared = rank + f64::midpoint(1.0, count);
        positive += shared * equal.iter().filter(|&&difference| difference > 0.0).count() as f64;
        ties += count.powi(3) - count;
        rank += count;
    }
    let total = n * (n + 1.0) / 2.0;
    let statistic = f64::min(positive, total - positive);
    if nonzero.len() == differences.len() && nonzero.len() <= EXACT && ties == 0.0 && n > 0.0 {
        return Some(PairedTest { statistic, p: exact_p(nonzero.len(), statistic as usize) });
    }
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    if variance <= 0.0 {
        return None;
    }
    let z = (statistic - total / 2.0) / variance.sqrt();
    let normal = Normal::new(0.0, 1.0).ok()?;
    Some(PairedTest { statistic, p: (2.0 * normal.cdf(z)).min(1.0) })
}

/// Twice the share of the 2^n sign patterns whose rank sum is at most `statistic`.
fn exact_p(n: usize, statistic: usize) -> f64 {
    let mut patterns = vec![0.0; n * (n + 1) / 2 + 1];
    patterns[0] = 1.0;
    for rank in 1..=n {
        for sum in (rank..patterns.len()).rev() {
            patterns[sum] += patterns[sum - rank];
        }
    }
    let least: f64 = patterns[..=statistic].iter().sum();
    (2.0 * least / 2f64.powi(n as i32)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: f64, expected: f64, within: f64) {
        assert!((found - expected).abs() <= within, "{found} instead of {expected}");
    }

    #[test]
    fn spread_by_hand() {
        // Deviations −2, 0, 2: √(8 / 2).
        assert_eq!(Spread::of([1.0, 3.0, 5.0]), Spread { mean: 3.0, deviation: Some(2.0) });
        assert_eq!(Spread::of([4.0]), Spread { mean: 4.0, deviation: None });
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn t_test_of_students_sleep_data() {
        // Extra hours of sleep by two drugs (Student 1908): t = 4.0621 with 9 degrees of freedom, p = 0.002833, as in
        // R's documentation of t.test.
        let differences = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4];
        let test = paired_t_test(&differences).unwrap();
        assert_close(test.statistic, 4.0621, 5e-5);
        assert_close(test.p, 0.002833, 5e-7);
        let turned: Vec<f64> = differences.iter().map(|difference| -difference).collect();
        assert_close(paired_t_test(&turned).unwrap().p, test.p, 1e-15);
    }

    #[test]
    fn t_test_by_hand() {
        // Mean 2, deviation 2: t = 2 / (2 / √3) = √3; with 2 degrees of freedom P(T > t) = ½ − t / (2 √(2 + t²)).
        let test = paired_t_test(&[0.0, 2.0, 4.0]).unwrap();
        assert_close(test.statistic, 3f64.sqrt(), 1e-12);
        assert_close(test.p, 1.0 - 3f64.sqrt() / 5f64.sqrt(), 1e-12);
        assert_eq!(paired_t_test(&[1.0]), None);
        assert_eq!(paired_t_test(&[0.5, 0.5, 0.5]), None);
        assert_eq!(paired_t_test(&[]), None);
    }

    /// SciPy's documentation of `wilcoxon` (differences in height of cross- and self-fertilised corn plants): statistic
    /// 24, p = 0.041259765625.
    #[test]
    fn signed_rank_of_scipys_example() {
        let corn = [6.0, 8.0, 14.0, 16.0, 23.0, 24.0, 28.0, 29.0, 41.0, -48.0, 49.0, 56.0, 60.0, -67.0, 75.0];
        let test = wilcoxon_signed_rank(&corn).unwrap();
        assert_eq!(test.statistic, 24.0);
        assert_close(test.p, 0.041259765625, 1e-15);
    }

    #[test]
    fn signed_rank_by_hand() {
        // |1| |2| |2| |4|: ranks 1, 2.5, 2.5, 4; the positive sum is 7.5, the negative 2.5. Variance 4·5·9/24 − 6/48.
        let test = wilcoxon_signed_rank(&[0.0, 1.0, 2.0, -2.0, 4.0]).unwrap();
        assert_eq!(test.statistic, 2.5);
        let z = (2.5 - 5.0) / (7.5f64 - 0.125).sqrt();
        assert_close(test.p, 2.0 * Normal::new(0.0, 1.0).unwrap().cdf(z), 1e-12);
        // Three of one sign: 2 of 8 patterns are as extreme.
        assert_close(wilcoxon_signed_rank(&[1.0, 2.0, 3.0]).unwrap().p, 0.25, 1e-15);
        assert_eq!(wilcoxon_signed_rank(&[0.0, 0.0]), None);
        assert_eq!(wilcoxon_signed_rank(&[]), None);
    }

    /// The two ways agree where both may be used.
    #[test]
    fn the_approximation_is_close_to_the_exact_distribution() {
        let differences: Vec<f64> = (1..=50).map(|n: i32| f64::from(if n % 3 == 0 { -n } else { n })).collect();
        let exact = wilcoxon_signed_rank(&differences).unwrap();
        let mut with_zero = differences;
        with_zero.push(0.0);
        let approximate = wilcoxon_signed_rank(&with_zero).unwrap();
        assert_eq!(exact.statistic, approximate.statistic);
        assert_close(exact.p, approximate.p, 0.002);
    }
}
