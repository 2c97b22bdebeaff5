//! Stub.
use super::{Appended, Clock, HistoryOptions, HistoryStore, Loaded, StoreError};
use crate::domain::{Deadline, Event, HistoryVersion, UserId};
use async_trait::async_trait;
use std::sync::Arc;
/// Stub.
pub struct EmbeddedStore;
impl EmbeddedStore {
    /// Stub.
    pub fn open(_: &std::path::Path, _: HistoryOptions, _: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Ok(Self)
    }
}
#[async_trait]
impl HistoryStore for EmbeddedStore {
    async fn append(&self, events: &[Event], _: Deadline) -> Vec<Result<Appended, StoreError>> {
        events.iter().map(|_| Err(StoreError::Config("stub".into()))).collect()
    }
    async fn load(&self, _: &UserId, _: Option<HistoryVersion>, _: Deadline) -> Result<Loaded, StoreError> {
        Err(StoreError::Config("stub".into()))
    }
    async fn delete(&self, _: &UserId, _: Deadline) -> Result<HistoryVersion, StoreError> {
        Err(StoreError::Config("stub".into()))
    }
    async fn ping(&self, _: Deadline) -> Result<(), StoreError> {
        Ok(())
    }
    async fn close(&self) {}
    fn kind(&self) -> &'static str {
        "stub"
    }
}
