//! Events past their time to live of users who don't come back: nobody else would drop them.
//!
//! Whoever reads or appends to a user drops what is past its time. A thread goes round all the others: a few users at a
//! time, whose oldest events it looks at, and asks the writer for those that are due, one step after another, so that
//! it never has more than a step in the writer's queue.

use std::{
    sync::{
        Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::sync::{mpsc::WeakUnboundedSender, oneshot};

use super::{
    files::Walk,
    writer::{Job, Shared},
};
use crate::history::{StoreError, user_key::UserKey};

/// How often it moves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tempo {
    /// From the opening to the first step: a start is busy enough.
    pub(super) first: Duration,
    /// From step to step. At 64 users that are due, a round over a million takes four hours.
    pub(super) step: Duration,
    /// From round to round.
    pub(super) round: Duration,
}

impl Default for Tempo {
    fn default() -> Self {
        Self { first: Duration::from_secs(60), step: Duration::from_secs(1), round: Duration::from_secs(3600) }
    }
}

/// Goes round until the store is closed, or the other end of `stop` is gone.
pub(super) fn run(shared: &Weak<Shared>, jobs: &WeakUnboundedSender<Job>, tempo: Tempo, stop: &Receiver<()>) {
    let mut pause = tempo.first;
    let mut after = None;
    while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let Some(shared) = shared.upgrade() else { return };
        if jobs.upgrade().is_none_or(|jobs| jobs.is_closed()) {
            return;
        }
        pause = match step(&shared, after) {
            Ok(Walk { due, last }) => {
                if !due.is_empty() && !sweep(jobs, due) {
                    return;
                }
                after = last;
                if last.is_some() { tempo.step } else { tempo.round }
            }
            Err(error) => {
                tracing::warn!(%error, "history store: what is past its time stays until the next round");
                after = None;
                tempo.round
            }
        };
    }
}

fn step(shared: &Shared, after: Option<UserKey>) -> Result<Walk, StoreError> {
    let files = shared.files()?;
    let mut walk = files.walk(after, shared.options.cutoff(shared.clock.now()))?;
    // Users who don't come back are in no cache: read here, they are in the files' when the writer reads them, for
    // which every append waits.
    walk.due.retain(|user| files.read(user).is_ok());
    Ok(walk)
}

/// Waits until it is done. False: the store is closed.
fn sweep(jobs: &WeakUnboundedSender<Job>, users: Vec<UserKey>) -> bool {
    let (done, swept) = oneshot::channel();
    let asked = jobs.upgrade().is_some_and(|jobs| jobs.send(Job::SweepAbsent { users, done }).is_ok());
    asked && swept.blocking_recv().is_ok()
}
