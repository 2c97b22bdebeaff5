//! Durations of repeated calls.

use std::time::{Duration, Instant};

/// Calls until the budget is spent, at least `least` and at most 1,000 times, after three that don't count; sorted.
pub fn repeated(
    least: usize,
    budget: Duration,
    mut call: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Duration>> {
    (0..3).try_for_each(|_| call())?;
    let (mut times, begun) = (vec![], Instant::now());
    while times.len() < least || (begun.elapsed() < budget && times.len() < 1000) {
        let started = Instant::now();
        call()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times)
}

/// Of sorted durations, in seconds.
pub fn quantile(sorted: &[Duration], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize].as_secs_f64()
}

/// Of sorted durations, in seconds.
pub fn median(sorted: &[Duration]) -> f64 {
    quantile(sorted, 0.5)
}
