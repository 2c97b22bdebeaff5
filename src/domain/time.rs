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
    pub fn from_nanos(nanos: u64) -> Result<Self, TimeError> {
        if nanos <= i64::MAX as u64 { Ok(Self(nanos)) } else { Err(TimeError) }
    }

    /// From milliseconds since 1970.
    pub fn from_millis(millis: u64) -> Result<Self, TimeError> {
        millis.checked_mul(1_000_000).ok_or(TimeError).and_then(Self::from_nanos)
    }

    /// The system clock's time.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(i64::MAX as u64))
    }

    /// Nanoseconds since 1970.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// This time less `age`, or 1970.
    pub fn saturating_sub(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// When a request's answer is no longer wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        // A caller's "no deadline" may be centuries; an hour is no shorter for an answer that takes milliseconds.
        Self(Instant::now() + timeout.min(Duration::from_secs(3600)))
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
