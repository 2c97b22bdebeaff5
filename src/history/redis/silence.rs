//! How long someone who was asked has answered nobody.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Of one connection or one node, shared by all who ask it.
pub(super) struct Silence {
    made: Instant,
    /// Milliseconds after `made`, from 1; 0 while nobody waits for an answer.
    since: AtomicU64,
    /// Of the last answer; 0 before the first.
    answered_at: AtomicU64,
}

impl Silence {
    pub(super) fn new() -> Self {
        Self { made: Instant::now(), since: AtomicU64::new(0), answered_at: AtomicU64::new(0) }
    }

    /// Something is asked.
    pub(super) fn asked(&self) {
        // Fails where others wait already: since then.
        let _ = self.since.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.answered_at.store(self.now(), Ordering::Relaxed);
        self.failed();
    }

    /// Whoever asked waits no longer, without an answer.
    pub(super) fn failed(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// When it was, or when this was made.
    pub(super) fn last_answer(&self) -> Instant {
        self.made + Duration::from_millis(self.answered_at.load(Ordering::Relaxed))
    }

    /// How long askers have waited without an answer to any of them; nothing while nobody waits.
    pub(super) fn lasts(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.now().saturating_sub(since)),
        }
    }

    fn now(&self) -> u64 {
        1 + self.made.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lasts_from_the_first_question_to_any_answer() {
        let silence = Silence::new();
        let pass = async || tokio::time::advance(Duration::from_millis(300)).await;
        pass().await;
        assert_eq!(silence.lasts(), Duration::ZERO, "nobody has asked");
        silence.asked();
        pass().await;
        silence.asked();
        pass().await;
        assert_eq!(silence.lasts(), Duration::from_millis(600));
        let answered = Instant::now();
        silence.answered();
        assert_eq!(silence.lasts(), Duration::ZERO);
        pass().await;
        silence.failed();
        assert!(silence.last_answer().duration_since(answered) <= Duration::from_millis(1), "a failure is no answer");
        silence.asked();
        pass().await;
        assert_eq!(silence.lasts(), Duration::from_millis(300));
    }
}
