//! How many Ranks are under way: decided at once, never after waiting.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Device;

use super::{EngineError, EngineOptions};
use crate::telemetry::{Metrics, Rejection};

/// Counts what has been admitted and not answered yet. A clone shares the counts.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    max_requests: usize,
    max_candidates: usize,
    admitted: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    // A mutex and not two atomics: both counts are decided together, and it is held for nanoseconds.
    now: Mutex<Admitted>,
    metrics: Metrics,
}

/// What is admitted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Admitted {
    pub(super) requests: usize,
    pub(super) candidates: usize,
}

/// One admitted request. Dropping it makes room.
#[derive(Debug)]
pub(super) struct Permit {
    candidates: usize,
    admitted: Arc<Counts>,
}

impl Admission {
    pub(super) fn new(options: &EngineOptions, device: &Device, metrics: Metrics) -> Self {
        Self {
            max_requests: options.max_queued_requests.max(1),
            max_candidates: options.candidates_on(device),
            admitted: Arc::new(Counts { now: Mutex::default(), metrics }),
        }
    }

    /// Admits a request with so many candidates, or refuses it. A request that is larger than the limit by itself is
    /// admitted when nothing else waits: refusing it would be for ever.
    pub(super) fn admit(&self, candidates: usize) -> Result<Permit, EngineError> {
        let mut admitted = self.admitted.lock();
        let refused = if admitted.requests >= self.max_requests {
            Some((Rejection::QueuedRequests, "too many Ranks are under way"))
        } else if admitted.requests > 0 && admitted.candidates + candidates > self.max_candidates {
            Some((Rejection::QueuedCandidates, "too many candidates are under way"))
        } else {
            None
        };
        if let Some((reason, message)) = refused {
            drop(admitted);
            self.admitted.metrics.rejected(reason);
            return Err(EngineError::Overloaded(message));
        }
        admitted.requests += 1;
        admitted.candidates += candidates;
        self.admitted.report(&admitted);
        Ok(Permit { candidates, admitted: self.admitted.clone() })
    }

    /// What is admitted now.
    pub(super) fn admitted(&self) -> Admitted {
        *self.admitted.lock()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut admitted = self.admitted.lock();
        admitted.requests -= 1;
        admitted.candidates -= self.candidates;
        self.admitted.report(&admitted);
    }
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Admitted> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock, so that the gauges show what came last.
    fn report(&self, now: &Admitted) {
        self.metrics.admitted(now.requests, now.candidates);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max_queued_requests: usize, max_queued_candidates: usize) -> Admission {
        let max_queued_candidates = Some(max_queued_candidates);
        let options = EngineOptions { max_queued_requests, max_queued_candidates, ..EngineOptions::default() };
        Admission::new(&options, &Device::Cpu, Metrics::new())
    }

    #[test]
    fn limits_requests_and_candidates() {
        let admission = admission(2, 100);
        let first = admission.admit(60).unwrap();
        assert!(admission.admit(41).is_err());
        let second = admission.admit(40).unwrap();
        assert!(admission.admit(0).is_err());
        drop(first);
        let third = admission.admit(60).unwrap();
        drop((second, third));
        assert_eq!(admission.admitted(), Admitted::default());
        let text = admission.admitted.metrics.encode();
        assert!(text.contains("sesrec_engine_admitted_candidates 0"), "{text}");
        assert!(text.contains(r#"sesrec_requests_rejected_total{reason="queued_requests"} 1"#), "{text}");
        assert!(text.contains(r#"sesrec_requests_rejected_total{reason="queued_candidates"} 1"#));
    }

    #[test]
    fn a_huge_request_is_admitted_alone() {
        let admission = admission(8, 100);
        let huge = admission.admit(10_000).unwrap();
        assert!(admission.admit(1).is_err());
        drop(huge);
        let _small = admission.admit(1).unwrap();
        assert!(admission.admit(10_000).is_err());
    }
}
