//! How calls of the model share the cores of a CPU.
//!
//! Threads that work on one call together wait for each other at its beginning and its end, the more of them the longer;
//! a call that keeps to one core never waits. So calls have a core each as soon as there are about as many of them as
//! cores, which is most work per second, and spread over all cores while there are few, which is the quickest answer.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The cores, and who computes on them.
pub(super) struct Cores {
    /// Threads for calls that spread. `None`: the model's loops run where they please, as there is one calling thread only,
    /// or a GPU.
    shared: Option<ThreadPool>,
    calls: AtomicUsize,
}

/// A thread that calls the model.
pub(super) struct Lane<'a> {
    cores: &'a Cores,
    /// Loops on this thread keep to it: it is all of a pool of its own.
    _own: Option<ThreadPool>,
}

impl Cores {
    /// Of a CPU with several calling threads.
    ///
    /// # Panics
    /// If the system starts no more threads.
    pub(super) fn shared() -> Self {
        let pool = ThreadPoolBuilder::new().num_threads(rayon::current_num_threads());
        let pool = pool.thread_name(|number| format!("compute-{number}")).build();
        Self { shared: Some(pool.expect("the system starts threads")), calls: AtomicUsize::new(0) }
    }

    /// Of a single calling thread, or of a GPU: nothing to share out.
    pub(super) fn unshared() -> Self {
        Self { shared: None, calls: AtomicUsize::new(0) }
    }

    /// Of the current thread, which has to be one that ends with it (rayon keeps what it knows of such a thread: some
    /// kilobytes for each that a process ever had).
    pub(super) fn lane(&self) -> Lane<'_> {
        let own = self.shared.as_ref().map(|_| ThreadPoolBuilder::new().num_threads(1).use_current_thread().build());
        Lane { cores: self, _own: own.map(|pool| pool.expect("a new thread is in no pool")) }
    }
}

impl Lane<'_> {
    /// Calls `compute` on this thread, or on the shared ones while half of the cores or more would be idle. Returns how many
    /// cores it had.
    pub(super) fn compute(&self, compute: impl FnOnce() + Send) -> NonZeroUsize {
        let Some(shared) = &self.cores.shared else {
            compute();
            return NonZeroUsize::MIN;
        };
        let calls = self.cores.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let threads = shared.current_num_threads();
        let spreads = 2 * calls <= threads;
        if spreads {
            shared.install(compute);
        } else {
            compute();
        }
        self.cores.calls.fetch_sub(1, Ordering::Relaxed);
        NonZeroUsize::new(if spreads { threads } else { 1 }).unwrap_or(NonZeroUsize::MIN)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn of(threads: usize) -> Cores {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        Cores { shared: Some(pool), calls: AtomicUsize::new(0) }
    }

    fn threads_of_a_call(cores: &Cores) -> usize {
        let mut threads = 0;
        cores.lane().compute(|| threads = rayon::current_num_threads());
        threads
    }

    #[test]
    fn few_calls_spread_and_many_keep_to_a_core() {
        let cores = of(4);
        let (begun, done) = (Barrier::new(3), Barrier::new(3));
        std::thread::scope(|scope| {
            assert_eq!(scope.spawn(|| threads_of_a_call(&cores)).join().unwrap(), 4);
            for _ in 0..2 {
                scope.spawn(|| {
                    cores.lane().compute(|| {
                        begun.wait();
                        done.wait();
                    })
                });
            }
            begun.wait();
            assert_eq!(scope.spawn(|| threads_of_a_call(&cores)).join().unwrap(), 1, "the third of four cores");
            done.wait();
        });
        std::thread::scope(|scope| {
            assert_eq!(scope.spawn(|| threads_of_a_call(&cores)).join().unwrap(), 4, "they have gone");
        });
    }

    #[test]
    fn one_core_is_never_spread_over() {
        std::thread::scope(|scope| {
            assert_eq!(scope.spawn(|| threads_of_a_call(&of(1))).join().unwrap(), 1);
        });
    }

    #[test]
    fn a_single_thread_has_the_process_s_pool() {
        assert_eq!(threads_of_a_call(&Cores::unshared()), rayon::current_num_threads());
    }
}
