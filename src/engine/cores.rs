//! How calls of the model share the cores of a CPU.
//!
//! A call on all cores is the quickest answer, but threads that work on one call wait for each other at its beginning and
//! its end, the more of them the longer. So several threads may call the model (`--device-threads`): each has its share of
//! the cores, and all of them while others call seldom.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The cores, and how many calls are computed on them.
pub(super) struct Cores {
    /// `None`: there is nothing to divide.
    shared: Option<Shared>,
}

struct Shared {
    /// Threads on all cores, for calls that spread.
    all: ThreadPool,
    /// Cores of a call that doesn't.
    share: usize,
    calls: AtomicUsize,
}

/// A thread that calls the model.
pub(super) struct Lane<'a> {
    shared: Option<&'a Shared>,
    /// Loops on this thread keep to this pool, whose first thread it is.
    _own: Option<ThreadPool>,
}

impl Cores {
    /// Divided into so many shares, one for each thread that calls the model. A single one, as where the device is a GPU, is
    /// no division: everything runs where it pleases.
    ///
    /// # Panics
    /// If the system starts no more threads.
    pub(super) fn divided(shares: NonZeroUsize) -> Self {
        Self::new(rayon::current_num_threads(), shares)
    }

    fn new(cores: usize, shares: NonZeroUsize) -> Self {
        let shared = (shares.get() > 1).then(|| {
            let all = ThreadPoolBuilder::new().num_threads(cores).thread_name(|number| format!("compute-{number}"));
            let all = all.build().expect("the system starts threads");
            Shared { all, share: (cores / shares).max(1), calls: AtomicUsize::new(0) }
        });
        Self { shared }
    }

    /// Of the current thread, which has to be one that ends with it (rayon keeps what it knows of such a thread: some
    /// kilobytes for each that a process ever had).
    ///
    /// # Panics
    /// If the system starts no more threads.
    pub(super) fn lane(&self) -> Lane<'_> {
        let shared = self.shared.as_ref();
        let own = shared.map(|shared| {
            let pool = ThreadPoolBuilder::new().num_threads(shared.share).use_current_thread();
            pool.build().expect("a new thread is in no pool, and the system starts threads")
        });
        Lane { shared, _own: own }
    }
}

impl Lane<'_> {
    /// Calls `compute` on this thread's share of the cores, or on all of them while at least half of them would be idle.
    pub(super) fn compute(&self, compute: impl FnOnce() + Send) {
        let Some(shared) = self.shared else { return compute() };
        let calls = shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if 2 * calls * shared.share <= shared.all.current_num_threads() {
            shared.all.install(compute);
        } else {
            compute();
        }
        shared.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn of(cores: usize, shares: usize) -> Cores {
        Cores::new(cores, NonZeroUsize::new(shares).unwrap())
    }

    /// On a thread of its own, as a device thread is.
    fn cores_of_a_call(cores: &Cores) -> usize {
        let call = || {
            let mut threads = 0;
            cores.lane().compute(|| threads = rayon::current_num_threads());
            threads
        };
        std::thread::scope(|scope| scope.spawn(call).join().unwrap())
    }

    #[test]
    fn few_calls_spread_and_many_keep_to_their_share() {
        for (shares, share) in [(8, 1), (4, 2)] {
            let cores = of(8, shares);
            let most_that_spread = 8 / share / 2;
            let begun = Barrier::new(most_that_spread + 1);
            let done = Barrier::new(most_that_spread + 1);
            assert_eq!(cores_of_a_call(&cores), 8);
            std::thread::scope(|scope| {
                for _ in 0..most_that_spread {
                    scope.spawn(|| {
                        cores.lane().compute(|| {
                            begun.wait();
                            done.wait();
                        })
                    });
                }
                begun.wait();
                assert_eq!(cores_of_a_call(&cores), share);
                done.wait();
            });
            assert_eq!(cores_of_a_call(&cores), 8, "the others have gone");
        }
    }

    #[test]
    fn more_shares_than_cores_have_one_each() {
        assert_eq!(cores_of_a_call(&of(1, 3)), 1);
    }

    #[test]
    fn a_single_share_is_the_pool_of_the_process() {
        assert_eq!(cores_of_a_call(&of(4, 1)), rayon::current_num_threads());
        assert_eq!(cores_of_a_call(&Cores::divided(NonZeroUsize::MIN)), rayon::current_num_threads());
    }
}
