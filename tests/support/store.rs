//! A memory store that can be broken.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use sesrec::{
    domain::{Deadline, Event, HistoryVersion, UserHistoryView, UserId},
    history::{Appended, HistoryOptions, HistoryStore, Loaded, MemoryStore, StoreError, SystemClock},
};

/// How the store misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    None,
    /// Calls fail at once.
    Unavailable,
    /// Calls never end.
    Stalled,
    /// Appends fail from the n-th event of a call on.
    FailAppendsFrom(usize),
    /// Loads answer an empty history this often before they answer truly: a replica that lags.
    LaggingLoads(usize),
}

pub struct FaultyStore {
    inner: MemoryStore,
    fault: Mutex<Fault>,
    append_calls: AtomicUsize,
    load_calls: AtomicUsize,
}

impl FaultyStore {
    pub fn new() -> Self {
        let inner = MemoryStore::new(HistoryOptions::default(), Arc::new(SystemClock));
        Self {
            inner,
            fault: Mutex::new(Fault::None),
            append_calls: AtomicUsize::new(0),
            load_calls: AtomicUsize::new(0),
        }
    }

    pub fn fail(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// How often `append` was called.
    pub fn append_calls(&self) -> usize {
        self.append_calls.load(Ordering::SeqCst)
    }

    /// How often `load` was called.
    pub fn load_calls(&self) -> usize {
        self.load_calls.load(Ordering::SeqCst)
    }

    async fn broken(&self) -> Result<(), StoreError> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::Unavailable => Err(StoreError::Unavailable("broken by the test".into())),
            Fault::Stalled => std::future::pending().await,
            Fault::None | Fault::FailAppendsFrom(_) | Fault::LaggingLoads(_) => Ok(()),
        }
    }
}

#[async_trait]
impl HistoryStore for FaultyStore {
    async fn append(&self, events: &[Event], deadline: Deadline) -> Vec<Result<Appended, StoreError>> {
        self.append_calls.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = self.broken().await {
            return vec![Err(error); events.len()];
        }
        let fault = *self.fault.lock().unwrap();
        let good = if let Fault::FailAppendsFrom(n) = fault { n.min(events.len()) } else { events.len() };
        let mut results = self.inner.append(&events[..good], deadline).await;
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
        if let Fault::LaggingLoads(n @ 1..) = &mut *self.fault.lock().unwrap() {
            *n -= 1;
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
