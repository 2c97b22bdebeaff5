//! `sesrec serve`: bind, load, open, serve, drain.

use std::{future::Future, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, anyhow, ensure};
use candle_core::Device;
use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    sync::mpsc,
};

use super::{
    serve_args::{MetricsListen, ServeArgs, ServeOptions, shown},
    signals::{INTERRUPTED, Signals, StopSignals},
};
use crate::{
    data::HistoryLimits,
    engine::{Engine, LoadedModel, ModelSlot},
    failures::told_once,
    history::{self, HistoryOptions},
    model::RankerOptions,
    nn::device_name,
    service::{Certificates, RankingServer, SecurityOptions, Server, ServiceOptions, TokenFile},
    telemetry::{
        Metrics, Reloaded, descriptors, logging,
        rank_log::{RankLog, RankLogOptions},
        trace,
    },
};

/// Options of `sesrec serve`.
pub type Args = ServeArgs;

/// Ports that are bound already, so that one where somebody listens is told before anything is loaded. Nobody listens
/// here yet: a balancer that connects is refused at once, and asks another replica.
pub(super) struct Listeners {
    /// gRPC.
    pub grpc: Port,
    /// Metrics and probes, if wanted.
    pub metrics: Option<Port>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let _log = logging::init(&args.log)?;
    let mut options = args.options()?;
    options.server.max_connections = descriptors::connections(options.server.max_connections);
    let traces = trace::export(&args.traces)?;
    // Before the ports: who sees them open may send signals.
    let (stop, hangups) = (StopSignals::listen(), Signals::hangups());
    // On its own, so that a second one ends the process while the model is loaded, too.
    let stopping = tokio::spawn(stop_signal(stop));
    let listeners = Listeners {
        grpc: Port::bind("--listen", &args.listen).await?,
        metrics: match &args.metrics_listen {
            MetricsListen::Off => None,
            MetricsListen::At(address) => Some(Port::bind("--metrics-listen", address).await?),
        },
    };
    if let Some(metrics) = &listeners.metrics {
        let (grpc, metrics) = (listeners.grpc.local_addr()?, metrics.local_addr()?);
        ensure!(grpc != metrics, "--metrics-listen and --listen are both {grpc}: each needs a port of its own");
    }
    let stopped = async {
        let _ = stopping.await;
    };
    let served = serve_until(options, listeners, hangups, stopped).await;
    traces.close().await;
    served
}

/// Serves until `shutdown` ends, then drains. What comes of `hangups` while the model is loaded, counts when it is.
pub(super) async fn serve_until(
    options: ServeOptions,
    listeners: Listeners,
    hangups: Signals,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let device = options.device.open().with_context(|| format!("--device {}", options.device))?;
    let model = load(&options.model, &device, options.engine.ranker()).await?;
    let limits = model.ranker.limits();
    let items = model.featurizer.catalogue().items.ids.len();
    tracing::info!(device = device_name(&device), kind = model.info.kind, items, ?limits, "serving");
    let history_options = at_least(options.history, limits);
    let store = history::open(&options.store, history_options, options.redis).await.context("--store")?;
    tracing::info!(
        kind = store.kind(),
        recommendations = history_options.max_recommendations,
        searches = history_options.max_searches,
        time_to_live = ?history_options.time_to_live,
        "history store"
    );

    let metrics = Metrics::new();
    // All that can still fail, before the engine runs: then there is only the store to close.
    let (rank_log, grpc, metrics_port) = match open(&options.rank_log, listeners, &metrics) {
        Ok(opened) => opened,
        Err(error) => {
            store.close().await;
            return Err(error);
        }
    };
    let slot = Arc::new(ModelSlot::new(model, metrics.clone()));
    let ranker = options.engine.ranker();
    let engine = Engine::start(slot.clone(), options.engine, metrics.clone());
    let service_options = ServiceOptions { rank_log, ..options.service };
    let service = RankingServer::new(store, engine, slot.clone(), metrics.clone(), service_options);
    let security = options.server.security.clone();
    let reload = Reload { slot, directory: options.model, device, ranker, history_options, security, metrics };
    let reloading = tokio::spawn(reload_on_hangup(reload, hangups));

    let security = &options.server.security;
    tracing::info!(
        address = shown(grpc.local_addr()),
        tls = security.tls.is_some(),
        client_certificates = asks_for_certificates(security),
        tokens = security.tokens.is_some(),
        "gRPC"
    );
    warn_of_openness(security, &grpc);
    if let Some(listener) = &metrics_port {
        tracing::info!(address = shown(listener.local_addr()), paths = "/metrics /healthz /readyz /loglevel", "HTTP");
    }
    let served = Server::new(service, options.server).run(grpc, metrics_port, shutdown).await;
    reloading.abort();
    Ok(served?)
}

/// What serving needs besides model and store.
fn open(
    rank_log: &RankLogOptions,
    listeners: Listeners,
    metrics: &Metrics,
) -> anyhow::Result<(Option<RankLog>, TcpListener, Option<TcpListener>)> {
    let rank_log = rank_log.open(metrics).context("--rank-log")?;
    Ok((rank_log, listeners.grpc.listen()?, listeners.metrics.map(Port::listen).transpose()?))
}

/// Loading reads files and computes tables: not on the async threads.
async fn load(directory: &Path, device: &Device, options: RankerOptions) -> anyhow::Result<LoadedModel> {
    let (path, device) = (directory.to_owned(), device.clone());
    tokio::task::spawn_blocking(move || LoadedModel::load(&path, &device, options))
        .await?
        .with_context(|| format!("cannot load the bundle {}", directory.display()))
}

/// The store has to keep what the model can read.
fn at_least(options: HistoryOptions, limits: HistoryLimits) -> HistoryOptions {
    HistoryOptions {
        max_recommendations: options.max_recommendations.max(limits.recommendations),
        max_searches: options.max_searches.max(limits.searches),
        max_clicks: options.max_clicks.max(limits.clicks),
        ..options
    }
}

fn asks_for_certificates(security: &SecurityOptions) -> bool {
    security.tls.as_deref().is_some_and(Certificates::asks_for_certificates)
}

/// What is open to a network should be meant so.
fn warn_of_openness(security: &SecurityOptions, listener: &TcpListener) {
    if listener.local_addr().is_ok_and(|address| address.ip().is_loopback()) {
        return;
    }
    if security.tokens.is_none() && !asks_for_certificates(security) {
        tracing::warn!("anybody who can reach this port may read and change histories (--tokens, --tls-client-ca)");
    } else if security.tls.is_none() {
        tracing::warn!("tokens travel unencrypted: let a proxy speak TLS, or use --tls-certificate");
    }
}

struct Reload {
    security: SecurityOptions,
    slot: Arc<ModelSlot>,
    directory: std::path::PathBuf,
    device: Device,
    ranker: RankerOptions,
    history_options: HistoryOptions,
    metrics: Metrics,
}

/// On SIGHUP reads the tokens, lets the server look at its certificate, and loads the bundle beside the live one and
/// swaps. What can't be read changes nothing.
async fn reload_on_hangup(reload: Reload, mut hangups: Signals) {
    // One model is loaded at a time; signals meanwhile ask for another one after it.
    let (ask, mut asked) = mpsc::channel(1);
    let access = async {
        loop {
            hangups.next().await;
            // A token that has leaked must not wait for a model.
            if let Some(tokens) = &reload.security.tokens {
                match reload_tokens(tokens.clone()).await {
                    Ok(tokens) => tracing::info!(tokens, "tokens read anew"),
                    Err(error) => {
                        reload.metrics.reload_failed(Reloaded::Tokens);
                        tracing::error!(%error, "the tokens stay as they were");
                    }
                }
            }
            if let Some(certificates) = &reload.security.tls {
                certificates.look();
            }
            let _ = ask.try_send(());
        }
    };
    let models = async {
        while asked.recv().await.is_some() {
            tracing::info!(directory = %reload.directory.display(), "loading the bundle anew");
            match load(&reload.directory, &reload.device, reload.ranker).await {
                Ok(model) => reload.swap(model),
                Err(error) => {
                    reload.metrics.reload_failed(Reloaded::Model);
                    tracing::error!(error = told_once(&error), "the live model stays");
                }
            }
        }
    };
    tokio::join!(access, models);
}

/// Reading a file may take long where it lies on a network: not on the async threads.
async fn reload_tokens(tokens: Arc<TokenFile>) -> anyhow::Result<usize> {
    Ok(tokio::task::spawn_blocking(move || tokens.reload()).await??)
}

impl Reload {
    fn swap(&self, model: LoadedModel) {
        let limits = model.ranker.limits();
        if at_least(self.history_options, limits) != self.history_options {
            tracing::warn!(
                ?limits,
                "the new model reads more of a history than the store keeps: restart to make the store keep more"
            );
        }
        let version = model.info.version.clone();
        let old = self.slot.swap(model);
        if old.info.version == version {
            // The signal was for tokens or certificate, or nothing new has come.
            tracing::info!(%version, "model unchanged");
        } else {
            tracing::info!(old = %old.info.version, new = %version, "model swapped");
        }
    }
}

/// An address that is taken, and who asked for it.
pub(super) struct Port {
    flag: &'static str,
    address: String,
    socket: TcpSocket,
}

impl Port {
    /// Connections that wait to be accepted, as tokio has it.
    const BACKLOG: u32 = 1024;

    pub async fn bind(flag: &'static str, address: &str) -> anyhow::Result<Self> {
        let bound = async {
            let mut failed = std::io::Error::other("no such host");
            for found in lookup_host(address).await? {
                let bind = || {
                    let socket = if found.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                    // What a predecessor's connections left doesn't count. Without a number, one that nobody has is
                    // wanted.
                    socket.set_reuseaddr(cfg!(unix) && found.port() != 0)?;
                    socket.bind(found).map(|()| socket)
                };
                match bind() {
                    Ok(socket) => return Ok(socket),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        };
        match bound.await {
            Ok(socket) => Ok(Self { flag, address: address.to_owned(), socket }),
            Err(error) => Err(cannot_listen(flag, address, error)),
        }
    }

    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn listen(self) -> anyhow::Result<TcpListener> {
        let Self { flag, address, socket } = self;
        socket.listen(Self::BACKLOG).map_err(|error| cannot_listen(flag, &address, error))
    }
}

fn cannot_listen(flag: &str, address: &str, error: std::io::Error) -> anyhow::Error {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        anyhow!("{flag} {address}: something listens there already; stop it, or choose another port with {flag}")
    } else {
        anyhow::Error::new(error).context(format!("{flag} {address}: cannot listen there"))
    }
}

/// Ends with the first of them. A second one does not wait for the drain.
async fn stop_signal(mut stop: StopSignals) {
    let signal = stop.next().await;
    tracing::info!(signal, "stopping; once more stops at once");
    tokio::spawn(async move {
        let signal = stop.next().await;
        tracing::warn!(signal, "stopped at once");
        std::process::exit(INTERRUPTED);
    });
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches};

    use super::*;
    use crate::model::random;

    #[tokio::test]
    async fn what_fails_late_closes_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle");
        random::bundle(50).unwrap().write(&bundle).unwrap();
        let store = format!("embedded:{}", directory.path().join("store").display());
        // Below a file.
        let rank_log = bundle.join("config.json").join("ranks.ndjson");
        let [bundle, rank_log] = [&bundle, &rank_log].map(|path| path.to_str().unwrap());
        let arguments = ["serve", "--device", "cpu", "--model", bundle, "--store", &store, "--rank-log", rank_log];
        let matches = ServeArgs::augment_args(Command::new("serve")).get_matches_from(arguments);
        let options = ServeArgs::from_arg_matches(&matches).unwrap().options().unwrap();
        let (store, histories) = (options.store.clone(), options.history);
        let listeners = Listeners { grpc: Port::bind("--listen", "127.0.0.1:0").await.unwrap(), metrics: None };
        let served = serve_until(options, listeners, Signals::hangups(), std::future::pending()).await;
        let error = format!("{:#}", served.expect_err("no rank log"));
        assert!(error.contains("--rank-log"), "{error}");
        // Its directory is locked for as long as it is open.
        history::open(&store, histories, history::RedisOptions::default()).await.map(drop).expect("it is closed");
    }
}
