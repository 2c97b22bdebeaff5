//! The contract that every store keeps.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{Deadline, Event, EventTime, HistoryVersion, UserHistoryView, UserId},
    secrets::without_passwords,
};

/// Bounds of a stored history. They are enforced in the same atomic step as every insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryOptions {
    /// Newest recommendation events that are kept; at least the model's maximum.
    pub max_recommendations: usize,
    /// Newest search events that are kept; at least the model's maximum.
    pub max_searches: usize,
    /// Clicks that are kept per search: the earliest.
    pub max_clicks: usize,
    /// Clicks that wait for their search, per user: the newest.
    pub max_pending_clicks: usize,
    /// Events older than this are dropped and refused. `None`: never.
    pub time_to_live: Option<Duration>,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self {
            max_recommendations: 300,
            max_searches: 50,
            max_clicks: 16,
            max_pending_clicks: 64,
            time_to_live: Some(Duration::from_secs(365 * 24 * 3600)),
        }
    }
}

impl HistoryOptions {
    /// The oldest time that is still kept.
    pub(super) fn cutoff(&self, now: EventTime) -> EventTime {
        self.time_to_live.map_or(EventTime::default(), |age| now.saturating_sub(age))
    }
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The history changed.
    Applied,
    /// A replay of a stored event: nothing changed.
    Duplicate,
    /// Older than everything in a full history, past its time to live, erased, or a click for which the bounds leave no
    /// place (its search has the earliest `max_clicks` already, or can't come any more): nothing changed.
    TooOld,
    /// The event_id is stored with another payload or time: nothing changed.
    Conflict,
}

/// An append that the store has, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// What it did.
    pub outcome: Outcome,
    /// The version that reflects it.
    pub version: HistoryVersion,
}

/// A read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// The caller's version is the current one.
    Unchanged,
    /// The history; empty, with version 0, for a user that the store has never seen.
    History(Arc<UserHistoryView>),
    /// What is left of a history whose oldest events are past their time, from a store that can't write that down now:
    /// its version names those, too, so that nothing may be kept under it.
    Unwritten(Arc<UserHistoryView>),
}

/// A store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, or broken: try again. Whether an append took place is unknown; repeating it is safe.
    #[error("history store unavailable: {0}")]
    Unavailable(String),
    /// The deadline passed first. Whether an append took place is unknown; repeating it is safe.
    #[error("history store: deadline exceeded")]
    Deadline,
    /// A value written by a newer version of this program.
    #[error("history store: value has schema version {found}, this program reads up to {supported}: upgrade it")]
    NewerSchema {
        /// Found in the value.
        found: u8,
        /// The newest that is known here.
        supported: u8,
    },
    /// A value that can't be read.
    #[error("history store: corrupt value: {0}")]
    Corrupt(String),
    /// A URL or directory that can't be opened, or not any more.
    #[error("history store: {0}")]
    Config(String),
}

impl StoreError {
    /// Whether the store is away, whatever keeps it: nothing is wrong with what it was asked, and a copy may answer for
    /// it. A store that was open and refuses the password now is away until someone has corrected one of the two.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Config(_))
    }
}

/// Keeps users' histories.
///
/// Whatever the arrival order, a history is the newest `max` events by time, then event_id. An acknowledged append is
/// durable as far as the store's configuration goes, and visible to every later `load`, on any replica.
#[async_trait]
pub trait HistoryStore: Send + Sync + 'static {
    /// Appends events, each in its own atomic step, in order per user; the answers are in the events' order.
    /// Several events in one call share round trips or a group commit, nothing else.
    ///
    /// # Errors
    /// Each event has its own. After [`StoreError::Unavailable`] or [`StoreError::Deadline`] it may be stored all the
    /// same.
    async fn append(&self, events: &[Event], deadline: Deadline) -> Vec<Result<Appended, StoreError>>;

    /// The history of a user, unless it is still at `known`.
    ///
    /// # Errors
    /// If the store is away or too slow for the deadline, or the user's history can't be read.
    async fn load(
        &self,
        user: &UserId,
        known: Option<HistoryVersion>,
        deadline: Deadline,
    ) -> Result<Loaded, StoreError>;

    /// Erases a user. Replays of erased events are `TooOld` from then on.
    ///
    /// # Errors
    /// As [`Self::load`]. The user may be erased all the same where the store was away or too slow.
    async fn delete(&self, user: &UserId, deadline: Deadline) -> Result<HistoryVersion, StoreError>;

    /// Whether the store answers now. (A store that answers may still refuse appends: no room, too few replicas.)
    ///
    /// # Errors
    /// Says why it doesn't.
    async fn ping(&self, deadline: Deadline) -> Result<(), StoreError>;

    /// Flushes and closes; appends that are running get their acknowledgements first.
    async fn close(&self);

    /// "memory", "embedded" or "redis".
    fn kind(&self) -> &'static str;
}

/// Where the time to live and erasure read the time; tests hold it still.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> EventTime;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> EventTime {
        EventTime::now()
    }
}

/// A version of a user's history as callers carry it: opaque text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryToken {
    /// The state that an answer has to reflect.
    pub version: HistoryVersion,
}

impl HistoryToken {
    /// Of a version.
    pub fn new(version: HistoryVersion) -> Self {
        Self { version }
    }

    /// The text for callers.
    pub fn encode(self) -> String {
        format!("h1-{:x}", self.version.0)
    }

    /// Reads what `encode` wrote; `None` for anything else.
    pub fn decode(token: &str) -> Option<Self> {
        let version = token.strip_prefix("h1-")?;
        (version.len() <= 16 && version.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| u64::from_str_radix(version, 16).ok())
            .flatten()
            .map(|version| Self { version: HistoryVersion(version) })
    }
}

/// Which store, as on the command line.
#[derive(Clone)]
pub enum StoreUrl {
    /// `memory`: lost when the process ends.
    Memory,
    /// `embedded:DIR`.
    Embedded(std::path::PathBuf),
    /// `redis://…`, `rediss://…`, `redis+sentinel://…`, `redis+cluster://…` (and `rediss+…`).
    Redis(String),
}

impl std::fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory => f.write_str("Memory"),
            Self::Embedded(dir) => f.debug_tuple("Embedded").field(dir).finish(),
            Self::Redis(url) => f.debug_tuple("Redis").field(&without_passwords(url)).finish(),
        }
    }
}

impl std::str::FromStr for StoreUrl {
    type Err = StoreError;

    fn from_str(url: &str) -> Result<Self, StoreError> {
        match url.split_once(':') {
            None if url == "memory" => Ok(Self::Memory),
            Some(("embedded", dir)) if !dir.is_empty() => Ok(Self::Embedded(dir.into())),
            Some((scheme, _)) if scheme.starts_with("redis") => Ok(Self::Redis(url.to_owned())),
            // What follows may hold a password.
            _ => Err(StoreError::Config(format!(
                "{:?} is none of: memory, embedded:DIRECTORY, redis://HOST:PORT (or rediss, redis+sentinel, redis+cluster)",
                url.split(':').next().unwrap_or_default()
            ))),
        }
    }
}

/// Opens a store; `redis` counts where the URL names a Redis.
///
/// # Errors
/// As the store's own `open` or `connect`.
pub async fn open(
    url: &StoreUrl,
    options: HistoryOptions,
    redis: super::RedisOptions,
) -> Result<Arc<dyn HistoryStore>, StoreError> {
    let clock = Arc::new(SystemClock);
    Ok(match url {
        StoreUrl::Memory => Arc::new(super::MemoryStore::new(options, clock)),
        StoreUrl::Embedded(dir) => {
            // A large journal takes a while to read: not on the async threads.
            let dir = dir.clone();
            let opening = tokio::task::spawn_blocking(move || super::EmbeddedStore::open(&dir, options, clock));
            let opened = opening.await.map_err(|failed| StoreError::Config(format!("opening failed: {failed}")))?;
            Arc::new(opened?)
        }
        StoreUrl::Redis(url) => Arc::new(super::RedisStore::connect(url, redis, options).await?),
    })
}
