//! Histories in the process: for tests and trials. Lost when the process ends, and bounded per user, not in users.

use std::sync::Arc;

use async_trait::async_trait;
use dashmap::DashMap;

use super::{
    Appended, Clock, HistoryOptions, HistoryStore, Loaded, StoreError, timeline::UserTimeline, user_key::UserKey,
};
use crate::domain::{Deadline, Event, HistoryVersion, UserHistoryView, UserId};

/// A map of timelines. Guards are never held across an await: no method awaits anything.
pub struct MemoryStore {
    users: DashMap<UserKey, UserTimeline>,
    options: HistoryOptions,
    clock: Arc<dyn Clock>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(options: HistoryOptions, clock: Arc<dyn Clock>) -> Self {
        Self { users: DashMap::new(), options, clock }
    }
}

#[async_trait]
impl HistoryStore for MemoryStore {
    async fn append(&self, events: &[Event], _: Deadline) -> Vec<Result<Appended, StoreError>> {
        let append = |event: &Event| {
            let mut user = self.users.entry(UserKey::of(&event.user_id)).or_default();
            user.apply(event, &self.options, self.clock.now()).0
        };
        events.iter().map(|event| Ok(append(event))).collect()
    }

    async fn load(&self, user: &UserId, known: Option<HistoryVersion>, _: Deadline) -> Result<Loaded, StoreError> {
        let Some(mut user) = self.users.get_mut(&UserKey::of(user)) else {
            return Ok(match known {
                Some(HistoryVersion(0)) => Loaded::Unchanged,
                _ => Loaded::History(Arc::new(UserHistoryView::default())),
            });
        };
        user.expire(&self.options, self.clock.now());
        if known == Some(user.version()) {
            return Ok(Loaded::Unchanged);
        }
        Ok(Loaded::History(Arc::new(user.view())))
    }

    async fn delete(&self, user: &UserId, _: Deadline) -> Result<HistoryVersion, StoreError> {
        let mut user = self.users.entry(UserKey::of(user)).or_default();
        user.erase(self.clock.now());
        Ok(user.version())
    }

    async fn ping(&self, _: Deadline) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}

    fn kind(&self) -> &'static str {
        "memory"
    }
}
