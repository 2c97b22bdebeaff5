//! Who may wait: decided at once, never after waiting.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{EngineError, EngineOptions};
use crate::telemetry::{Metrics, Rejection};

/// Counts what has been admitted and not answered yet. A clone shares the counts.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    max_requests: usize,
    max_candidates: usize,
    metrics: Metrics,
    // A mutex and not two atomics: both counts are decided together, and it is held for nanoseconds.
    admitted: Arc<Mutex<Admitted>>,
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
    admitted: Arc<Mutex<Admitted>>,
}

impl Admission {
    pub(super) fn new(options: &EngineOptions, metrics: Metrics) -> Self {
        Self {
            max_requests: options.max_queued_requests.max(1),
            max_candidates: options.max_queued_candidates,
            metrics,
            admitted: Arc::default(),
        }
    }

    /// Admits a request with so many candidates, or refuses it. A request that is larger than the limit by itself is
    /// admitted when nothing else waits: refusing it would be for ever.
    pub(super) fn admit(&self, candidates: usize) -> Result<Permit, EngineError> {
        let mut admitted = lock(&self.admitted);
        let refused = if admitted.requests >= self.max_requests {
            Some((Rejection::QueuedRequests, "too many requests are waiting"))
        } else if admitted.requests > 0 && admitted.candidates + candidates > self.max_candidates {
            Some((Rejection::QueuedCandidates, "too many candidates are waiting"))
        } else {
            None
        };
        if let Some((reason, message)) = refused {
            drop(admitted);
            self.metrics.rejected(reason);
            return Err(EngineError::Overloaded(message));
        }
        admitted.requests += 1;
        admitted.candidates += candidates;
        Ok(Permit { candidates, admitted: self.admitted.clone() })
    }

    /// What is admitted now.
    pub(super) fn admitted(&self) -> Admitted {
        *lock(&self.admitted)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut admitted = lock(&self.admitted);
        admitted.requests -= 1;
        admitted.candidates -= self.candidates;
    }
}

fn lock(admitted: &Mutex<Admitted>) -> MutexGuard<'_, Admitted> {
    admitted.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max_queued_requests: usize, max_queued_candidates: usize) -> Admission {
        let options = EngineOptions { max_queued_requests, max_queued_candidates, ..EngineOptions::default() };
        Admission::new(&options, Metrics::new())
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
        let text = admission.metrics.encode();
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
