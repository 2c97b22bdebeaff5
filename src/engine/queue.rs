//! What waits for the device: the one place where requests and device threads meet.
//!
//! A request leaves it in exactly one way, decided under its lock: into a batch, or because nobody waits for it any
//! more. That is what makes "no model time was spent on it" a fact that can be counted.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    RankJob,
    admission::Permit,
    batcher::{Batch, BatchLimits, Verdict},
    user_cache::{ErasureEpoch, UserCache},
    worker::Reply,
};
use crate::telemetry::Metrics;

/// A request that waits.
pub(super) struct Entry {
    ticket: Ticket,
    pub(super) job: RankJob,
    pub(super) submitted: Instant,
    pub(super) epoch: ErasureEpoch,
    pub(super) reply: oneshot::Sender<Reply>,
    /// Held until the answer, or until it leaves the queue unanswered.
    _permit: Permit,
}

/// Which entry of the queue; ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// The queue is closed: the engine is shutting down.
#[derive(Debug)]
pub(super) struct Closed;

pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    candidates: usize,
    next_ticket: u64,
    closed: bool,
}

impl Queue {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), metrics }
    }

    /// Adds a request at the end. The permit bounds how many there are.
    pub(super) fn push(
        &self,
        job: RankJob,
        permit: Permit,
        epoch: ErasureEpoch,
    ) -> Result<(Ticket, oneshot::Receiver<Reply>), Closed> {
        let (reply, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        let ticket = Ticket(state.next_ticket);
        state.next_ticket += 1;
        state.candidates += job.items.len();
        state.entries.push_back(Entry { ticket, job, submitted: Instant::now(), epoch, reply, _permit: permit });
        self.report(&state);
        drop(state);
        self.arrived.notify_one();
        Ok((ticket, receiver))
    }

    /// Takes a request out that nobody waits for. False: it has left the queue already.
    pub(super) fn remove(&self, ticket: Ticket) -> bool {
        let mut state = self.lock();
        let Ok(index) = state.entries.binary_search_by_key(&ticket, |entry| entry.ticket) else {
            return false;
        };
        let entry = state.take(index);
        self.report(&state);
        drop(state);
        drop(entry);
        true
    }

    /// Refuses further requests; those that wait are still computed.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Blocks until there is work and returns as much of it as fits a batch, oldest first; `None` when the queue is
    /// closed and empty.
    pub(super) fn next_batch(&self, limits: &BatchLimits, cache: &UserCache) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            let Some(first) = state.entries.front() else {
                if state.closed {
                    return None;
                }
                state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let patience = limits.delay.saturating_sub(first.submitted.elapsed());
            let full = state.entries.len() >= limits.requests || state.candidates >= limits.budget;
            if !patience.is_zero() && !full && !state.closed {
                state = self.arrived.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let batch = state.form_batch(limits, cache);
            self.report(&state);
            if !state.entries.is_empty() {
                // Another thread may have been told of an arrival that this batch left behind.
                self.arrived.notify_one();
            }
            if let Some(batch) = batch {
                return Some(batch);
            }
        }
    }

    fn report(&self, state: &State) {
        self.metrics.queued(state.entries.len(), state.candidates);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// One batch of the oldest entry and what fits beside it, at most this thread's share of what waits. Requests of
    /// another model are passed over, as during a swap; a request that doesn't fit ends the batch, so that small ones
    /// don't overtake a large one for ever.
    fn form_batch(&mut self, limits: &BatchLimits, cache: &UserCache) -> Option<Batch> {
        let mut batch: Option<Batch> = None;
        let mut index = 0;
        let share = self.entries.len().div_ceil(limits.shares.get());
        while index < self.entries.len() && batch.as_ref().is_none_or(|batch| batch.members.len() < share) {
            let entry = &self.entries[index];
            if entry.reply.is_closed() || entry.job.deadline.is_past() {
                // Its own timer is late, or its caller is about to remove it. The answer is sent under the lock: a
                // caller that no longer finds its entry finds the answer.
                let _ = self.take(index).reply.send(Reply::ExpiredInQueue);
                continue;
            }
            match batch.get_or_insert_with(|| Batch::new(entry.job.model.clone())).consider(&entry.job, limits, cache) {
                Verdict::Take(user) => {
                    let entry = self.take(index);
                    batch.as_mut().expect("inserted above").push(entry, user);
                }
                Verdict::OtherModel => index += 1,
                Verdict::Full => break,
            }
        }
        batch
    }

    fn take(&mut self, index: usize) -> Entry {
        let entry = self.entries.remove(index).expect("the index was found under the same lock");
        self.candidates -= entry.job.items.len();
        entry
    }
}
