//! What happens again and again is told now and then.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two lines of a kind.
const EVERY: Duration = Duration::from_secs(1);
/// Without any of a kind.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Lets a line of one kind through at once, then one a second at most: an outage fails thousands of requests a second,
/// and a line for each would bury what caused it.
#[derive(Debug)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When there was a line last.
    told: Option<Instant>,
    /// How often it has happened since, without one.
    untold: u64,
}

impl Throttle {
    /// Nothing has happened yet.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { told: None, untold: 0 }))
    }

    /// It has happened. `None`: not to be told now; else how often it has happened untold since the last line.
    pub(crate) fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.told.is_some_and(|told| now.saturating_duration_since(told) < EVERY) {
            state.untold += 1;
            return None;
        }
        // Of an outage that was over long ago, nothing more is told.
        if state.told.is_none_or(|told| now.saturating_duration_since(told) > FORGOTTEN_AFTER) {
            state.untold = 0;
        }
        state.told = Some(now);
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_then_one_a_second_with_a_count() {
        let (throttle, start) = (Throttle::new(), Instant::now());
        let pass = |milliseconds| throttle.pass(start + Duration::from_millis(milliseconds));
        assert_eq!(pass(0), Some(0));
        for milliseconds in 0..999 {
            assert_eq!(pass(milliseconds), None, "{milliseconds}");
        }
        assert_eq!(pass(1000), Some(999));
        assert_eq!(pass(1500), None);
        assert_eq!(pass(60_000), Some(1), "what was untold is told with the next line");
        assert_eq!(pass(61_000), Some(0));
        assert_eq!(pass(61_500), None);
        assert_eq!(pass(200_000), Some(0), "another outage is not told of the last one");
    }
}
