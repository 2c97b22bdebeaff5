//! What all methods work with, and the reads and waits that they have in common.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request};

use super::{
    OnStoreOutage, ServiceError, ServiceOptions,
    errors::store_failure,
    last_known::{Known, KnownHistory, LastKnown},
    receive::Gone,
};
use crate::{
    data::Featurized,
    domain::{Deadline, EventTime, HistoryVersion, UserId},
    engine::{Engine, LoadedModel, ModelSlot},
    history::{HistoryStore, Loaded, StoreError},
    telemetry::{Metrics, Rejection, RequestGuard, Rpc, StoreFailure, StoreOperation, Throttle},
};

/// How long a read may take while the probe says that the store is away: enough for a store that has just come back,
/// and little enough that an outage doesn't slow down every Rank.
const OUTAGE_PATIENCE: Duration = Duration::from_millis(30);

/// An outage's line for every Rank would bury what caused it.
static WITHOUT_HISTORY: Throttle = Throttle::new();

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
    /// What the readiness probe found last.
    pub(super) store_away: AtomicBool,
    pub(super) appends: Semaphore,
    pub(super) streams: Arc<Semaphore>,
    /// Places for events of streams on their way to the store.
    pub(super) stream_events: Semaphore,
    pub(super) histories: Semaphore,
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
            last_known: LastKnown::new(options.history_cache_bytes, &metrics),
            store_away: AtomicBool::new(false),
            appends: Semaphore::new(options.concurrency.appends),
            streams: Arc::new(Semaphore::new(options.concurrency.streams)),
            stream_events: Semaphore::new(options.concurrency.stream_events),
            histories: Semaphore::new(options.concurrency.histories),
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

/// What counts a request until its end. Dropped without [`finish`](Self::finish), it was cancelled.
pub(super) struct Counted {
    guard: RequestGuard,
    gone: Gone,
}

impl Counted {
    /// It was answered, unless its caller had gone before asking for all of it.
    pub(super) fn finish(self, code: Code) {
        if !self.gone.is_set() {
            self.guard.finish(code);
        }
    }
}

/// Put into a request's extensions by `layer`, for a stream to take over.
#[derive(Clone)]
pub(super) struct CountedRequest(Arc<Mutex<Option<Counted>>>);

impl CountedRequest {
    pub(super) fn new(guard: RequestGuard, gone: Gone) -> Self {
        Self(Arc::new(Mutex::new(Some(Counted { guard, gone }))))
    }

    /// Whoever takes it finishes it.
    pub(super) fn take(&self) -> Option<Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes over that of a request that came through the layer (or of one made in a test without it).
    pub(super) fn of<T>(request: &Request<T>, shared: &Shared, rpc: Rpc) -> Counted {
        let counted = request.extensions().get::<Self>().and_then(Self::take);
        counted.unwrap_or_else(|| Counted { guard: shared.metrics.request(rpc), gone: Gone::default() })
    }
}

/// A stored history and whether the store vouches for it.
pub(super) struct StoredHistory {
    pub(super) known: Arc<KnownHistory>,
    pub(super) freshness: Freshness,
    /// Whether its version identifies exactly this content: only then may anything derived from it be cached.
    pub(super) cacheable: bool,
}

impl StoredHistory {
    /// What stands in for a store that is away. A copy is a state that the user once had: as cacheable as a current
    /// one. No copy at all is version 0.
    fn stale(known: Arc<KnownHistory>) -> Self {
        Self { known, freshness: Freshness::Stale, cacheable: true }
    }

    /// What a model sees of it; it is `user`'s.
    pub(super) fn seen(&self, user: &UserId, model: &LoadedModel) -> Arc<Featurized> {
        let KnownHistory { view, .. } = &*self.known;
        self.known.seen(&model.info.version, || model.featurizer.features(user, &view.history))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As the store has it.
    Current,
    /// This replica's last copy, or none: the store could not be reached.
    Stale,
}

/// What a caller takes instead while the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    /// This replica's copy of the history.
    Copy,
    /// The copy, or without one an empty history, where the operator prefers that to an error.
    CopyOrColdStart,
}

impl Shared {
    /// The history of a user at `at_least` or a later version.
    pub(super) async fn history(
        &self,
        user: &UserId,
        at_least: HistoryVersion,
        deadline: Deadline,
        fallback: Fallback,
    ) -> Result<StoredHistory, ServiceError> {
        // A request for a certain state is not answered without any.
        let cold_start = fallback == Fallback::CopyOrColdStart
            && self.options.on_store_outage == OnStoreOutage::ColdStart
            && at_least == HistoryVersion::default();
        let token_deadline = Instant::now() + self.options.timeouts.token;
        let mut pause = Duration::from_millis(1);
        loop {
            let known = self.last_known.get(user);
            let usable = |known: &Known| {
                known.history.view.version >= at_least && known.confirmed.elapsed() < self.options.timeouts.stale
            };
            // Where there is something to fall back to, half of the request's time stays for it: a stalled store must
            // not use up all the time of callers that have less than its timeout.
            let has_fallback = cold_start || known.as_ref().is_some_and(usable);
            let due = if has_fallback { Deadline::after(deadline.remaining() / 2) } else { deadline };
            let patience = self.read_deadline(due);
            let started = Instant::now();
            let known_version = known.as_ref().map(|known| known.history.view.version);
            let load = self.store.load(user, known_version, patience);
            let (read, cacheable) = match self.store_call_until(StoreOperation::Load, patience, deadline, load).await {
                Ok(Loaded::Unchanged) => (known.map(|known| known.history).unwrap_or_default(), true),
                Ok(Loaded::History(view)) => (Arc::new(KnownHistory::new(view)), true),
                Ok(Loaded::Unwritten(view)) => (Arc::new(KnownHistory::new(view)), false),
                Err(ServiceError::Store(error)) if error.is_outage() => {
                    return match known.filter(usable) {
                        Some(known) => Ok(StoredHistory::stale(known.history)),
                        None if cold_start => {
                            if let Some(more) = WITHOUT_HISTORY.pass(std::time::Instant::now()) {
                                tracing::warn!(%error, more, "ranking without history");
                            }
                            Ok(StoredHistory::stale(Arc::default()))
                        }
                        None => Err(error.into()),
                    };
                }
                Err(error) => return Err(error),
            };
            let version = read.view.version;
            if cacheable {
                // A user of whom the store has nothing is not worth a place, and a copy of what expired must not
                // answer.
                if version > HistoryVersion::default() {
                    self.last_known.keep(user, &read, started);
                } else if known_version.is_some() {
                    self.last_known.forget(user);
                }
            }
            let time_to_live = self.options.history_time_to_live;
            if version >= at_least || has_expired(version, at_least, time_to_live, EventTime::now()) {
                return Ok(StoredHistory { known: read, freshness: Freshness::Current, cacheable });
            }
            // The read may have come from a Redis replica that lags by milliseconds: worth a few more looks, no more.
            let next = Instant::now() + pause;
            if next > token_deadline || next > deadline.instant() {
                return Err(ServiceError::TokenAhead { wanted: at_least, stored: version });
            }
            tokio::time::sleep_until(next).await;
            pause *= 2;
        }
    }

    /// Until when a read that is due at `due` may take: less where the probe says that the store is away.
    fn read_deadline(&self, due: Deadline) -> Deadline {
        let due = self.store_deadline(due);
        if self.store_away.load(Ordering::Relaxed) { due.min(Deadline::after(OUTAGE_PATIENCE)) } else { due }
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
        self.store_call_until(operation, self.store_deadline(deadline), deadline, call).await
    }

    /// The same with a patience of the caller's choice.
    pub(super) async fn store_call_until<T>(
        &self,
        operation: StoreOperation,
        patience: Deadline,
        deadline: Deadline,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, ServiceError> {
        let guard = self.metrics.store_call(operation);
        // Stores keep the deadline themselves; this one holds if a store should not.
        let result = timeout_at(patience.instant(), call).await.unwrap_or(Err(StoreError::Deadline));
        guard.finish(result.as_ref().map(|_| ()).map_err(|error| failure(error, deadline)));
        result.map_err(|error| self.blame(error, deadline))
    }

    /// A place for one more call of a kind, or its refusal, at once.
    pub(super) fn place<'a>(
        &self,
        places: &'a Semaphore,
        reason: Rejection,
        refusal: &'static str,
    ) -> Result<SemaphorePermit<'a>, ServiceError> {
        places.try_acquire().map_err(|_| self.refused(reason, refusal))
    }

    /// The refusal of a call for which there is no place, counted.
    pub(super) fn refused(&self, reason: Rejection, refusal: &'static str) -> ServiceError {
        self.metrics.rejected(reason);
        ServiceError::Busy(refusal)
    }

    /// Whose fault a passed deadline is.
    pub(super) fn blame(&self, error: StoreError, deadline: Deadline) -> ServiceError {
        match error {
            StoreError::Deadline if deadline.is_past() => ServiceError::DeadlineExceeded,
            StoreError::Deadline => ServiceError::Store(StoreError::Unavailable("no answer in time".into())),
            error => ServiceError::Store(error),
        }
    }
}

/// As what a failed store call of a request counts. That its caller had no more time is no fault of the store's.
pub(super) fn failure(error: &StoreError, deadline: Deadline) -> StoreFailure {
    match error {
        StoreError::Deadline if deadline.is_past() => StoreFailure::Cancelled,
        error => store_failure(error),
    }
}

/// Whether the store has nothing of a user any more because nothing was added since a state as old as `at_least`. That
/// is a later state than any that a token can ask for.
fn has_expired(
    stored: HistoryVersion,
    at_least: HistoryVersion,
    time_to_live: Option<Duration>,
    now: EventTime,
) -> bool {
    let expired = |age| at_least < HistoryVersion::of_change_at(now.saturating_sub(age));
    stored == HistoryVersion::default() && time_to_live.is_some_and(expired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_older_than_the_time_to_live_asks_for_nothing_more() {
        let hour = Some(Duration::from_secs(3600));
        let now = EventTime::from_millis(10_000_000).expect("a time");
        let ago = |seconds: u64| HistoryVersion((10_000 - seconds) * 1_000_000);
        let nothing = HistoryVersion::default();
        assert!(has_expired(nothing, ago(3601), hour, now));
        assert!(!has_expired(nothing, ago(3599), hour, now), "it can't have expired: the store lost it");
        assert!(!has_expired(nothing, ago(3601), None, now));
        assert!(!has_expired(ago(4000), ago(3601), hour, now), "an older state is not an expired one");
        assert!(!has_expired(nothing, HistoryVersion(u64::MAX), hour, now));
    }
}
