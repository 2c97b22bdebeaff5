//! Whether the threads that call the model get on: a device that hangs answers nothing, and fails nothing either.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

const IDLE: u64 = 0;
const ENDED: u64 = u64::MAX;

/// What every device thread is at.
pub(super) struct Progress {
    started: Instant,
    /// By thread: idle, ended, or when its batch began, in milliseconds from `started`, plus one.
    threads: Vec<AtomicU64>,
}

/// One thread's place. Dropped with the thread, by a panic too, it says that the thread has ended.
pub(super) struct Place<'a> {
    started: Instant,
    state: &'a AtomicU64,
}

impl Progress {
    pub(super) fn new(threads: usize) -> Self {
        Self { started: Instant::now(), threads: (0..threads).map(|_| AtomicU64::new(IDLE)).collect() }
    }

    pub(super) fn place(&self, thread: usize) -> Place<'_> {
        Place { started: self.started, state: &self.threads[thread] }
    }

    /// How long every thread has been at one batch by now: zero while any is free, without end when all have ended.
    pub(super) fn stalled(&self) -> Duration {
        let now = self.started.elapsed();
        let at_it = |state: &AtomicU64| match state.load(Ordering::Relaxed) {
            IDLE => Duration::ZERO,
            ENDED => Duration::MAX,
            began => now.saturating_sub(Duration::from_millis(began - 1)),
        };
        self.threads.iter().map(at_it).min().unwrap_or_default()
    }
}

impl Place<'_> {
    /// A batch begins.
    pub(super) fn begins(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(ENDED);
        self.state.store(now.saturating_add(1).min(ENDED - 1), Ordering::Relaxed);
    }

    /// It is done.
    pub(super) fn idles(&self) {
        self.state.store(IDLE, Ordering::Relaxed);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.state.store(ENDED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_that_gets_on_is_enough() {
        let progress = Progress::new(2);
        let (first, second) = (progress.place(0), progress.place(1));
        assert_eq!(progress.stalled(), Duration::ZERO);
        first.begins();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(progress.stalled(), Duration::ZERO, "the second is free");
        let before = Instant::now();
        second.begins();
        let (stalled, elapsed) = (progress.stalled(), before.elapsed());
        // Both are told in whole milliseconds.
        assert!(stalled <= elapsed + Duration::from_millis(1), "{stalled:?} since the second began, {elapsed:?} ago");
        drop(second);
        assert!(progress.stalled() >= Duration::from_millis(29), "the first is what is left");
        first.idles();
        assert_eq!(progress.stalled(), Duration::ZERO);
        drop(first);
        assert_eq!(progress.stalled(), Duration::MAX);
    }
}
