//! The handle that the service holds.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::timeout_at,
};

use super::{
    EngineError, EngineOptions, ModelSlot, RankJob, Ranked,
    admission::{Admission, Permit},
    batcher::BatchLimits,
    cores::Cores,
    order::order,
    pace::Pace,
    progress::Progress,
    queue::{Closed, Queue, Ticket},
    user_cache::{ErasureEpoch, UserCache},
    worker::{Ranking, Reply, Worker},
};
use crate::{
    domain::UserId,
    telemetry::{Abandoned, Metrics, Phase, Rejection},
};

/// Ranks. A clone is a handle on the same queue, cache and device threads; when the last one is dropped, or after
/// [`shutdown`](Self::shutdown), the threads finish what is queued and end.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    admission: Admission,
    queue: Arc<Queue>,
    cache: Arc<UserCache>,
    pace: Arc<Pace>,
    progress: Arc<Progress>,
    device_threads: u32,
    metrics: Metrics,
    failures: Arc<AtomicU32>,
    /// Each device thread holds a receiver while it runs.
    running: watch::Sender<()>,
}

/// A request that was admitted: from here until its answer it counts against the limits. Dropping it makes room.
pub struct AdmittedRank {
    permit: Permit,
    /// From before the history is read: what is made of a history that is erased meanwhile is not cached.
    epoch: ErasureEpoch,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Engine {
    /// Starts the device threads. Jobs bring their model; `slot` tells which one is live, so that encodings of others
    /// can be dropped from the cache.
    ///
    /// # Panics
    /// If the system starts no more threads.
    pub fn start(slot: Arc<ModelSlot>, options: EngineOptions, metrics: Metrics) -> Self {
        let queue = Arc::new(Queue::new(metrics.clone()));
        let cache = Arc::new(UserCache::new(options.user_cache_bytes, metrics.clone()));
        let pace = Arc::new(Pace::default());
        let live = slot.live();
        let device = live.ranker.device();
        let threads = options.device_threads;
        // Threads of a CPU divide its cores, and what waits among them.
        let shares = if device.is_cpu() { threads } else { NonZeroUsize::MIN };
        let limits = BatchLimits {
            requests: options.max_batch_requests.get(),
            budget: options.budget_on(device),
            delay: options.max_delay,
            shares,
        };
        let cores = Arc::new(Cores::divided(shares));
        let progress = Arc::new(Progress::new(threads.get()));
        let failures = Arc::new(AtomicU32::new(0));
        let (running, receiver) = watch::channel(());
        for number in 0..threads.get() {
            let worker = Worker {
                queue: queue.clone(),
                cache: cache.clone(),
                slot: slot.clone(),
                pace: pace.clone(),
                progress: progress.clone(),
                number,
                cores: cores.clone(),
                limits,
                max_explained: options.max_explained,
                metrics: metrics.clone(),
                failures: failures.clone(),
            };
            let receiver = receiver.clone();
            thread::Builder::new()
                .name(format!("device-{number}"))
                .spawn(move || {
                    worker.run();
                    drop(receiver);
                })
                .expect("the system starts a thread");
        }
        Self(Arc::new(Shared {
            admission: Admission::new(&options, device, metrics.clone()),
            queue,
            cache,
            pace,
            progress,
            device_threads: u32::try_from(threads.get()).unwrap_or(u32::MAX),
            metrics,
            failures,
            running,
        }))
    }

    /// Decides at once whether a request with so many candidates may wait. Asked before anything that takes time, such
    /// as reading the history, so that what is under way is bounded and a refusal never comes late.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`].
    pub fn admit(&self, candidates: usize) -> Result<AdmittedRank, EngineError> {
        let epoch = self.0.cache.epoch();
        Ok(AdmittedRank { permit: self.0.admission.admit(candidates)?, epoch })
    }

    /// Admits a job and ranks: for callers that have everything at hand.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] at once, never after waiting; the other ones as they say.
    pub async fn rank(&self, job: RankJob) -> Result<Ranked, EngineError> {
        let admitted = self.admit(job.items.len())?;
        self.rank_admitted(admitted, job).await
    }

    /// Scores and orders the candidates of a job that was admitted with as many.
    ///
    /// Answers at its deadline at the latest. Dropping the future takes the job out of the queue; a job that left the
    /// queue like that, or by its deadline, costs no model time.
    ///
    /// # Errors
    /// Any but [`EngineError::Overloaded`].
    pub async fn rank_admitted(&self, admitted: AdmittedRank, job: RankJob) -> Result<Ranked, EngineError> {
        let Shared { queue, metrics, .. } = &*self.0;
        let AdmittedRank { permit, epoch } = admitted;
        check_rows(&job)?;
        if job.deadline.is_past() {
            metrics.abandoned(Abandoned::Deadline, Phase::Queued);
            return Err(EngineError::DeadlineExceeded);
        }
        let (top_k, deadline) = (job.top_k, job.deadline.instant());
        let (ticket, mut receiver) = queue.push(job, permit, epoch).map_err(|Closed| {
            metrics.rejected(Rejection::ShuttingDown);
            EngineError::ShuttingDown
        })?;
        let waiting = Waiting { engine: self, ticket, done: false };
        let reply = match timeout_at(deadline, &mut receiver).await {
            Ok(reply) => reply,
            Err(_) => {
                return match waiting.expire(&mut receiver) {
                    Some(reply) => self.ranked(reply, top_k),
                    None => Err(EngineError::DeadlineExceeded),
                };
            }
        };
        waiting.answered();
        // The sender is dropped unanswered only with the thread: a bug, but not the caller's.
        let reply = reply.map_err(|_| EngineError::Model("the device thread ended without an answer".into()))?;
        self.ranked(reply, top_k)
    }

    /// When a refused caller may try again: how long the device needs for what is admitted.
    pub fn retry_after(&self) -> Duration {
        self.0.pace.estimate(self.0.admission.admitted().candidates) / self.0.device_threads
    }

    /// Calls of the model that have failed since requests were scored.
    pub fn failures_in_a_row(&self) -> u32 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// How long every device thread has been at one batch by now; zero while any is free.
    pub fn stalled(&self) -> Duration {
        self.0.progress.stalled()
    }

    /// Drops what is cached of an erased user; requests that began before this call add nothing either.
    pub fn forget(&self, user: &UserId) {
        self.0.cache.forget(user);
    }

    /// Refuses new jobs, finishes those that wait, and returns when the device threads have ended.
    pub async fn shutdown(&self) {
        self.0.queue.close();
        self.0.running.closed().await;
    }

    fn ranked(&self, reply: Reply, top_k: usize) -> Result<Ranked, EngineError> {
        match reply {
            Reply::Scored(scored) => {
                let timings = scored.timings;
                Ok(match scored.ranking {
                    Ranking::Scores(scores) => Ranked { items: order(&scores, top_k), explanation: None, timings },
                    Ranking::Explained(items, explanation) => Ranked { items, explanation: Some(explanation), timings },
                })
            }
            Reply::Failed(error) => Err(error),
            Reply::ExpiredInQueue => {
                self.0.metrics.abandoned(Abandoned::Deadline, Phase::Queued);
                Err(EngineError::DeadlineExceeded)
            }
            Reply::ExpiredComputing => {
                self.0.metrics.abandoned(Abandoned::Deadline, Phase::Computing);
                Err(EngineError::DeadlineExceeded)
            }
        }
    }
}

/// A caller that waits. Dropped while it does, its job leaves the queue.
struct Waiting<'a> {
    engine: &'a Engine,
    ticket: Ticket,
    done: bool,
}

impl Waiting<'_> {
    fn answered(mut self) {
        self.done = true;
    }

    /// The timer fired. Returns the answer if it came at the same moment.
    fn expire(mut self, receiver: &mut oneshot::Receiver<Reply>) -> Option<Reply> {
        self.done = true;
        if self.engine.0.queue.remove(self.ticket) {
            self.engine.0.metrics.abandoned(Abandoned::Deadline, Phase::Queued);
            return None;
        }
        let reply = receiver.try_recv().ok();
        if reply.is_none() {
            self.engine.0.metrics.abandoned(Abandoned::Deadline, Phase::Computing);
        }
        reply
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.done {
            let phase = if self.engine.0.queue.remove(self.ticket) { Phase::Queued } else { Phase::Computing };
            self.engine.0.metrics.abandoned(Abandoned::Cancelled, phase);
        }
    }
}

/// An index beyond a table is an error on the CPU and a broken context, for everyone, on a GPU.
fn check_rows(job: &RankJob) -> Result<(), EngineError> {
    let rows = job.model.featurizer.catalogue().items.rows();
    match job.items.iter().find(|&&row| row as usize >= rows) {
        None => Ok(()),
        Some(row) => Err(EngineError::Model(format!("candidate row {row} is outside the catalogue of {rows} rows"))),
    }
}
