//! Whether this replica should get traffic, shared by gRPC health, `/readyz` and the drain.

use std::sync::Arc;

use tokio::sync::watch;

/// The writing side; clones write to the same state. It begins not ready, "starting".
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<Result<(), String>>>);

/// The reading side.
#[derive(Debug, Clone)]
pub struct ReadinessWatch(watch::Receiver<Result<(), String>>);

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Not ready: "starting".
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Err("starting".into()))))
    }

    /// Traffic may come.
    pub fn ready(&self) {
        self.set(Ok(()));
    }

    /// No traffic, because of `reason`: what `/readyz` answers.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    /// Someone who wants to know.
    pub fn watch(&self) -> ReadinessWatch {
        ReadinessWatch(self.0.subscribe())
    }

    fn set(&self, state: Result<(), String>) {
        self.0.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }
}

impl ReadinessWatch {
    /// Now: `Err` with the reason when not ready.
    pub fn state(&self) -> Result<(), String> {
        self.0.borrow().clone()
    }

    /// Waits for the next change and returns the new state; `None` once nobody can change it any more.
    pub async fn changed(&mut self) -> Option<Result<(), String>> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn watchers_see_changes_only() {
        let readiness = Readiness::new();
        let mut watch = readiness.watch();
        assert_eq!(watch.state(), Err("starting".into()));
        readiness.ready();
        assert_eq!(watch.changed().await, Some(Ok(())));
        readiness.ready();
        readiness.not_ready("draining");
        assert_eq!(watch.changed().await, Some(Err("draining".into())));
        drop(readiness);
        assert_eq!(watch.changed().await, None);
        assert_eq!(watch.state(), Err("draining".into()));
    }
}
