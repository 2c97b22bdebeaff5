//! The server: services, layers and limits on one port, health that follows the store, and an end that is bounded.

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    server::NamedService,
    transport::{Server as Transport, server::Router},
};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};
use tower::layer::util::{Identity, Stack};

use super::{
    RankingServer, ServerOptions,
    auth::{self, AuthorizeLayer},
    connection::{Connections, Limits},
    handshake::handshakes,
    layer::ObserveLayer,
    probe::Probe,
    receive::Unfinished,
    shared::Shared,
};
use crate::{
    proto::v1::{FILE_DESCRIPTOR_SET, ranking_service_server::RankingServiceServer},
    telemetry::{self, Metrics, Readiness, ReadinessWatch},
};

/// What closes connections that outlive the last request: long enough for an answer to get out.
const FLUSH: Duration = Duration::from_millis(300);

/// What engine and store may take to close. Whoever started the server grants some ten seconds after the drain.
const CLOSING: Duration = Duration::from_secs(5);

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
    /// timeout what is left is cut off. Closes engine and store, also where it fails.
    ///
    /// # Errors
    /// If reflection can't be set up, one of the ports fails, or a task of the server's panics: the first of
    /// these.
    pub async fn run(
        self,
        listener: TcpListener,
        metrics_listener: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let Self { service, options } = self;
        let shared = service.shared.clone();
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_not_serving::<Ranking>().await;
        // What can't be set up is found out before anything runs that would have to be ended.
        let router = match router(service, health_service, &options) {
            Ok(router) => router,
            Err(error) => {
                close(&shared).await;
                return Err(error);
            }
        };
        let mut background = Background::start(&shared, &options, health, metrics_listener);
        let mut serving = Serving::start(router, listener, &options, shared.metrics.clone());

        let failed = tokio::select! {
            ended = &mut serving.task => Some(ended),
            () = shutdown => None,
        };
        tracing::info!(timeout = ?options.drain_timeout, "draining");
        // Whatever fails from here on, the other steps follow.
        let left = background.leave().await;
        let served = match failed {
            Some(ended) => ended.map_err(ServerError::from).and_then(|ended| Ok(ended?)),
            None => {
                sleep(options.drain_notice).await;
                serving.drain(&shared, options.drain_timeout).await
            }
        };
        close(&shared).await;
        let ended = background.end().await;
        tracing::info!("stopped");
        left.and(served).and(ended)
    }
}

type Ranking = RankingServiceServer<RankingServer>;

/// Around every call, the innermost first.
type Layers = Stack<AuthorizeLayer, Stack<ObserveLayer, Identity>>;

/// All services of the gRPC port, with what is around their calls.
fn router(
    service: RankingServer,
    health: HealthServer<impl Health>,
    options: &ServerOptions,
) -> Result<Router<Layers>, ServerError> {
    let shared = service.shared.clone();
    let metrics = shared.metrics.clone();
    let ranking = RankingServiceServer::new(service).max_decoding_message_size(options.max_message_bytes);
    let patience = shared.options.timeouts.message;
    let unfinished = Arc::new(Unfinished::new(options.max_message_bytes, patience, metrics.clone()));
    // One for each connection: clients that watch the health of their servers do it so.
    let watches = Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS)));
    let router = transport(options)
        .layer(ObserveLayer { shared, unfinished, watches })
        .layer(AuthorizeLayer::new(&options.security, metrics))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(ranking);
    Ok(router)
}

/// The gRPC port, served in a task of its own.
struct Serving {
    task: JoinHandle<Result<(), tonic::transport::Error>>,
    /// The listener closes.
    stop_accepting: CancellationToken,
    /// Connections are cut.
    close_connections: CancellationToken,
}

impl Serving {
    fn start(router: Router<Layers>, listener: TcpListener, options: &ServerOptions, metrics: Metrics) -> Self {
        let (stop_accepting, close_connections) = (CancellationToken::new(), CancellationToken::new());
        // A live caller has answered a ping by then.
        let silence = options.keepalive_interval + options.keepalive_timeout;
        let limits = Limits { connections: options.max_connections, silence, age: None };
        let connections = Connections::new(listener, limits, close_connections.clone()).of_callers(metrics.clone());
        let (incoming, stop) = (connections.into_stream(), stop_accepting.clone().cancelled_owned());
        let task = match &options.security.tls {
            Some(certificates) => {
                let incoming = handshakes(incoming, certificates.clone(), options.max_connections, metrics);
                tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop))
            }
            None => tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop)),
        };
        Self { task, stop_accepting, close_connections }
    }

    /// Stops accepting, waits for running requests and streams, then for connections; cuts off what is left.
    async fn drain(mut self, shared: &Shared, limit: Duration) -> Result<(), ServerError> {
        shared.draining.cancel();
        self.stop_accepting.cancel();
        shared.running.close();
        let idle = async {
            shared.running.wait().await;
            // Nobody is served any more: what is open now are idle callers and health watchers.
            sleep(FLUSH).await;
        };
        tokio::select! {
            ended = &mut self.task => return Ok(ended??),
            drained = timeout(limit, idle) => if drained.is_err() {
                tracing::warn!(running = shared.running.len(), "drain timeout: cutting off what still runs");
            },
        }
        self.close_connections.cancel();
        Ok(self.task.await??)
    }
}

/// What runs beside the gRPC port.
struct Background {
    probe: JoinHandle<()>,
    /// Ends the probe; readiness goes with it.
    leaving: CancellationToken,
    health: JoinHandle<()>,
    /// Of certificates.
    renewal: Option<JoinHandle<()>>,
    metrics: Option<JoinHandle<io::Result<()>>>,
    /// The metrics port closes.
    stop_metrics: CancellationToken,
}

impl Background {
    fn start(
        shared: &Arc<Shared>,
        options: &ServerOptions,
        health: HealthReporter,
        metrics_listener: Option<TcpListener>,
    ) -> Self {
        let (leaving, stop_metrics) = (CancellationToken::new(), CancellationToken::new());
        let readiness = Readiness::new();
        let health = tokio::spawn(follow(readiness.watch(), health));
        let metrics = metrics_listener.map(|listener| {
            // Never closed from here: an answer on its way gets out.
            let listener = Connections::new(listener, METRICS_LIMITS, CancellationToken::new());
            let stop = stop_metrics.clone().cancelled_owned();
            tokio::spawn(telemetry::http::run(listener, shared.metrics.clone(), readiness.watch(), stop))
        });
        let certificates = options.security.tls.clone();
        let renewal = certificates.map(|tls| tokio::spawn(auth::follow(tls, shared.metrics.clone())));
        let (interval, device_timeout) = (options.ping_interval, options.device_timeout);
        let probe = Probe { shared: shared.clone(), readiness, interval, device_timeout };
        let probe = tokio::spawn(probe.run(leaving.clone()));
        Self { probe, leaving, health, renewal, metrics, stop_metrics }
    }

    /// Readiness goes.
    async fn leave(&mut self) -> Result<(), ServerError> {
        self.leaving.cancel();
        Ok((&mut self.probe).await?)
    }

    /// The rest ends, when nothing is left that scrapers and watchers could be told.
    async fn end(self) -> Result<(), ServerError> {
        self.stop_metrics.cancel();
        let ended = match self.metrics {
            Some(metrics) => finish(metrics).await,
            None => Ok(()),
        };
        self.health.abort();
        self.renewal.inspect(JoinHandle::abort);
        ended
    }
}

/// Limits of every connection, explicitly.
fn transport(options: &ServerOptions) -> Transport {
    let transport = Transport::builder()
        .max_concurrent_streams(options.max_concurrent_streams)
        .http2_keepalive_interval(Some(options.keepalive_interval))
        .http2_keepalive_timeout(Some(options.keepalive_timeout))
        .http2_max_header_list_size(64 << 10)
        // Connections and streams that a caller opens and resets in a loop.
        .http2_max_pending_accept_reset_streams(Some(64))
        .http2_max_local_error_reset_streams(Some(256))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    match options.max_connection_age {
        Some(age) => transport.max_connection_age(age),
        None => transport,
    }
}

/// Our own services, health, and the messages of error details, so that grpcurl can print those.
fn reflection<'b>() -> tonic_reflection::server::Builder<'b> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
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
