//! Options of `sesrec serve`, by what they are about.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{redis_args::RedisArgs, security_args::SecurityArgs};
use crate::{
    engine::EngineOptions,
    history::{HistoryOptions, RedisOptions, StoreUrl},
    nn::DeviceChoice,
    service::{Concurrency, OnStoreOutage, ServerOptions, ServiceOptions, Timeouts},
    telemetry::{logging::LogOptions, rank_log::RankLogOptions, trace::TraceOptions},
    units::{parse_bytes, parse_count, parse_duration, parse_time},
};

/// Options of `sesrec serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Signals: SIGTERM and SIGINT drain and stop; SIGHUP loads the bundle anew, beside the live one, and the tokens.

Try it:  grpcurl -plaintext localhost:50051 describe sesrec.v1.RankingService"
)]
pub struct ServeArgs {
    /// The bundle to serve.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Where gRPC is served. Anybody who can connect may call, unless --tokens or --tls-client-ca ask who it is.
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "ADDRESS")]
    pub listen: String,
    /// Where /metrics, /healthz and /readyz are served; `off` is nowhere.
    #[arg(long, default_value = "127.0.0.1:9464", value_name = "ADDRESS")]
    pub metrics_listen: MetricsListen,
    /// Where histories are kept: memory, embedded:DIR, redis://HOST:PORT (rediss, redis+sentinel, redis+cluster).
    #[arg(long, default_value = "embedded:./sesrec-data", value_name = "STORE")]
    pub store: StoreUrl,
    /// Which device computes: auto, cpu, cuda:N.
    #[arg(long, default_value_t = DeviceChoice::Auto, value_name = "DEVICE")]
    pub device: DeviceChoice,
    #[command(flatten, next_help_heading = "Security")]
    pub(super) security: SecurityArgs,
    #[command(flatten, next_help_heading = "Requests")]
    pub(super) requests: RequestArgs,
    #[command(flatten, next_help_heading = "Histories")]
    pub(super) histories: HistoryArgs,
    #[command(flatten, next_help_heading = "Redis")]
    pub(super) redis: RedisArgs,
    #[command(flatten, next_help_heading = "Engine")]
    pub(super) engine: EngineOptions,
    #[command(flatten, next_help_heading = "Connections")]
    pub(super) connections: ConnectionArgs,
    #[command(flatten, next_help_heading = "Logging")]
    pub(super) log: LogOptions,
    #[command(flatten, next_help_heading = "Traces")]
    pub(super) traces: TraceOptions,
    #[command(flatten, next_help_heading = "Online quality")]
    pub(super) rank_log: RankLogOptions,
}

/// `--metrics-listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsListen {
    /// Nowhere.
    Off,
    /// There: host and port.
    At(String),
}

impl std::str::FromStr for MetricsListen {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "off" { Self::Off } else { Self::At(text.to_owned()) })
    }
}

#[derive(Debug, Args)]
pub(super) struct RequestArgs {
    /// Most candidates of one Rank; more are INVALID_ARGUMENT.
    #[arg(long, default_value_t = ServiceOptions::default().max_candidates, value_parser = parse_count, value_name = "N")]
    max_candidates: usize,
    /// Deadline of unary requests whose caller sets none.
    #[arg(long, default_value = "2s", value_parser = parse_time, value_name = "DURATION")]
    default_timeout: Duration,
    /// Longest deadline that a unary request gets, whatever its caller sets.
    #[arg(long, default_value = "60s", value_parser = parse_time, value_name = "DURATION")]
    max_timeout: Duration,
    /// How long a Rank waits for the history to reach the state of its history_token.
    #[arg(long, default_value = "100ms", value_parser = parse_duration, value_name = "DURATION")]
    token_wait: Duration,
    /// How far an event's time may be ahead of this server's clock; later ones are INVALID_ARGUMENT. An event of a far
    /// future would stay the newest of its user's history for ever.
    #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "DURATION")]
    max_event_lead: Duration,
    /// How long the device may be at one batch before this replica is no longer ready: one that hangs answers nothing,
    /// and fails nothing either.
    #[arg(long, default_value = "10s", value_parser = parse_time, value_name = "DURATION")]
    device_timeout: Duration,
    /// Unary appends at once; more are RESOURCE_EXHAUSTED.
    #[arg(long, default_value_t = Concurrency::default().appends, value_parser = parse_count, value_name = "N")]
    max_appends: usize,
    /// AppendEvents streams at once; more are RESOURCE_EXHAUSTED.
    #[arg(long, default_value_t = Concurrency::default().streams, value_parser = parse_count, value_name = "N")]
    max_streams: usize,
    /// Events of one stream that go to the store in one call, at most.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    stream_window: u32,
    /// Events of all streams that go to the store at once: streams take turns, and are not read meanwhile. As many as
    /// the store takes within a fraction of --store-timeout, since whatever else it is asked waits behind them.
    #[arg(long, default_value_t = Concurrency::default().stream_events, value_parser = parse_count, value_name = "N")]
    max_stream_events: usize,
    /// GetHistory and DeleteHistory at once; more are RESOURCE_EXHAUSTED.
    #[arg(long, default_value_t = Concurrency::default().histories, value_parser = parse_count, value_name = "N")]
    max_history_calls: usize,
}

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Newest recommendation events kept per user; raised to what the model reads.
    #[arg(long, default_value_t = HistoryOptions::default().max_recommendations, value_name = "N")]
    max_recommendations: usize,
    /// Newest searches kept per user; raised to what the model reads.
    #[arg(long, default_value_t = HistoryOptions::default().max_searches, value_name = "N")]
    max_searches: usize,
    /// Clicks kept per search, the earliest, several on one item included; raised to what the model reads.
    #[arg(long, default_value_t = HistoryOptions::default().max_clicks, value_name = "N")]
    max_clicks: usize,
    /// Clicks that wait for their search, per user.
    #[arg(long, default_value_t = HistoryOptions::default().max_pending_clicks, value_name = "N")]
    max_pending_clicks: usize,
    /// Events older than this are dropped and refused as TOO_OLD; `0s` keeps them for ever, as a replay of old logs
    /// needs.
    #[arg(long, default_value = "365d", value_parser = parse_duration, value_name = "DURATION")]
    time_to_live: Duration,
    /// How long the store may take for a call before it counts as unavailable.
    #[arg(long, default_value = "500ms", value_parser = parse_time, value_name = "DURATION")]
    store_timeout: Duration,
    /// How often the store is asked whether it works; readiness follows.
    #[arg(long, default_value = "1s", value_parser = parse_time, value_name = "DURATION")]
    store_ping: Duration,
    /// What Rank answers while the store is away and this replica has no copy of the history.
    #[arg(long, value_enum, default_value_t, value_name = "ANSWER")]
    on_store_outage: OnStoreOutage,
    /// How long a copy of a history may answer (stale_history) after the store confirmed it last; `0s` is never. A user
    /// who was erased through another replica is not served from this one's copy later than that.
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    max_stale: Duration,
    /// Memory for this replica's copies of histories, e.g. "256MiB".
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes, value_name = "BYTES")]
    history_cache_bytes: u64,
}

#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Connections at once; more wait to be accepted. Each is an open file: where the limit of those (ulimit -n) leaves
    /// room for fewer, there are fewer, and the log says so.
    #[arg(long, default_value_t = ServerOptions::default().max_connections, value_parser = parse_count, value_name = "N")]
    max_connections: usize,
    /// Requests and streams at once on one connection.
    #[arg(long, default_value_t = ServerOptions::default().max_concurrent_streams, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrent_streams: u32,
    /// Largest request message; of a stream, 256 KiB where that is less.
    #[arg(long, default_value = "8MiB", value_parser = parse_bytes, value_name = "BYTES")]
    max_message_bytes: u64,
    /// HTTP/2 pings on silent connections, which find half-open ones.
    #[arg(long, default_value = "30s", value_parser = parse_time, value_name = "DURATION")]
    keepalive_interval: Duration,
    /// How long the answer to such a ping may take.
    #[arg(long, default_value = "10s", value_parser = parse_time, value_name = "DURATION")]
    keepalive_timeout: Duration,
    /// After which connections are asked to reconnect and AppendEvents streams end (UNAVAILABLE with RetryInfo, after
    /// the acknowledgement of what was read), so that new replicas get traffic. Default: never.
    #[arg(long, value_parser = parse_time, value_name = "DURATION")]
    max_connection_age: Option<Duration>,
    /// How long running requests and streams may take to end after SIGTERM.
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    drain_timeout: Duration,
    /// How long to go on accepting after SIGTERM, not ready any more, so that load balancers notice first.
    #[arg(long, default_value = "0s", value_parser = parse_duration, value_name = "DURATION")]
    drain_notice: Duration,
}

/// What is served, and how; the addresses are the caller's.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The bundle.
    pub model: PathBuf,
    /// The store.
    pub store: StoreUrl,
    /// The device.
    pub device: DeviceChoice,
    /// Bounds of histories.
    pub history: HistoryOptions,
    /// How Redis is used, where it is the store.
    pub redis: RedisOptions,
    /// The engine.
    pub engine: EngineOptions,
    /// The rank log.
    pub rank_log: RankLogOptions,
    /// The methods.
    pub service: ServiceOptions,
    /// Connections and the drain.
    pub server: ServerOptions,
}

impl ServeOptions {
    /// Defaults for a bundle and a store.
    pub fn new(model: PathBuf, store: StoreUrl) -> Self {
        Self {
            model,
            store,
            device: DeviceChoice::default(),
            history: HistoryOptions::default(),
            redis: RedisOptions::default(),
            engine: EngineOptions::default(),
            rank_log: RankLogOptions::default(),
            service: ServiceOptions::default(),
            server: ServerOptions::default(),
        }
    }
}

impl ServeArgs {
    /// The sections as the parts want them.
    pub(super) fn options(&self) -> anyhow::Result<ServeOptions> {
        let Self { requests, histories, connections, .. } = self;
        let time_to_live = (!histories.time_to_live.is_zero()).then_some(histories.time_to_live);
        Ok(ServeOptions {
            model: self.model.clone(),
            store: self.store.clone(),
            device: self.device,
            history: HistoryOptions {
                max_recommendations: histories.max_recommendations,
                max_searches: histories.max_searches,
                max_clicks: histories.max_clicks,
                max_pending_clicks: histories.max_pending_clicks,
                time_to_live,
            },
            redis: self.redis.options(),
            engine: self.engine.clone(),
            rank_log: self.rank_log.clone(),
            service: ServiceOptions {
                max_candidates: requests.max_candidates,
                max_event_lead: requests.max_event_lead,
                history_time_to_live: time_to_live,
                timeouts: Timeouts {
                    default: requests.default_timeout,
                    maximum: requests.max_timeout,
                    store: histories.store_timeout,
                    token: requests.token_wait,
                    stale: histories.max_stale,
                    stream: connections.max_connection_age,
                    ..Timeouts::default()
                },
                concurrency: Concurrency {
                    appends: requests.max_appends,
                    streams: requests.max_streams,
                    stream_window: requests.stream_window as usize,
                    stream_events: requests.max_stream_events,
                    histories: requests.max_history_calls,
                },
                on_store_outage: histories.on_store_outage,
                history_cache_bytes: histories.history_cache_bytes,
                // Opened when the server starts.
                rank_log: None,
            },
            server: ServerOptions {
                security: self.security.options()?,
                max_connections: connections.max_connections,
                max_concurrent_streams: connections.max_concurrent_streams,
                max_message_bytes: usize::try_from(connections.max_message_bytes).unwrap_or(usize::MAX),
                keepalive_interval: connections.keepalive_interval,
                keepalive_timeout: connections.keepalive_timeout,
                max_connection_age: connections.max_connection_age,
                drain_timeout: connections.drain_timeout,
                drain_notice: connections.drain_notice,
                ping_interval: histories.store_ping,
                device_timeout: requests.device_timeout,
            },
        })
    }
}

/// A port that may be 0; for messages.
pub(super) fn shown(address: std::io::Result<SocketAddr>) -> String {
    address.map_or_else(|_| "?".into(), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    #[test]
    fn flags_default_to_the_defaults() {
        let command = ServeArgs::augment_args(Command::new("serve"));
        let matches = command.get_matches_from(["serve", "--model", "bundle"]);
        let options = ServeArgs::from_arg_matches(&matches).expect("parsed").options().expect("consistent");
        let defaults = ServeOptions::new("bundle".into(), "embedded:./sesrec-data".parse().expect("a store"));
        assert_eq!(format!("{options:?}"), format!("{defaults:?}"));
    }
}
