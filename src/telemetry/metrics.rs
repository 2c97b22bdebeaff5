//! Every metric of the service, with a help text that says when to look at it.
//!
//! Names follow Prometheus: base units, `_total` for counters, one prefix. Handles are typed; counting is a method call
//! with an enum, never with a string.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{
        MetricType,
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Metric, Registry},
};
use tonic::Code;

use super::{descriptors::Descriptors, drift::ScoreDrift, guards::code_name, labels::*, memory::Memory};

type FloatCounter = Counter<f64, std::sync::atomic::AtomicU64>;
type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// 50 µs to 20 s, finest between 0.2 and 50 ms, where requests live.
const SECONDS: [f64; 23] = [
    50e-6, 1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1,
    0.2, 0.5, 1.0, 5.0, 20.0,
];
/// Event time to acknowledgement: from a live stream (milliseconds) to a replayed archive (a month).
const LAG_SECONDS: [f64; 13] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0, 21_600.0, 86_400.0, 2_592_000.0];
const COUNTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// Probabilities, finest near 0, where those of clicks are.
const SCORES: [f64; 16] = [0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 0.99];
const CANDIDATES: [f64; 12] =
    [1.0, 10.0, 32.0, 100.0, 320.0, 1000.0, 2000.0, 4000.0, 8000.0, 16_000.0, 64_000.0, 256_000.0];

/// Codes whose series exist before they happen.
const FREQUENT_CODES: [Code; 9] = [
    Code::Ok,
    Code::Cancelled,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Unavailable,
    Code::Internal,
    Code::DataLoss,
];

/// All metrics. A clone is a handle on the same numbers.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

/// Where a Rank's time went; disjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestStages {
    /// Waiting for the device.
    pub queue: Duration,
    /// Reading the history.
    pub history: Duration,
    /// History to user state.
    pub encode: Duration,
    /// User state and candidates to scores.
    pub score: Duration,
    /// The rest.
    pub other: Duration,
}

/// What one batch of the engine was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BatchSize {
    /// Requests.
    pub requests: usize,
    /// Users that had to be encoded.
    pub encoded_users: usize,
    /// Candidates of all requests.
    pub candidates: usize,
    /// History events that were encoded.
    pub tokens: usize,
    /// Positions that padding to the longest history added.
    pub padding: usize,
}

/// A family per field.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) registry: Registry,
    pub(super) memory: Memory,
    pub(super) requests: Family<RpcCodeLabels, Counter>,
    pub(super) in_flight: Family<RpcLabel, Gauge>,
    pub(super) request_seconds: Histograms<RpcLabel>,
    pub(super) cancelled: Family<RpcLabel, Counter>,
    pub(super) connections: Gauge,
    certificate_end: LateGauge,
    handshake_failures: Counter,
    rejected: Family<ReasonLabel, Counter>,
    stage_seconds: Histograms<StageLabel>,
    cold_starts: Counter,
    unknown_users: Counter,
    scores: Histogram,
    score_drift: FloatGauge,
    drift: Mutex<ScoreDrift>,
    stale_answers: Counter,
    tokens_ahead: Counter,
    items: Family<PlaceLabel, Counter>,
    unknown_items: Family<PlaceLabel, Counter>,
    searches: Counter,
    unknown_searches: Counter,
    admitted_requests: Gauge,
    admitted_candidates: Gauge,
    queued_requests: Gauge,
    queued_candidates: Gauge,
    abandoned: Family<AbandonedLabels, Counter>,
    batch_requests: Histogram,
    batch_encoded_users: Histogram,
    batch_candidates: Histogram,
    tokens: Counter,
    padding: Counter,
    device_seconds: Family<StageLabel, FloatCounter>,
    model_failures: Counter,
    cache_hits: Counter,
    cache_misses: Counter,
    cache_evictions: Counter,
    cache_bytes: Gauge,
    cache_entries: Gauge,
    history_cache_evictions: Counter,
    history_cache_bytes: Gauge,
    history_cache_entries: Gauge,
    pub(super) store_seconds: Histograms<OperationLabel>,
    pub(super) store_errors: Family<StoreFailureLabels, Counter>,
    events: Family<OutcomeLabel, Counter>,
    history_lag: Histogram,
    rank_log: Family<OutcomeLabel, Counter>,
    log_dropped: Counter,
    ready: Gauge,
    model: Family<ModelLabels, Gauge>,
    model_loaded: FloatGauge,
    model_load: FloatGauge,
    model_swaps: Counter,
    /// The live model's version, once there is one.
    live: Mutex<Option<String>>,
    reload_failures: Family<WhatLabel, Counter>,
}

/// A gauge that isn't exported while it isn't set: where the thing isn't, 0 would be a lie.
#[derive(Debug, Clone, Default)]
struct LateGauge(Arc<Mutex<Option<i64>>>);

impl LateGauge {
    fn set(&self, value: Option<i64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn get(&self) -> Option<i64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncodeMetric for LateGauge {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        match self.get() {
            Some(value) => ConstGauge::new(value).encode(encoder),
            None => Ok(()),
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.get().is_none()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    #[rustfmt::skip] // one metric, one line
    pub fn new() -> Self {
        let (mut registry, memory) = (Registry::default(), Memory::default());
        registry.register_collector(Box::new(memory.clone()));
        registry.register_collector(Box::new(Descriptors));
        let r = registry.sub_registry_with_prefix("sesrec");
        let inner = Inner {
            memory,
            requests: add(r, "requests", "Requests by method and gRPC code. Look here first: the rate of codes other than OK is the error rate", Family::default()),
            in_flight: add(r, "requests_in_flight", "Requests and streams being answered. Look when latency rises: growth without a growing rate means that something downstream is stuck", Family::default()),
            request_seconds: add(r, "request_duration_seconds", "Time from a unary request's arrival to its answer. Alert on its p99; then see sesrec_rank_stage_duration_seconds for where it went", seconds_by()),
            cancelled: add(r, "requests_cancelled", "Requests whose caller went away first. Look when callers report timeouts that this server does not: their deadline is shorter than its latency", Family::default()),
            connections: add(r, "connections", "Open connections of callers: of the gRPC port, not of the metrics port. Near --max-connections (or process_max_fds less 256), further callers wait until one closes: add replicas, or raise both", Gauge::default()),
            certificate_end: add(r, "tls_certificate_expiry_timestamp_seconds", "When the certificate of --tls-certificate ends, in Unix time; only where TLS is on. Alert two weeks before: from then on callers refuse it. Renew the file, which is read anew within a minute", LateGauge::default()),
            handshake_failures: add(r, "tls_handshake_failures", "Connections that ended before their TLS handshake did. A steady rate: callers that don't trust the certificate or have none that is trusted, or speak no TLS; the log says at debug which", Counter::default()),
            rejected: add(r, "requests_rejected", "Requests refused at once with RESOURCE_EXHAUSTED or UNAVAILABLE, by reason. A steady rate means too few replicas for the load, or for reasons unauthenticated and permission_denied, a caller with the wrong token", Family::default()),
            stage_seconds: add(r, "rank_stage_duration_seconds", "A Rank's time by disjoint stage. High queue: add replicas. High history: see the store. High encode: cache misses. High score: long candidate lists", seconds_by()),
            cold_starts: add(r, "rank_cold_starts", "Ranks of users without any history. A rise means that events are not arriving, or that user ids differ between logs and requests", Counter::default()),
            unknown_users: add(r, "rank_unknown_users", "Ranks of users that the model was not trained on: they get the mean user embedding. A steady rise is growth, and says when to train anew; a jump means that user ids changed", Counter::default()),
            scores: add(r, "rank_score", "Scores of answers, a few per Rank. Look after a model swap: a shape that moves without one means other inputs", Histogram::new(SCORES)),
            score_drift: add(r, "rank_score_drift", "Population stability index of the last ten thousand scores against the first ten thousand of the live model. Above 0.1: look at what changed in candidates or histories; above 0.25: the model sees another world than at its start", FloatGauge::default()),
            drift: Mutex::default(),
            stale_answers: add(r, "rank_stale_answers", "Ranks answered from a cached history, or with --on-store-outage cold-start from none, because the store could not be reached. Anything but zero: look at the store", Counter::default()),
            tokens_ahead: add(r, "rank_tokens_ahead", "Ranks that failed since the store has not reached the state of their history_token. A share that stays: the store has lost what it acknowledged, or replicas don't share one", Counter::default()),
            items: add(r, "items_seen", "Items of ranked requests that were looked up, by place (of histories the newest): what sesrec_items_unknown_total is a share of", Family::default()),
            unknown_items: add(r, "items_unknown", "Items that the model's catalogue does not have, by place. A rise is the first sign of an old model or a broken pipeline: train anew", Family::default()),
            searches: add(r, "searches_seen", "Searches in the histories of ranked requests: what sesrec_searches_unknown_total is a share of", Counter::default()),
            unknown_searches: add(r, "searches_unknown", "Searches of which the model knows neither the query nor any word. A rise: another language, another tokenizer, or a model too old for the queries", Counter::default()),
            admitted_requests: add(r, "engine_admitted_requests", "Ranks under way: reading their history, waiting for the device or computed. Near --max-queued-requests, requests are about to be rejected; if few of them are queued, it is the store that is slow", Gauge::default()),
            admitted_candidates: add(r, "engine_admitted_candidates", "Candidates of the Ranks under way, bounded by --max-queued-candidates", Gauge::default()),
            queued_requests: add(r, "engine_queued_requests", "Ranks waiting for the device now. Growth: the device is too slow for the load", Gauge::default()),
            queued_candidates: add(r, "engine_queued_candidates", "Candidates of the waiting Ranks", Gauge::default()),
            abandoned: add(r, "engine_abandoned", "Ranks that nobody waited for any more, by reason and phase. Those of phase queued cost no model time; many of phase computing mean deadlines near the model's own time", Family::default()),
            batch_requests: add(r, "engine_batch_requests", "Requests per batch on the device. Always 1 under load: the batch budget is too small for your requests", Histogram::new(COUNTS)),
            batch_encoded_users: add(r, "engine_batch_encoded_users", "Users encoded per batch; 0 where all were cached", Histogram::new([0.0].into_iter().chain(COUNTS))),
            batch_candidates: add(r, "engine_batch_candidates", "Candidates per batch", Histogram::new(CANDIDATES)),
            tokens: add(r, "engine_encoded_events", "History events encoded", Counter::default()),
            padding: add(r, "engine_padding_events", "Positions computed only because histories of a batch differ in length. padding / (padding + encoded) above a half: lower the batch budget", Counter::default()),
            device_seconds: add(r, "engine_device_seconds", "Time that device threads spent on batches, by stage; score with the explanations that were asked for. Its rate divided by the number of threads is the utilisation; near 1, add replicas", Family::default()),
            model_failures: add(r, "engine_model_failures", "Calls of the model that failed or panicked. Anything but zero: see the log for the shapes, and the bundle", Counter::default()),
            cache_hits: add(r, "user_cache_hits", "Ranks whose user was encoded already", Counter::default()),
            cache_misses: add(r, "user_cache_misses", "Ranks whose user had to be encoded. A low share of hits at the byte limit: raise --user-cache-bytes", Counter::default()),
            cache_evictions: add(r, "user_cache_evictions", "Encoded users dropped for room", Counter::default()),
            cache_bytes: add(r, "user_cache_bytes", "Memory of encoded users", Gauge::default()),
            cache_entries: add(r, "user_cache_entries", "Encoded users in memory", Gauge::default()),
            history_cache_evictions: add(r, "history_cache_evictions", "Copies of histories dropped for room. A steady rate: fewer users than are active have a copy to answer from while the store is away: raise --history-cache-bytes", Counter::default()),
            history_cache_bytes: add(r, "history_cache_bytes", "Memory of this replica's copies of histories, bounded by --history-cache-bytes", Gauge::default()),
            history_cache_entries: add(r, "history_cache_entries", "Users with a copy of their history in memory: those whom this replica can still answer while the store is away. Few beside the active users: raise --history-cache-bytes", Gauge::default()),
            store_seconds: add(r, "store_duration_seconds", "Time of history store calls by operation. Look when the history stage or appends are slow", seconds_by()),
            store_errors: add(r, "store_errors", "Failed history store calls by operation and kind. unavailable: the store is down; deadline: it is slow; corrupt, newer_schema: see the log", Family::default()),
            events: add(r, "events_appended", "Events by what became of them. Many too_old: the stream lags behind; many conflict: event ids are not unique; failed: not acknowledged, the sender must repeat them", Family::default()),
            history_lag: add(r, "history_lag_seconds", "From an event's time to its acknowledgement. Growth: the pipeline before this server lags", Histogram::new(LAG_SECONDS)),
            rank_log: add(r, "rank_log", "Lines of the rank log by what became of them. dropped: its disk is slower than the sample; failed: see the log. Neither slows a Rank", Family::default()),
            log_dropped: add(r, "log_dropped_lines", "Lines of the log that were dropped, since whoever reads standard error fell behind or stands still: see the log driver", Counter::default()),
            ready: add(r, "ready", "1 while this replica answers that traffic may come (/readyz, gRPC health), else 0. 0 for minutes: /readyz and the log say why", Gauge::default()),
            model: add(r, "model_info", "1 for the live model: its bundle's name and version, architecture and device", Family::default()),
            model_loaded: add(r, "model_loaded_timestamp_seconds", "When the live model was loaded, in Unix time; loading the same version again moves nothing. time() minus this is its age: alert when retraining should have replaced it", FloatGauge::default()),
            model_load: add(r, "model_load_duration_seconds", "How long loading and warming the live model took: what a new replica needs before it is ready", FloatGauge::default()),
            model_swaps: add(r, "model_swaps", "Models of another version swapped in while running", Counter::default()),
            live: Mutex::default(),
            reload_failures: add(r, "reload_failures", "What could not be read anew, by what: the model, the tokens or the certificate that were there stay. Anything but zero: the log names the file", Family::default()),
            registry: {
                let build: Family<BuildLabels, Gauge> = add(r, "build_info", "1; the labels say which build this is", Family::default());
                let target = platform(std::env::consts::ARCH, std::env::consts::OS);
                let features = if cfg!(feature = "cuda") { "cuda" } else { "" };
                build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION"), target, features }).set(1);
                registry
            },
        };
        let metrics = Self(Arc::new(inner));
        metrics.create_series();
        metrics
    }

    /// Series exist from the start, at zero: a rate over a series that appears with its first error misses that error.
    fn create_series(&self) {
        let m = &self.0;
        for rpc in Rpc::ALL.iter().map(|rpc| rpc.label()) {
            touch(&m.in_flight, &RpcLabel { rpc });
            touch(&m.cancelled, &RpcLabel { rpc });
            for code in FREQUENT_CODES.map(code_name) {
                touch(&m.requests, &RpcCodeLabels { rpc, code });
            }
            touch(&m.request_seconds, &RpcLabel { rpc });
        }
        for reason in Rejection::ALL.iter().map(|reason| reason.label()) {
            touch(&m.rejected, &ReasonLabel { reason });
        }
        for stage in Stage::ALL.iter().map(|stage| stage.label()) {
            touch(&m.stage_seconds, &StageLabel { stage });
        }
        for stage in [Stage::Encode.label(), Stage::Score.label()] {
            touch(&m.device_seconds, &StageLabel { stage });
        }
        for place in ItemPlace::ALL.iter().map(|place| place.label()) {
            touch(&m.items, &PlaceLabel { place });
            touch(&m.unknown_items, &PlaceLabel { place });
        }
        for reason in Abandoned::ALL.iter().map(|reason| reason.label()) {
            for phase in Phase::ALL.iter().map(|phase| phase.label()) {
                touch(&m.abandoned, &AbandonedLabels { reason, phase });
            }
        }
        for operation in StoreOperation::ALL.iter().map(|operation| operation.label()) {
            touch(&m.store_seconds, &OperationLabel { operation });
            for kind in StoreFailure::ALL.iter().map(|kind| kind.label()) {
                touch(&m.store_errors, &StoreFailureLabels { operation, kind });
            }
        }
        for outcome in RankLogOutcome::ALL.iter().map(|outcome| outcome.label()) {
            touch(&m.rank_log, &OutcomeLabel { outcome });
        }
        for what in Reloaded::ALL.iter().map(|what| what.label()) {
            touch(&m.reload_failures, &WhatLabel { what });
        }
        for outcome in AppendOutcome::ALL.iter().map(|outcome| outcome.label()) {
            touch(&m.events, &OutcomeLabel { outcome });
        }
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// A request was refused at once.
    pub fn rejected(&self, reason: Rejection) {
        self.0.rejected.get_or_create(&ReasonLabel { reason: reason.label() }).inc();
    }

    /// A Rank was answered: where its time went.
    pub fn rank_stages(&self, stages: &RequestStages) {
        let by_stage = [
            (Stage::Queue, stages.queue),
            (Stage::History, stages.history),
            (Stage::Encode, stages.encode),
            (Stage::Score, stages.score),
            (Stage::Other, stages.other),
        ];
        for (stage, time) in by_stage {
            self.0.stage_seconds.get_or_create(&StageLabel { stage: stage.label() }).observe(time.as_secs_f64());
        }
    }

    /// A user without any history was ranked.
    pub fn cold_start(&self) {
        self.0.cold_starts.inc();
    }

    /// A user was ranked whom the model was not trained on.
    pub fn unknown_user(&self) {
        self.0.unknown_users.inc();
    }

    /// Some of an answer's scores.
    pub fn scores(&self, scores: impl Iterator<Item = f32>) {
        let mut drift = self.0.drift.lock().unwrap_or_else(PoisonError::into_inner);
        for score in scores {
            self.0.scores.observe(score.into());
            if let Some(index) = drift.observe(score) {
                self.0.score_drift.set(index);
            }
        }
    }

    /// `unknown` of `seen` searches mean nothing to the model.
    pub fn searches(&self, seen: usize, unknown: usize) {
        self.0.searches.inc_by(seen as u64);
        self.0.unknown_searches.inc_by(unknown as u64);
    }

    /// A Rank was answered without reaching the store.
    pub fn stale_answer(&self) {
        self.0.stale_answers.inc();
    }

    /// A Rank failed: the store is behind its token.
    pub fn token_ahead(&self) {
        self.0.tokens_ahead.inc();
    }

    /// `unknown` of `seen` items are not in the catalogue.
    pub fn items(&self, place: ItemPlace, seen: usize, unknown: usize) {
        let label = PlaceLabel { place: place.label() };
        self.0.items.get_or_create(&label).inc_by(seen as u64);
        self.0.unknown_items.get_or_create(&label).inc_by(unknown as u64);
    }

    /// An event was appended (or not). `lag` is the time since it happened, for events that were stored.
    pub fn event(&self, outcome: AppendOutcome, lag: Option<Duration>) {
        self.0.events.get_or_create(&OutcomeLabel { outcome: outcome.label() }).inc();
        if let Some(lag) = lag {
            self.0.history_lag.observe(lag.as_secs_f64());
        }
    }

    /// Lines of the rank log were written, or not.
    pub(crate) fn rank_log(&self, outcome: RankLogOutcome, lines: u64) {
        self.0.rank_log.get_or_create(&OutcomeLabel { outcome: outcome.label() }).inc_by(lines);
    }

    /// So many lines of the log were dropped since the process began.
    pub(super) fn log_dropped(&self, lines: usize) {
        self.0.log_dropped.inner().store(lines as u64, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether traffic may come.
    pub(super) fn ready(&self, ready: bool) {
        self.0.ready.set(ready.into());
    }

    /// A model went live. One of the same version begins nothing anew: SIGHUP is for tokens, too, and whoever renews
    /// those must not silence what watches the model.
    pub fn model_live(&self, labels: &ModelLabels, loaded_at: SystemTime, load_time: Duration) {
        self.0.model.clear();
        self.0.model.get_or_create(labels).set(1);
        self.0.model_load.set(load_time.as_secs_f64());
        let mut live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        let before = live.replace(labels.version.clone());
        if before.as_ref() == Some(&labels.version) {
            return;
        }
        if before.is_some() {
            self.0.model_swaps.inc();
        }
        *self.0.drift.lock().unwrap_or_else(PoisonError::into_inner) = ScoreDrift::default();
        self.0.score_drift.set(0.0);
        self.0.model_loaded.set(loaded_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    /// What was to be read anew stays as it was.
    pub fn reload_failed(&self, what: Reloaded) {
        self.0.reload_failures.get_or_create(&WhatLabel { what: what.label() }).inc();
    }

    /// TLS is on, with a certificate that ends then, if that can be told. A process serves one.
    pub fn certificate_ends(&self, end: Option<jiff::Timestamp>) {
        self.0.certificate_end.set(end.map(jiff::Timestamp::as_second));
    }

    /// A connection ended before its TLS handshake did.
    pub(crate) fn handshake_failed(&self) {
        self.0.handshake_failures.inc();
    }

    /// What waits for the device now.
    pub(crate) fn queued(&self, requests: usize, candidates: usize) {
        self.0.queued_requests.set(requests as i64);
        self.0.queued_candidates.set(candidates as i64);
    }

    /// So much is under way.
    pub(crate) fn admitted(&self, requests: usize, candidates: usize) {
        self.0.admitted_requests.set(requests as i64);
        self.0.admitted_candidates.set(candidates as i64);
    }

    /// Nobody waits for a Rank any more.
    pub(crate) fn abandoned(&self, reason: Abandoned, phase: Phase) {
        let labels = AbandonedLabels { reason: reason.label(), phase: phase.label() };
        self.0.abandoned.get_or_create(&labels).inc();
    }

    /// A batch starts.
    pub(crate) fn batch(&self, size: BatchSize) {
        self.0.batch_requests.observe(size.requests as f64);
        self.0.batch_encoded_users.observe(size.encoded_users as f64);
        self.0.batch_candidates.observe(size.candidates as f64);
        self.0.tokens.inc_by(size.tokens as u64);
        self.0.padding.inc_by(size.padding as u64);
    }

    /// The device spent `time` in a stage.
    pub(crate) fn device_time(&self, stage: Stage, time: Duration) {
        self.0.device_seconds.get_or_create(&StageLabel { stage: stage.label() }).inc_by(time.as_secs_f64());
    }

    /// A call of the model failed.
    pub(crate) fn model_failure(&self) {
        self.0.model_failures.inc();
    }

    /// Cacheable users of a batch: found, and not.
    pub(crate) fn cache_lookups(&self, hits: usize, misses: usize) {
        self.0.cache_hits.inc_by(hits as u64);
        self.0.cache_misses.inc_by(misses as u64);
    }

    /// An encoded user was dropped for room.
    pub(crate) fn cache_eviction(&self) {
        self.0.cache_evictions.inc();
    }

    /// What the cache holds now.
    pub(crate) fn cache_size(&self, bytes: u64, entries: usize) {
        self.0.cache_bytes.set(bytes as i64);
        self.0.cache_entries.set(entries as i64);
    }

    /// A copy of a history was dropped for room.
    pub(crate) fn history_cache_eviction(&self) {
        self.0.history_cache_evictions.inc();
    }

    /// What the cache of histories holds now.
    pub(super) fn history_cache_size(&self, bytes: u64, entries: usize) {
        self.0.history_cache_bytes.set(bytes as i64);
        self.0.history_cache_entries.set(entries as i64);
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn seconds_by<L: Clone + std::hash::Hash + Eq>() -> Histograms<L> {
    Family::new_with_constructor(|| Histogram::new(SECONDS))
}

/// Creates the series of these labels.
fn touch<L: Clone + std::hash::Hash + Eq, M, C: MetricConstructor<M>>(family: &Family<L, M, C>, labels: &L) {
    drop(family.get_or_create(labels));
}

fn platform(arch: &'static str, os: &'static str) -> &'static str {
    // Labels are static: one small leak per process.
    Box::leak(format!("{arch}-{os}").into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_help_and_the_prefix() {
        let text = Metrics::new().encode();
        let families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# HELP ")).collect();
        assert!(families.len() > 30, "{families:#?}");
        for family in families {
            let (name, help) = family.split_once(' ').unwrap();
            assert!(name.starts_with("sesrec_") || name.starts_with("process_"), "{name}");
            assert!(!name.ends_with("_total"), "{name}: the encoder adds _total itself");
            assert!(help.len() > 5, "{name} {help}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    fn labels(version: &str) -> ModelLabels {
        ModelLabels { name: "kuaisar".into(), version: version.into(), kind: "sesrec".into(), device: "cpu".into() }
    }

    #[test]
    fn drift_is_of_the_live_model() {
        let metrics = Metrics::new();
        let window = |score: f32| metrics.scores(std::iter::repeat_n(score, 10_000));
        let drift = || {
            let text = metrics.encode();
            let value = text.lines().find_map(|line| line.strip_prefix("sesrec_rank_score_drift "));
            value.expect("the series").parse::<f64>().unwrap()
        };
        metrics.model_live(&labels("a"), UNIX_EPOCH, Duration::ZERO);
        window(0.5);
        assert_eq!(drift(), 0.0, "there is nothing to compare with");
        window(0.1);
        let moved = drift();
        assert!(moved > 0.25, "{moved}");
        metrics.model_live(&labels("a"), UNIX_EPOCH, Duration::ZERO);
        assert_eq!(drift(), moved, "the same model, loaded again");
        window(0.1);
        assert!(drift() > 0.25, "{}: the scores of the model's beginning are forgotten", drift());
        metrics.model_live(&labels("b"), UNIX_EPOCH, Duration::ZERO);
        assert_eq!(drift(), 0.0);
        window(0.1);
        window(0.1);
        assert!(drift() < 1e-9, "{}: the scores of the model before are no measure", drift());
    }

    #[test]
    fn one_model_is_live() {
        let metrics = Metrics::new();
        metrics.model_live(&labels("a"), UNIX_EPOCH + Duration::from_secs(7), Duration::from_millis(1500));
        metrics.model_live(&labels("b"), UNIX_EPOCH + Duration::from_secs(8), Duration::from_millis(500));
        let text = metrics.encode();
        assert!(
            text.contains(r#"sesrec_model_info{name="kuaisar",version="b",kind="sesrec",device="cpu"} 1"#),
            "{text}"
        );
        assert!(!text.contains(r#"version="a""#));
        assert!(text.contains("sesrec_model_loaded_timestamp_seconds 8.0"));
        assert!(text.contains("sesrec_model_swaps_total 1"));
        // Loaded again, for the sake of tokens.
        metrics.model_live(&labels("b"), UNIX_EPOCH + Duration::from_secs(9), Duration::from_millis(500));
        let text = metrics.encode();
        assert!(text.contains("sesrec_model_loaded_timestamp_seconds 8.0"), "{text}");
        assert!(text.contains("sesrec_model_swaps_total 1"));
    }

    #[test]
    fn without_a_certificate_none_ends() {
        let metrics = Metrics::new();
        assert!(!metrics.encode().contains("sesrec_tls_certificate"));
        metrics.certificate_ends(Some(jiff::Timestamp::from_second(2_000_000_000).unwrap()));
        let text = metrics.encode();
        assert!(text.contains("# TYPE sesrec_tls_certificate_expiry_timestamp_seconds gauge\n"), "{text}");
        assert!(text.contains("\nsesrec_tls_certificate_expiry_timestamp_seconds 2000000000\n"), "{text}");
        metrics.certificate_ends(None);
        assert!(!metrics.encode().contains("sesrec_tls_certificate"), "another one, of which it can't be told");
    }
}
