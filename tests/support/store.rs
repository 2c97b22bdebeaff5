//! A memory store that can be broken.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use sesrec::{
    domain::{Deadline, Event, HistoryVersion, UserHistoryView, UserId},
    history::{Appended, HistoryOptions, HistoryStore, Loaded, MemoryStore, StoreError, SystemClock},
};
use tokio::sync::watch;

/// How the store misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    None,
    /// Calls fail at once.
    Unavailable,
    /// So they do, as by a Redis whose password was changed.
    Refused,
    /// Calls don't end before the fault does.
    Stalled,
    /// Nor do appends that would make it more than so many events in the store's life.
    StallAppendsAfter(usize),
    /// Appends fail from the n-th event of a call on.
    FailAppendsFrom(usize),
    /// What is stored of users from this one on, by name, can't be read.
    CorruptFrom(&'static str),
    /// Loads answer an empty history this often before they answer truly: a replica that lags.
    LaggingLoads(usize),
}

pub struct FaultyStore {
    inner: MemoryStore,
    fault: watch::Sender<Fault>,
    append_calls: AtomicUsize,
    load_calls: AtomicUsize,
    /// Events that were appended, and appends that were held up.
    appended: AtomicUsize,
    held_up: AtomicUsize,
}

impl FaultyStore {
    pub fn new() -> Self {
        let inner = MemoryStore::new(HistoryOptions::default(), Arc::new(SystemClock));
        Self {
            inner,
            fault: watch::Sender::new(Fault::None),
            append_calls: AtomicUsize::new(0),
            load_calls: AtomicUsize::new(0),
            appended: AtomicUsize::new(0),
            held_up: AtomicUsize::new(0),
        }
    }

    pub fn fail(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How often `append` was called.
    pub fn append_calls(&self) -> usize {
        self.append_calls.load(Ordering::SeqCst)
    }

    /// How often `load` was called.
    pub fn load_calls(&self) -> usize {
        self.load_calls.load(Ordering::SeqCst)
    }

    /// How often appends were held up by [`Fault::StallAppendsAfter`].
    pub fn held_up(&self) -> usize {
        self.held_up.load(Ordering::SeqCst)
    }

    async fn broken(&self) -> Result<(), StoreError> {
        match self.once(|fault| fault != Fault::Stalled).await {
            Fault::Unavailable => Err(StoreError::Unavailable("broken by the test".into())),
            Fault::Refused => Err(StoreError::Config("the test refuses the user or password".into())),
            _ => Ok(()),
        }
    }

    /// The fault, once it is one of these.
    async fn once(&self, which: impl Fn(Fault) -> bool) -> Fault {
        *self.fault.subscribe().wait_for(|&fault| which(fault)).await.expect("the sender is ours")
    }

    async fn room_for(&self, events: usize) -> Fault {
        let beyond = |fault| {
            let appended = self.appended.load(Ordering::SeqCst);
            matches!(fault, Fault::StallAppendsAfter(most) if appended + events > most)
        };
        if beyond(*self.fault.borrow()) {
            self.held_up.fetch_add(1, Ordering::SeqCst);
        }
        self.once(|fault| !beyond(fault)).await
    }
}

#[async_trait]
impl HistoryStore for FaultyStore {
    async fn append(&self, events: &[Event], deadline: Deadline) -> Vec<Result<Appended, StoreError>> {
        self.append_calls.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = self.broken().await {
            return vec![Err(error); events.len()];
        }
        let fault = self.room_for(events.len()).await;
        if let Fault::CorruptFrom(first) = fault {
            let mut results = vec![];
            for event in events {
                let corrupt = Err(StoreError::Corrupt("broken by the test".into()));
                let sound = event.user_id.as_str() < first;
                let result =
                    if sound { self.inner.append(std::slice::from_ref(event), deadline).await } else { vec![corrupt] };
                results.extend(result);
            }
            return results;
        }
        let good = if let Fault::FailAppendsFrom(n) = fault { n.min(events.len()) } else { events.len() };
        let mut results = self.inner.append(&events[..good], deadline).await;
        self.appended.fetch_add(good, Ordering::SeqCst);
        results.resize(events.len(), Err(StoreError::Unavailable("broken by the test".into())));
        results
    }

    async fn load(
        &self,
        user: &UserId,
        known: Option<HistoryVersion>,
        deadline: Deadline,
    ) -> Result<Loaded, StoreError> {
        self.load_calls.fetch_add(1, Ordering::SeqCst);
        self.broken().await?;
        let lagged = self.fault.send_if_modified(|fault| match fault {
            Fault::LaggingLoads(n @ 1..) => {
                *n -= 1;
                true
            }
            _ => false,
        });
        if lagged {
            return Ok(Loaded::History(Arc::new(UserHistoryView::default())));
        }
        self.inner.load(user, known, deadline).await
    }

    async fn delete(&self, user: &UserId, deadline: Deadline) -> Result<HistoryVersion, StoreError> {
        self.broken().await?;
        self.inner.delete(user, deadline).await
    }

    async fn ping(&self, deadline: Deadline) -> Result<(), StoreError> {
        self.broken().await?;
        self.inner.ping(deadline).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn kind(&self) -> &'static str {
        "faulty"
    }
}
