//! When to learn more slowly, and when to stop.

use serde::{Deserialize, Serialize};

/// Lowers the step size when a metric stops growing: `torch.optim.lr_scheduler.ReduceLROnPlateau` with `mode="max"`,
/// `threshold_mode="rel"`, no cooldown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReduceOnPlateau {
    factor: f64,
    patience: usize,
    threshold: f64,
    floor: f64,
    best: Option<f64>,
    bad_epochs: usize,
}

impl ReduceOnPlateau {
    /// After more than `patience` epochs without a value above best × (1 + `threshold`), the rate is multiplied by
    /// `factor`, down to `floor`.
    pub fn new(factor: f64, patience: usize, threshold: f64, floor: f64) -> Self {
        Self { factor, patience, threshold, floor, best: None, bad_epochs: 0 }
    }

    /// The rate to go on with after an epoch that reached `value` at `rate`.
    pub fn next_rate(&mut self, value: f64, rate: f64) -> f64 {
        if self.best.is_none_or(|best| value > best * (1.0 + self.threshold)) {
            self.best = Some(value);
            self.bad_epochs = 0;
        } else {
            self.bad_epochs += 1;
        }
        if self.bad_epochs <= self.patience {
            return rate;
        }
        self.bad_epochs = 0;
        let lower = (rate * self.factor).max(self.floor);
        // PyTorch's `eps`: a smaller change is not made.
        if rate - lower > 1e-8 { lower } else { rate }
    }

    /// Whether a rate can't fall any further.
    pub fn at_floor(&self, rate: f64) -> bool {
        rate - self.floor <= 1e-8
    }
}

/// The step size of a step, from 0, of `steps` in all: a linear rise over the first fiftieth, then half a cosine from
/// `peak` down to `floor` (Loshchilov & Hutter, arXiv 1608.03983, without restarts).
pub fn cosine(step: u64, steps: u64, peak: f64, floor: f64) -> f64 {
    let rise = (steps / 50).max(1);
    let done = step as f64 / steps.max(1) as f64;
    let rate = floor + (peak - floor) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
    rate * ((step + 1) as f64 / rise as f64).min(1.0)
}

/// Ends training when a metric has stopped growing at the lowest rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStop {
    patience: usize,
    best: Option<f64>,
    bad_epochs: usize,
}

impl EarlyStop {
    /// Stops with the `patience`-th epoch at the floor in a row that is no better than the best so far.
    pub fn new(patience: usize) -> Self {
        Self { patience, best: None, bad_epochs: 0 }
    }

    /// Takes note of an epoch; its rate was `at_floor` or above. A better value starts the count anew.
    pub fn observe(&mut self, value: f64, at_floor: impl FnOnce() -> bool) {
        if self.best.is_none_or(|best| value > best) {
            self.best = Some(value);
            self.bad_epochs = 0;
        } else if at_floor() {
            self.bad_epochs += 1;
        }
    }

    /// Whether to stop now.
    pub fn is_due(&self) -> bool {
        self.bad_epochs >= self.patience.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates worked out by hand from the rules of PyTorch's scheduler (factor 0.1, patience 1, floor 1e-5), not by
    /// running it.
    #[test]
    fn follows_the_rules_of_pytorchs_scheduler() {
        let mut plateau = ReduceOnPlateau::new(0.1, 1, 1e-4, 1e-5);
        let values = [0.1, 0.2, 0.2, 0.2, 0.20001, 0.2, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1];
        let expected = [1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5];
        let mut rate = 1e-3;
        for (n, (value, expected)) in values.into_iter().zip(expected).enumerate() {
            rate = plateau.next_rate(value, rate);
            assert!((rate - expected).abs() < 1e-12, "epoch {n}: {rate} instead of {expected}");
        }
        assert!(plateau.at_floor(rate) && !plateau.at_floor(1e-4));
    }

    #[test]
    fn the_cosine_rises_and_falls() {
        let rates: Vec<f64> = (0..1000).map(|step| cosine(step, 1000, 1e-3, 1e-5)).collect();
        assert!((rates[0] - 1e-3 / 20.0).abs() < 1e-9, "{}", rates[0]);
        assert!((rates[500] - (1e-3 + 1e-5) / 2.0).abs() < 1e-9, "{}", rates[500]);
        assert!((1e-5..1.1e-5).contains(&rates[999]));
        assert!(rates[..20].is_sorted() && rates[20..].iter().rev().is_sorted());
    }

    #[test]
    fn early_stop_counts_only_at_the_floor() {
        let mut stop = EarlyStop::new(2);
        stop.observe(0.5, || false);
        (0..10).for_each(|_| stop.observe(0.4, || false));
        assert!(!stop.is_due());
        stop.observe(0.4, || true);
        stop.observe(0.6, || true);
        stop.observe(0.6, || true);
        assert!(!stop.is_due(), "the better epoch started the count anew");
        stop.observe(0.5, || true);
        assert!(stop.is_due());
    }
}
