//! The server: services, layers and limits on one port, health that follows the store, and an end that is bounded.

use std::{
    future::Future,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, transport::Server as Transport};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    RankingServer, ServerOptions,
    auth::AuthorizeLayer,
    connection::{Connections, Limits},
    layer::ObserveLayer,
    receive::Unfinished,
    shared::Shared,
};
use crate::{
    data::{UserFeatures, UserRow},
    domain::Deadline,
    engine::{EngineError, Explain, RankJob},
    proto::v1::{FILE_DESCRIPTOR_SET, ranking_service_server::RankingServiceServer},
    telemetry::{self, Readiness, ReadinessWatch, StoreOperation},
};

/// What closes connections that outlive the last request: long enough for an answer to get out.
const FLUSH: Duration = Duration::from_millis(300);

/// What engine and store may take to close. Whoever started the server grants some ten seconds after the drain.
const CLOSING: Duration = Duration::from_secs(5);

/// From so many failed calls of the model in a row on, it is asked whether it works at all.
const SUSPICIOUS_FAILURES: u32 = 3;

/// What callers may send before it is read. h2 closes a connection (ENHANCE_YOUR_CALM) on which small frames, such as
/// events are, wait to be read: each counts as what it lacks of 256 bytes, and half of the connection's window may
/// wait. A full window of events of 50 bytes counts a megabyte. hyper's adaptive windows begin at 64 KiB, which 400
/// events exhaust.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Of the port for scrapers and probes, who are few. A connection has one request and this time for all of it: neither
/// a byte now and then nor an answer that nobody reads takes a place from the others for longer.
const METRICS_PATIENCE: Duration = Duration::from_secs(10);
const METRICS_LIMITS: Limits = Limits { connections: 64, silence: METRICS_PATIENCE, age: Some(METRICS_PATIENCE) };

/// Why a server could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// gRPC.
    #[error("gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Reflection.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The metrics port.
    #[error("metrics server: {0}")]
    Metrics(#[source] io::Error),
    /// A task of the server's ended with a panic.
    #[error("a server task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A ranking service with everything around it.
pub struct Server {
    service: RankingServer,
    options: ServerOptions,
}

impl Server {
    /// Not listening yet.
    pub fn new(service: RankingServer, options: ServerOptions) -> Self {
        Self { service, options }
    }

    /// Serves on `listener` (gRPC) and `metrics_listener` (HTTP) until `shutdown` ends, then drains: readiness goes
    /// first, then accepting stops, running requests finish, streams get their last acknowledgements. After the drain
    /// timeout what is left is cut off. Closes engine and store.
    ///
    /// # Errors
    /// If TLS or reflection can't be set up, one of the ports fails, or a task of the server's panics.
    pub async fn run(
        self,
        listener: TcpListener,
        metrics_listener: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let Self { service, options } = self;
        let shared = service.shared.clone();
        let signals = Signals::default();
        let readiness = Readiness::new();

        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_not_serving::<Ranking>().await;
        let health = tokio::spawn(follow(readiness.watch(), health));
        let metrics = metrics_listener.map(|listener| {
            // Never closed from here: an answer on its way gets out.
            let listener = Connections::new(listener, METRICS_LIMITS, CancellationToken::new());
            let stop = signals.stop_metrics.clone().cancelled_owned();
            tokio::spawn(telemetry::http::run(listener, shared.metrics.clone(), readiness.watch(), stop))
        });
        let (interval, device_timeout) = (options.ping_interval, options.device_timeout);
        let probe = Probe { shared: shared.clone(), readiness, interval, device_timeout };
        let probe = tokio::spawn(probe.run(signals.leaving.clone()));

        // A live caller has answered a ping by then.
        let silence = options.keepalive_interval + options.keepalive_timeout;
        let limits = Limits { connections: options.max_connections, silence, age: None };
        let incoming = Connections::new(listener, limits, signals.close_connections.clone()).into_stream();
        let ranking = RankingServiceServer::new(service).max_decoding_message_size(options.max_message_bytes);
        let patience = shared.options.timeouts.message;
        let unfinished = Arc::new(Unfinished::new(options.max_message_bytes, patience, shared.metrics.clone()));
        // One for each connection: clients that watch the health of their servers do it so.
        let watches = Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS)));
        let router = transport(&options)?
            .layer(ObserveLayer { shared: shared.clone(), unfinished, watches })
            .layer(AuthorizeLayer::new(&options.security, shared.metrics.clone()))
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(ranking);
        let stop_accepting = signals.stop_accepting.clone().cancelled_owned();
        let mut serving = tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop_accepting));

        let failed = tokio::select! {
            ended = &mut serving => Some(ended),
            () = shutdown => None,
        };
        tracing::info!(timeout = ?options.drain_timeout, "draining");
        signals.leaving.cancel();
        probe.await?;
        let result = match failed {
            Some(ended) => ended?.map_err(ServerError::from),
            None => {
                sleep(options.drain_notice).await;
                shared.draining.cancel();
                signals.stop_accepting.cancel();
                drain(&shared, serving, &signals.close_connections, options.drain_timeout).await
            }
        };

        close(&shared).await;
        signals.stop_metrics.cancel();
        if let Some(metrics) = metrics {
            finish(metrics).await?;
        }
        health.abort();
        tracing::info!("stopped");
        result
    }
}

type Ranking = RankingServiceServer<RankingServer>;

/// The steps of the end, in this order.
#[derive(Default)]
struct Signals {
    /// Readiness goes.
    leaving: CancellationToken,
    /// The listener closes.
    stop_accepting: CancellationToken,
    /// Connections are cut.
    close_connections: CancellationToken,
    /// The metrics port closes.
    stop_metrics: CancellationToken,
}

/// Limits of every connection, explicitly, and TLS.
fn transport(options: &ServerOptions) -> Result<Transport, ServerError> {
    let transport = match &options.security.tls {
        Some(tls) => Transport::builder().tls_config(tls.config())?,
        None => Transport::builder(),
    };
    let transport = transport
        .max_concurrent_streams(options.max_concurrent_streams)
        .http2_keepalive_interval(Some(options.keepalive_interval))
        .http2_keepalive_timeout(Some(options.keepalive_timeout))
        .http2_max_header_list_size(64 << 10)
        // Connections and streams that a caller opens and resets in a loop.
        .http2_max_pending_accept_reset_streams(Some(64))
        .http2_max_local_error_reset_streams(Some(256))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(match options.max_connection_age {
        Some(age) => transport.max_connection_age(age),
        None => transport,
    })
}

/// Our own services, health, and the messages of error details, so that grpcurl can print those.
fn reflection<'b>() -> tonic_reflection::server::Builder<'b> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// Asks the store whether it works, and the model where it seems not to: a replica whose device is broken would answer
/// every Rank at once with an error, and balancers by load would like it for that.
struct Probe {
    shared: Arc<Shared>,
    readiness: Readiness,
    interval: Duration,
    /// How long the device may be at one batch.
    device_timeout: Duration,
}

impl Probe {
    async fn run(self, leaving: CancellationToken) {
        let probing = async {
            loop {
                let patience = Deadline::after(self.shared.options.timeouts.store);
                let ping = self.shared.store.ping(patience);
                let answer = self.shared.store_call(StoreOperation::Ping, patience, ping).await;
                self.shared.store_away.store(answer.is_err(), Ordering::Relaxed);
                let works = match answer {
                    Ok(()) => self.model_works().await,
                    Err(error) => Err(format!("{} store: {error}", self.shared.store.kind())),
                };
                match works {
                    Ok(()) => self.readiness.ready(),
                    Err(reason) => {
                        tracing::warn!(reason, "not ready");
                        self.readiness.not_ready(reason);
                    }
                }
                sleep(self.interval).await;
            }
        };
        let _: Option<()> = leaving.run_until_cancelled(probing).await;
        self.readiness.not_ready("draining");
    }

    /// Whether the device gets on. After calls that failed in a row, which may have been the callers' own: ranks one
    /// item for nobody.
    async fn model_works(&self) -> Result<(), String> {
        let Shared { engine, slot, options, .. } = &*self.shared;
        if engine.stalled() > self.device_timeout {
            return Err(format!("the device has been at one batch for more than {:?}", self.device_timeout));
        }
        if engine.failures_in_a_row() < SUSPICIOUS_FAILURES {
            return Ok(());
        }
        let model = slot.live();
        let job = RankJob {
            features: Arc::new(UserFeatures {
                user: UserRow::Mean,
                recommendations: vec![],
                searches: vec![],
                as_of: None,
            }),
            cache_key: None,
            items: vec![model.featurizer.catalogue().items.first_row],
            top_k: 0,
            explain: Explain::No,
            deadline: Deadline::after(options.timeouts.store),
            model,
        };
        match engine.rank(job).await {
            Err(EngineError::Model(error)) => Err(format!("the model fails: {error}")),
            // Busy is not broken, where others were answered meanwhile.
            Err(error) if engine.failures_in_a_row() >= SUSPICIOUS_FAILURES => {
                Err(format!("the model has failed and not answered since: {error}"))
            }
            _ => Ok(()),
        }
    }
}

/// Readiness as gRPC health. The empty name stands for the process and stays SERVING while it answers.
async fn follow(mut readiness: ReadinessWatch, health: HealthReporter) {
    let mut state = readiness.state();
    loop {
        let status = if state.is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(Ranking::NAME, status).await;
        match readiness.changed().await {
            Some(changed) => state = changed,
            None => return,
        }
    }
}

/// What was acknowledged is stored already; this is for what buffers and threads hold besides.
async fn close(shared: &Shared) {
    let closing = async {
        shared.engine.shutdown().await;
        shared.store.close().await;
    };
    if timeout(CLOSING, closing).await.is_err() {
        tracing::warn!("engine or store did not close in time");
    }
}

/// Lets the metrics port's last answers get out.
async fn finish(mut metrics: JoinHandle<io::Result<()>>) -> Result<(), ServerError> {
    match timeout(FLUSH, &mut metrics).await {
        Ok(ended) => ended?.map_err(ServerError::Metrics),
        // A scraper that keeps its connection open.
        Err(_) => {
            metrics.abort();
            Ok(())
        }
    }
}

/// Waits for running requests and streams, then for connections; cuts off what is left.
async fn drain(
    shared: &Shared,
    mut serving: JoinHandle<Result<(), tonic::transport::Error>>,
    close_connections: &CancellationToken,
    limit: Duration,
) -> Result<(), ServerError> {
    shared.running.close();
    let idle = async {
        shared.running.wait().await;
        // Nobody is served any more: what is open now are idle callers and health watchers.
        sleep(FLUSH).await;
    };
    tokio::select! {
        ended = &mut serving => return Ok(ended??),
        drained = timeout(limit, idle) => if drained.is_err() {
            tracing::warn!(running = shared.running.len(), "drain timeout: cutting off what still runs");
        },
    }
    close_connections.cancel();
    Ok(serving.await??)
}
