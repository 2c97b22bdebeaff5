//! How calls of the model share the cores of a CPU.
//!
//! A call on all cores is the quickest answer, but threads that work on one call wait for each other at its beginning
//! and its end, the more of them the longer. So several threads may call the model (`--device-threads`): each has its
//! share of the cores, and all of them while others call seldom.
//!
//! No call runs in the pool of the process: a model that is loaded meanwhile fills its tables there, and calls would
//! wait for all of it.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The cores, and how many calls are computed on them.
pub(super) struct Cores {
    /// Cores of a call, unless it spreads.
    share: usize,
    /// `None`: there is nothing to divide.
    shared: Option<Shared>,
}

struct Shared {
    /// Threads on all cores, for a call that spreads.
    all: ThreadPool,
    calls: AtomicUsize,
    /// Whether one does. No second one may meanwhile: a thread of a pool that waits at the end of one call would begin
    /// with the other, and answer the first after it.
    spread: AtomicBool,
}

/// A thread that calls the model.
pub(super) struct Lane<'a> {
    cores: &'a Cores,
    /// Loops on this thread keep to this pool, whose first thread it is.
    _own: ThreadPool,
}

impl Cores {
    /// Divided into so many shares, one for each thread that calls the model; into a single one where the device is a
    /// GPU, which the threads beside it use in turns.
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
            Shared { all, calls: AtomicUsize::new(0), spread: AtomicBool::new(false) }
        });
        Self { share: (cores / shares).max(1), shared }
    }

    /// Of the current thread, which has to be one that ends with it (rayon keeps what it knows of such a thread: some
    /// kilobytes for each that a process ever had).
    ///
    /// # Panics
    /// If the system starts no more threads.
    pub(super) fn lane(&self) -> Lane<'_> {
        let own = ThreadPoolBuilder::new().num_threads(self.share).use_current_thread();
        let own = own.thread_name(|number| format!("lane-{number}")).build();
        let own = own.expect("a new thread is in no pool, and the system starts threads");
        Lane { cores: self, _own: own }
    }
}

impl Lane<'_> {
    /// Calls `compute` on this thread's share of the cores, or on all of them while at least half of them would be
    /// idle.
    pub(super) fn compute(&self, compute: impl FnOnce() + Send) {
        let Some(shared) = &self.cores.shared else { return compute() };
        let calls = shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let few = 2 * calls * self.cores.share <= shared.all.current_num_threads();
        if few && !shared.spread.swap(true, Ordering::Acquire) {
            shared.all.install(compute);
            shared.spread.store(false, Ordering::Release);
        } else {
            compute();
        }
        shared.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Barrier},
        time::Duration,
    };

    use rayon::prelude::*;

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
    fn one_of_few_calls_spreads_and_many_keep_to_their_share() {
        for (shares, share) in [(8, 1), (4, 2)] {
            let cores = of(8, shares);
            assert_eq!(cores_of_a_call(&cores), 8);
            let (begun, done) = (Barrier::new(2), Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    cores.lane().compute(|| {
                        begun.wait();
                        done.wait();
                    })
                });
                begun.wait();
                assert_eq!(cores_of_a_call(&cores), share, "beside one that has spread");
                done.wait();
            });
            assert_eq!(cores_of_a_call(&cores), 8, "the other has gone");
            let many = 8 / share / 2;
            let (begun, done) = (Barrier::new(many + 1), Barrier::new(many + 1));
            std::thread::scope(|scope| {
                for _ in 0..many {
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
        }
    }

    #[test]
    fn more_shares_than_cores_have_one_each() {
        assert_eq!(cores_of_a_call(&of(1, 3)), 1);
    }

    #[test]
    fn a_single_share_is_all_cores() {
        assert_eq!(cores_of_a_call(&of(4, 1)), 4);
        assert_eq!(cores_of_a_call(&Cores::divided(NonZeroUsize::MIN)), rayon::current_num_threads());
    }

    /// As a model that is loaded does for seconds.
    #[test]
    fn what_runs_in_the_pool_of_the_process_holds_no_call_up() {
        let threads = rayon::current_num_threads();
        let busy = Arc::new(Barrier::new(threads + 1));
        let release = Arc::new(Barrier::new(threads + 1));
        for _ in 0..threads {
            let (busy, release) = (busy.clone(), release.clone());
            rayon::spawn(move || {
                busy.wait();
                release.wait();
            });
        }
        busy.wait();
        let (done, answered) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let cores = of(2, 1);
            cores.lane().compute(|| (0..64).into_par_iter().for_each(|_| std::thread::yield_now()));
            let _ = done.send(());
        });
        let answer = answered.recv_timeout(Duration::from_secs(20));
        release.wait();
        answer.expect("a call that waits for nobody");
    }
}
