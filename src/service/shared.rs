//! What all methods work with, and the reads and waits that they have in common.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Request;

use super::{ServiceError, ServiceOptions, errors::store_failure, last_known::LastKnown};
use crate::{
    domain::{Deadline, HistoryVersion, UserHistoryView, UserId},
    engine::{Engine, ModelSlot},
    history::{HistoryStore, Loaded, StoreError},
    telemetry::{Metrics, StoreOperation},
};

/// The ranking service. A clone is a handle on the same service.
#[derive(Clone)]
pub struct RankingServer {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) store: Arc<dyn HistoryStore>,
    pub(super) engine: Engine,
    pub(super) slot: Arc<ModelSlot>,
    pub(super) metrics: Metrics,
    pub(super) options: ServiceOptions,
    pub(super) last_known: LastKnown,
    pub(super) appends: Semaphore,
    pub(super) streams: Arc<Semaphore>,
    /// Cancelled when the server drains: streams stop reading.
    pub(super) draining: CancellationToken,
    /// Requests and streams that run.
    pub(super) running: TaskTracker,
}

impl RankingServer {
    /// A service over a store and an engine, which answers from the slot's live model.
    pub fn new(
        store: Arc<dyn HistoryStore>,
        engine: Engine,
        slot: Arc<ModelSlot>,
        metrics: Metrics,
        options: ServiceOptions,
    ) -> Self {
        let shared = Shared {
            last_known: LastKnown::new(options.history_cache_bytes),
            appends: Semaphore::new(options.concurrency.appends),
            streams: Arc::new(Semaphore::new(options.concurrency.streams)),
            draining: CancellationToken::new(),
            running: TaskTracker::new(),
            store,
            engine,
            slot,
            metrics,
            options,
        };
        Self { shared: Arc::new(shared) }
    }
}

/// When a request came and when its answer is due; put into its extensions by `layer`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    /// `None` for streams without a deadline of their caller's.
    pub(super) deadline: Option<Deadline>,
}

impl Arrival {
    /// Of a request that came through the layer (or of one made in a test without it: now, with the default timeout).
    pub(super) fn of<T>(request: &Request<T>, shared: &Shared) -> (Instant, Deadline) {
        let arrival = request.extensions().get::<Self>().copied();
        let at = arrival.map_or_else(Instant::now, |arrival| arrival.at);
        let default = || Deadline::after(shared.options.timeouts.default);
        (at, arrival.and_then(|arrival| arrival.deadline).unwrap_or_else(default))
    }
}

/// A stored history and whether the store vouches for it.
pub(super) struct StoredHistory {
    pub(super) view: Arc<UserHistoryView>,
    pub(super) freshness: Freshness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As the store has it.
    Current,
    /// This replica's last copy, or none: the store could not be reached.
    Stale,
}

impl Shared {
    /// The history of a user at `at_least` or a later version.
    pub(super) async fn history(
        &self,
        user: &UserId,
        at_least: HistoryVersion,
        deadline: Deadline,
    ) -> Result<StoredHistory, ServiceError> {
        let token_deadline = Instant::now() + self.options.timeouts.token;
        let mut pause = Duration::from_millis(1);
        loop {
            let known = self.last_known.get(user);
            let view = match self.load(user, known.as_deref(), deadline).await {
                Ok(Loaded::Unchanged) => known.unwrap_or_default(),
                Ok(Loaded::History(view)) => {
                    // A user that the store has never seen is not worth a place.
                    if view.version > HistoryVersion::default() {
                        self.last_known.keep(user, &view);
                    }
                    view
                }
                Err(ServiceError::Store(error @ StoreError::Unavailable(_))) => {
                    return match known.filter(|known| known.version >= at_least) {
                        Some(view) => Ok(StoredHistory { view, freshness: Freshness::Stale }),
                        None => Err(error.into()),
                    };
                }
                Err(error) => return Err(error),
            };
            if view.version >= at_least {
                return Ok(StoredHistory { view, freshness: Freshness::Current });
            }
            // The read may have come from a Redis replica that lags by milliseconds: worth a few more looks, no more.
            let next = Instant::now() + pause;
            if next > token_deadline || next > deadline.instant() {
                return Err(ServiceError::TokenAhead { wanted: at_least, stored: view.version });
            }
            tokio::time::sleep_until(next).await;
            pause *= 2;
        }
    }

    async fn load(
        &self,
        user: &UserId,
        known: Option<&UserHistoryView>,
        deadline: Deadline,
    ) -> Result<Loaded, ServiceError> {
        let known = known.map(|known| known.version);
        let store_deadline = self.store_deadline(deadline);
        self.store_call(StoreOperation::Load, deadline, self.store.load(user, known, store_deadline)).await
    }

    /// Until when a store call may take: the request's deadline, or the patience for the store if that ends sooner.
    pub(super) fn store_deadline(&self, deadline: Deadline) -> Deadline {
        deadline.min(Deadline::after(self.options.timeouts.store))
    }

    /// A counted store call. One that outlasts the store's timeout while the request still has time counts as an
    /// unavailable store: a stalled one must not look like a slow caller.
    pub(super) async fn store_call<T>(
        &self,
        operation: StoreOperation,
        deadline: Deadline,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, ServiceError> {
        let guard = self.metrics.store_call(operation);
        // Stores keep the deadline themselves; this one holds if a store should not.
        let result =
            timeout_at(self.store_deadline(deadline).instant(), call).await.unwrap_or(Err(StoreError::Deadline));
        guard.finish(result.as_ref().map(|_| ()).map_err(store_failure));
        result.map_err(|error| self.blame(error, deadline))
    }

    /// Whose fault a passed deadline is.
    pub(super) fn blame(&self, error: StoreError, deadline: Deadline) -> ServiceError {
        match error {
            StoreError::Deadline if deadline.is_past() => ServiceError::DeadlineExceeded,
            StoreError::Deadline => {
                let limit = self.options.timeouts.store;
                ServiceError::Store(StoreError::Unavailable(format!("no answer within {limit:?}")))
            }
            error => ServiceError::Store(error),
        }
    }
}
