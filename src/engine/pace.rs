//! How fast the device works through candidates: what a refused caller is told to wait.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How much of the past each batch keeps: the last ten or so batches count.
const MEMORY: f64 = 0.9;

/// Device time per candidate, encoding included, averaged over recent batches by their candidates.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    seconds: f64,
    candidates: f64,
}

impl Pace {
    /// A batch was done.
    pub(super) fn record(&self, time: Duration, candidates: usize) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.seconds = recent.seconds * MEMORY + time.as_secs_f64();
        recent.candidates = recent.candidates * MEMORY + candidates as f64;
    }

    /// How long `candidates` take; 10 ms before anything is known, and never outside 1 ms to 10 s.
    pub(super) fn estimate(&self, candidates: usize) -> Duration {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds =
            if recent.candidates < 1.0 { 0.01 } else { recent.seconds / recent.candidates * candidates as f64 };
        Duration::from_secs_f64(seconds.clamp(0.001, 10.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_device() {
        let pace = Pace::default();
        assert_eq!(pace.estimate(1_000_000), Duration::from_millis(10));
        for _ in 0..100 {
            pace.record(Duration::from_millis(2), 1000);
        }
        assert!(pace.estimate(50_000).abs_diff(Duration::from_millis(100)) < Duration::from_millis(1));
        for _ in 0..100 {
            pace.record(Duration::from_millis(4), 1000);
        }
        assert!(pace.estimate(50_000).abs_diff(Duration::from_millis(200)) < Duration::from_millis(1));
        assert_eq!(pace.estimate(usize::MAX), Duration::from_secs(10));
    }
}
