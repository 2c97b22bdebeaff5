//! `sesrec bench local`: the README's figures with one command. Weights are random: time does not depend on them.

use std::{future::Future, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{net::TcpListener, sync::oneshot};

use super::{
    append, connect,
    load::Measured,
    rank::{self, LoadOptions},
    report::Report,
    workload::{HistoryMode, Users, Workload},
};
use crate::{
    cli::{client::model_info, connect_args::ConnectArgs, redis_args::RedisArgs, signals::StopSignals},
    engine::{Engine, EngineOptions, LoadedModel, ModelSlot},
    history::{self, HistoryOptions, StoreUrl},
    model::random,
    nn::DeviceChoice,
    service::{RankingServer, Server, ServerOptions, ServiceOptions},
    telemetry::Metrics,
    units::{parse_count, parse_duration},
};

/// Connections that the load takes turns on.
const CONNECTIONS: usize = 4;

/// Options of `sesrec bench local`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Items of the catalogue.
    #[arg(long, default_value_t = 100_000, value_parser = parse_count, value_name = "N")]
    items: usize,
    /// Candidates per request; several values make several runs.
    #[arg(long, default_value = "100,1000", value_delimiter = ',', value_name = "N,…")]
    candidates: Vec<usize>,
    /// How long each run measures.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    duration: Duration,
    /// The bound on the 99th percentile within which the highest rate is searched.
    #[arg(long, default_value = "50ms", value_parser = parse_duration, value_name = "DURATION")]
    p99: Duration,
    /// Which device computes: auto, cpu or cuda:N.
    #[arg(long, default_value_t = DeviceChoice::Auto, value_name = "DEVICE")]
    device: DeviceChoice,
    /// Where histories go: memory, embedded:DIR or redis://… Default: an embedded store in a temporary directory.
    #[arg(long, value_name = "URL")]
    store: Option<StoreUrl>,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    users: Users,
    #[command(flatten)]
    append: append::LoadOptions,
    #[command(flatten)]
    engine: EngineOptions,
    /// Write the figures to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    unless_stopped(measured(args)).await
}

/// SIGINT and SIGTERM end the work as an error does: by dropping what it has, its directory and its processes.
pub(super) async fn unless_stopped(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen();
    tokio::select! {
        done = work => done,
        signal = stop.next() => Err(anyhow!("stopped by {signal}: there are no figures")),
    }
}

async fn measured(args: Args) -> anyhow::Result<()> {
    let directory = Temporary::new()?;
    let bundle = directory.0.join("random-kuaishou");
    let device = args.device.open().with_context(|| format!("--device {}", args.device))?;
    let items = args.items.max(1);
    let model = {
        let (bundle, options) = (bundle.clone(), args.engine.ranker());
        tokio::task::spawn_blocking(move || {
            random::bundle(items)?.write(&bundle).context("writing the bundle")?;
            LoadedModel::load(&bundle, &device, options).context("loading the bundle")
        })
        .await??
    };
    println!("bundle written and loaded ({:.2} s to load)", model.info.load_time.as_secs_f64());

    let metrics = Metrics::new();
    let slot = Arc::new(ModelSlot::new(model, metrics.clone()));
    let engine = Engine::start(slot.clone(), args.engine, metrics.clone());
    let store = args.store.unwrap_or_else(|| StoreUrl::Embedded(directory.0.join("histories")));
    let store = history::open(&store, HistoryOptions::default(), args.redis.options())
        .await
        .context("opening the history store")?;
    let store_kind = store.kind();
    let service = RankingServer::new(store, engine, slot, metrics, ServiceOptions::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.context("binding a local port")?;
    let server = ConnectArgs::plain(format!("http://{}", listener.local_addr().context("the local port")?));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(Server::new(service, ServerOptions::default()).run(listener, None, async {
        let _ = stopped.await;
    }));

    let workload = Workload::new((0..items).map(random::item_id).collect(), args.users);
    let channels = connect(&server, CONNECTIONS).await?;
    let mut report = Report::new(Some(&model_info(&channels[0], None).await?));
    append::fill(&channels[0], &workload).await?;
    for history in [HistoryMode::Inline, HistoryMode::Stored] {
        for &candidates in &args.candidates {
            // Far from the limit, then the limit, then what an operator would plan for.
            let search = LoadOptions::search(candidates, args.p99, args.duration, CONNECTIONS);
            // What a request costs by itself: one caller, so that none waits for another.
            let calm = LoadOptions { callers: NonZeroUsize::MIN, ..search.at(20.0) };
            rank::measure(&channels, &workload, history, &calm, &mut report).await?;
            let best: Option<Measured> = rank::measure(&channels, &workload, history, &search, &mut report).await?;
            if let Some(best) = best {
                rank::measure(&channels, &workload, history, &search.at(best.rate * 0.8), &mut report).await?;
            }
        }
    }
    let appends = append::LoadOptions { duration: args.duration, ..args.append };
    append::measure(&channels, &workload, &appends, &format!("append, {store_kind}"), &mut report).await?;
    let _ = stop.send(());
    serving.await.context("the server's task")??;
    report.finish(args.json.as_deref())
}

/// A directory that goes when this does.
pub(super) struct Temporary(pub(super) PathBuf);

impl Temporary {
    pub(super) fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("sesrec-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "could not remove the temporary directory");
        }
    }
}
