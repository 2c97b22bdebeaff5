//! Points in time: of events (wall clock, from the logs) and of requests (monotonic, from the caller's deadline).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// When an event happened: nanoseconds since 1970-01-01 UTC, up to the year 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EventTime(u64);

/// Why a time can't be an event's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must lie between 1970-01-01 and 2262-04-11")]
pub struct TimeError;

impl EventTime {
    /// From nanoseconds since 1970.
    ///
    /// # Errors
    /// If it lies after 2262-04-11.
    pub fn from_nanos(nanos: u64) -> Result<Self, TimeError> {
        if nanos <= i64::MAX as u64 { Ok(Self(nanos)) } else { Err(TimeError) }
    }

    /// From milliseconds since 1970.
    ///
    /// # Errors
    /// As [`Self::from_nanos`].
    pub fn from_millis(millis: u64) -> Result<Self, TimeError> {
        millis.checked_mul(1_000_000).ok_or(TimeError).and_then(Self::from_nanos)
    }

    /// The system clock's time.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Nanoseconds since 1970.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// This time plus `lead`, or the last time there is.
    pub fn saturating_add(self, lead: Duration) -> Self {
        let nanos = self.0.saturating_add(u64::try_from(lead.as_nanos()).unwrap_or(u64::MAX));
        Self(nanos.min(i64::MAX as u64))
    }

    /// This time less `age`, or 1970.
    pub fn saturating_sub(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A wall clock's time; 1970 or the last time there is where it lies before or after.
impl From<SystemTime> for EventTime {
    fn from(time: SystemTime) -> Self {
        Self::default().saturating_add(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

/// When a request's answer is no longer wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        // A caller's "no deadline" may be centuries, which neither instants nor timers hold; no stream lasts a year.
        Self(Instant::now() + timeout.min(Duration::from_secs(365 * 24 * 3600)))
    }

    /// The instant itself, for timers.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn is_past(self) -> bool {
        self.remaining().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn long_deadlines_are_kept() {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        assert_eq!(Deadline::after(hours(30)).remaining(), hours(30));
        assert!(Deadline::after(Duration::MAX).remaining() >= hours(24 * 300));
    }

    #[test]
    fn event_times_have_an_end() {
        let last = EventTime::from_nanos(i64::MAX as u64).expect("the last one");
        assert_eq!(EventTime::now().saturating_add(Duration::MAX), last);
    }
}
