//! Measures that the figures are made of.

use std::hash::Hash;

use hashbrown::HashMap;

use crate::plot::BoxSummary;

/// The Jensen–Shannon divergence of two distributions given as counts, in bits: 0 where they are the same, 1 where they
/// have nothing in common. `None` if one of them has no counts.
pub fn jensen_shannon<K: Hash + Eq>(a: &HashMap<K, f64>, b: &HashMap<K, f64>) -> Option<f64> {
    let total = |counts: &HashMap<K, f64>| counts.values().sum::<f64>();
    let (total_a, total_b) = (total(a), total(b));
    if !(total_a > 0.0 && total_b > 0.0) {
        return None;
    }
    // The entropy of the mixture less the mean entropy, term by term.
    let term = |p: f64, q: f64| if p > 0.0 { 0.5 * p * (2.0 * p / (p + q)).log2() } else { 0.0 };
    let share = |counts: &HashMap<K, f64>, total: f64, key: &K| counts.get(key).map_or(0.0, |count| count / total);
    let from_a = a.iter().map(|(key, count)| term(count / total_a, share(b, total_b, key)));
    let from_b = b.iter().map(|(key, count)| term(count / total_b, share(a, total_a, key)));
    // In an order of their own: that of a hash map is another one in every process, and the sum with it, by a rounding.
    let mut terms: Vec<f64> = from_a.chain(from_b).collect();
    terms.sort_unstable_by(f64::total_cmp);
    Some(terms.into_iter().sum::<f64>().clamp(0.0, 1.0))
}

/// The area under the ROC curve: the probability that a positive scores higher than a negative, ties counting half.
/// `None` without positives or without negatives.
pub fn roc_auc(scored: impl IntoIterator<Item = (f64, bool)>) -> Option<f64> {
    let mut scored: Vec<(f64, bool)> = scored.into_iter().collect();
    scored.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    // Mann and Whitney's U: of each positive, the negatives below it, and half of those beside it.
    let (mut below, mut wins, mut positives) = (0.0, 0.0, 0.0);
    for tied in scored.chunk_by(|(a, _), (b, _)| a == b) {
        let positive = tied.iter().filter(|(_, positive)| *positive).count() as f64;
        let negative = tied.len() as f64 - positive;
        wins += positive * (below + negative / 2.0);
        below += negative;
        positives += positive;
    }
    (positives > 0.0 && below > 0.0).then(|| wins / (positives * below))
}

/// The value that a share `q` of ascending values lies below, between two values by their distance.
///
/// # Panics
/// Without any value.
pub fn quantile(ascending: &[f64], q: f64) -> f64 {
    let place = q.clamp(0.0, 1.0) * (ascending.len() - 1) as f64;
    let (low, high) = (ascending[place.floor() as usize], ascending[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// What a box plot shows of values: the quartiles, and whiskers to the last values within one and a half times the
/// distance of the quartiles (Tukey). `None` without values.
pub fn box_summary(mut values: Vec<f64>) -> Option<BoxSummary> {
    if values.is_empty() {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let [lower_quartile, median, upper_quartile] = [0.25, 0.5, 0.75].map(|q| quantile(&values, q));
    let reach = 1.5 * (upper_quartile - lower_quartile);
    let first = values.iter().copied().find(|&value| value >= lower_quartile - reach);
    let last = values.iter().copied().rfind(|&value| value <= upper_quartile + reach);
    // Quartiles lie between values: without a value out there, the whisker has no length.
    let low = first.unwrap_or(lower_quartile).min(lower_quartile);
    let high = last.unwrap_or(upper_quartile).max(upper_quartile);
    Some(BoxSummary { low, lower_quartile, median, upper_quartile, high })
}

/// The mean; 0 without values.
pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    sum / count.max(1) as f64
}
