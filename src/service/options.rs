//! The service's settings, by section.

use std::time::Duration;

use super::{auth::SecurityOptions, convert::DEFAULT_MAX_CANDIDATES};
use crate::{history::HistoryOptions, telemetry::rank_log::RankLog};

/// What the ranking service does with requests.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// Most candidates of one Rank.
    pub max_candidates: usize,
    /// How far an event's time may be ahead of this server's clock.
    pub max_event_lead: Duration,
    /// How long the store keeps a history that nothing is added to; `None` is for ever.
    pub history_time_to_live: Option<Duration>,
    /// How long requests may take.
    pub timeouts: Timeouts,
    /// How much runs at once, besides the engine's own admission.
    pub concurrency: Concurrency,
    /// What Rank answers without store and without a cached history.
    pub on_store_outage: OnStoreOutage,
    /// Memory of last-known histories, in bytes.
    pub history_cache_bytes: u64,
    /// Where a sample of the answers is written.
    pub rank_log: Option<RankLog>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For callers that set no deadline.
    pub default: Duration,
    /// For callers that set a longer one.
    pub maximum: Duration,
    /// A store call, after which the store counts as unavailable.
    pub store: Duration,
    /// How long a Rank waits for the history to reach its token's state: a replica's lag.
    pub token: Duration,
    /// How long after its last confirmation by the store a replica's copy may answer while the store is away. No user
    /// who was erased through another replica is answered from a copy later than that.
    pub stale: Duration,
    /// After which a stream ends, so that its caller's next one may go to a newer replica. `None`: never.
    pub stream: Option<Duration>,
    /// From a message's first byte to its last.
    pub message: Duration,
    /// After which a stream ends whose caller doesn't read its acknowledgements: what it has sent takes room from all
    /// other requests on its connection meanwhile.
    pub unread: Duration,
}

/// How much runs at once.
#[derive(Debug, Clone, Copy)]
pub struct Concurrency {
    /// Unary appends.
    pub appends: usize,
    /// AppendEvents streams.
    pub streams: usize,
    /// Events of one stream that are on their way to the store.
    pub stream_window: usize,
    /// Events of all streams that are: what a store has before it when it is asked something else.
    pub stream_events: usize,
    /// GetHistory and DeleteHistory.
    pub histories: usize,
}

/// What Rank answers when the store can't be reached and no history is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnStoreOutage {
    /// UNAVAILABLE, so that the caller can ask another replica.
    #[default]
    Fail,
    /// Rank as for a user without history, `stale_history` set.
    ColdStart,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            max_candidates: DEFAULT_MAX_CANDIDATES,
            max_event_lead: Duration::from_secs(24 * 3600),
            history_time_to_live: HistoryOptions::default().time_to_live,
            timeouts: Timeouts::default(),
            concurrency: Concurrency::default(),
            on_store_outage: OnStoreOutage::default(),
            history_cache_bytes: 256 << 20,
            rank_log: None,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            default: Duration::from_secs(2),
            maximum: Duration::from_secs(60),
            store: Duration::from_millis(500),
            token: Duration::from_millis(100),
            stale: Duration::from_secs(600),
            stream: None,
            message: Duration::from_secs(10),
            unread: Duration::from_secs(20),
        }
    }
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { appends: 4096, streams: 1024, stream_window: 256, stream_events: 4096, histories: 1024 }
    }
}

/// How the server treats connections.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Who may connect and call.
    pub security: SecurityOptions,
    /// Connections at once; more wait in the listener's backlog.
    pub max_connections: usize,
    /// Requests and streams at once on one connection.
    pub max_concurrent_streams: u32,
    /// Largest request message, in bytes.
    pub max_message_bytes: usize,
    /// HTTP/2 pings on silent connections, so that half-open ones are found.
    pub keepalive_interval: Duration,
    /// How long a ping's answer may take.
    pub keepalive_timeout: Duration,
    /// After which a connection is asked to reconnect, so that new replicas get traffic. `None`: never.
    pub max_connection_age: Option<Duration>,
    /// How long running requests and streams may take to end after the shutdown signal.
    pub drain_timeout: Duration,
    /// How long the server goes on accepting after readiness went away, so that load balancers notice first.
    pub drain_notice: Duration,
    /// How often the store is asked whether it works.
    pub ping_interval: Duration,
    /// How long the device may be at one batch before the replica is not ready.
    pub device_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            security: SecurityOptions::default(),
            max_connections: 10_000,
            max_concurrent_streams: 1024,
            max_message_bytes: 8 << 20,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            max_connection_age: None,
            drain_timeout: Duration::from_secs(20),
            drain_notice: Duration::ZERO,
            ping_interval: Duration::from_secs(1),
            device_timeout: Duration::from_secs(10),
        }
    }
}
