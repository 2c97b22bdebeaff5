//! `sesrec bench rank`.

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tonic::{Code, Request};

use super::{
    super::{
        client::model_info,
        connect_args::{ConnectArgs, Transport},
    },
    append, connect,
    load::{Answer, Load, Measured, find_max, open_loop},
    report::Report,
    workload::{HistoryMode, ItemSource, Users, Workload},
};
use crate::{
    proto::v1::{RankRequest, ranking_service_client::RankingServiceClient},
    units::{parse_count, parse_duration},
};

/// Callers unless the command line says otherwise.
pub(super) const CALLERS: NonZeroUsize = NonZeroUsize::new(64).expect("above 0");

/// Options of `sesrec bench rank`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten, next_help_heading = "Server")]
    server: ConnectArgs,
    /// A further server with the same model and the same histories, which takes its share of the requests.
    #[arg(long, value_name = "URL")]
    replica: Vec<String>,
    #[command(flatten)]
    items: ItemSource,
    #[command(flatten)]
    users: Users,
    #[command(flatten)]
    pub(super) load: LoadOptions,
    /// How histories reach the model.
    #[arg(long, value_enum, default_value = "inline")]
    history: HistoryMode,
    /// Write the figures to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How much load.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LoadOptions {
    /// Candidates per request; several values make several runs.
    #[arg(long, default_value = "100,1000", value_delimiter = ',', value_name = "N,…")]
    pub(super) candidates: Vec<usize>,
    /// Requests per second; several values make several runs.
    #[arg(long, default_value = "50", value_delimiter = ',', value_name = "R,…", conflicts_with = "find_max")]
    pub(super) rate: Vec<f64>,
    /// Callers that share the rate and send independently of each other, each at even distances.
    #[arg(long, default_value_t = CALLERS, value_name = "N")]
    pub(super) callers: NonZeroUsize,
    /// Search the highest rate that is answered without errors and with the 99th percentile within --p99.
    #[arg(long)]
    pub(super) find_max: bool,
    /// The bound for --find-max.
    #[arg(long, default_value = "50ms", value_parser = parse_duration, value_name = "DURATION")]
    pub(super) p99: Duration,
    /// How long each run measures.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub(super) duration: Duration,
    /// How long load runs before that.
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "DURATION")]
    pub(super) warm_up: Duration,
    /// Deadline of each request, told to the server.
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "DURATION")]
    pub(super) timeout: Duration,
    /// Connections that requests take turns on.
    #[arg(long, default_value_t = 4, value_parser = parse_count, value_name = "N")]
    pub(super) connections: usize,
    /// Requests in flight; those due beyond it are not sent, and counted.
    #[arg(long, default_value_t = 4096, value_parser = parse_count, value_name = "N")]
    pub(super) max_in_flight: usize,
}

impl LoadOptions {
    /// A search for the highest rate, otherwise by the flags' defaults.
    pub(super) fn search(candidates: usize, p99: Duration, duration: Duration, connections: usize) -> Self {
        Self {
            candidates: vec![candidates],
            rate: vec![],
            callers: CALLERS,
            find_max: true,
            p99,
            duration,
            warm_up: duration.min(Duration::from_secs(2)),
            timeout: Duration::from_secs(5),
            connections,
            max_in_flight: 4096,
        }
    }

    /// The same load at one rate.
    pub(super) fn at(&self, rate: f64) -> Self {
        Self { rate: vec![rate], find_max: false, ..self.clone() }
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let workload = Workload::new(args.items.read()?, args.users);
    let mut channels = connect(&args.server, args.load.connections).await?;
    let info = model_info(&channels[0], None).await?;
    for server in args.replica {
        let replica = connect(&ConnectArgs { server, ..args.server.clone() }, args.load.connections).await?;
        let version = model_info(&replica[0], None).await?.version;
        ensure!(version == info.version, "--replica: serves version {version}, the first server {}", info.version);
        channels.extend(replica);
    }
    let mut report = Report::new(Some(&info));
    if args.history == HistoryMode::Stored {
        append::fill(&channels[0], &workload).await?;
    }
    measure(&channels, &workload, args.history, &args.load, &mut report).await?;
    report.finish(args.json.as_deref())
}

/// Runs every combination of candidates and rates; returns the last run that was sustained.
pub(super) async fn measure(
    channels: &[Transport],
    workload: &Workload,
    history: HistoryMode,
    options: &LoadOptions,
    report: &mut Report,
) -> anyhow::Result<Option<Measured>> {
    let mut sustained = None;
    ensure!(options.rate.iter().all(|rate| rate.is_finite() && *rate > 0.0), "--rate must be above 0");
    ensure!(!options.duration.is_zero(), "--duration must be above 0");
    for &candidates in &options.candidates {
        let requests: Arc<[RankRequest]> = workload.rank_requests(candidates, history).into();
        let probe = probe(&channels[0], &requests[0]).await?;
        let name = format!("{candidates} candidates, {} history", format!("{history:?}").to_lowercase());
        let sender = Sender { channels: channels.into(), requests, timeout: options.timeout };
        let load = |rate| Load {
            rate,
            callers: options.callers.get(),
            duration: options.duration,
            warm_up: options.warm_up,
            max_in_flight: options.max_in_flight.max(1),
        };
        if options.find_max {
            // A lone caller's rate is a floor.
            let first = (0.5 / probe.as_secs_f64()).clamp(1.0, 10_000.0);
            let runs = find_max(first, options.p99, |rate| sender.run(load(rate))).await;
            for (number, run) in runs.iter().enumerate() {
                let best = number + 1 == runs.len() && run.sustained(options.p99);
                report.rank(&if best { format!("{name}: highest rate") } else { format!("{name}: probe") }, run);
                if best {
                    sustained = Some(run.clone());
                }
            }
        } else {
            for &rate in &options.rate {
                let run = sender.run(load(rate)).await;
                report.rank(&name, &run);
                if run.sustained(options.p99) {
                    sustained = Some(run);
                }
            }
        }
    }
    Ok(sustained)
}

/// One request, to fail early with the server's message; returns the best time of five.
async fn probe(channel: &Transport, request: &RankRequest) -> anyhow::Result<Duration> {
    let mut client = RankingServiceClient::new(channel.clone());
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        let answer = client.rank(request.clone()).await.context("a first Rank failed")?.into_inner();
        best = best.min(started.elapsed());
        let unknown = answer.unknown_item_ids.len();
        ensure!(
            unknown == 0,
            "the server does not know {unknown} of {} candidates: are these the served model's items?",
            request.candidate_item_ids.len()
        );
    }
    Ok(best)
}

/// Sends requests over connections in turn.
struct Sender {
    channels: Arc<[Transport]>,
    requests: Arc<[RankRequest]>,
    timeout: Duration,
}

impl Sender {
    fn run(&self, load: Load) -> impl Future<Output = Measured> + use<> {
        let (channels, requests, timeout) = (self.channels.clone(), self.requests.clone(), self.timeout);
        open_loop(load, move |number| {
            let (channels, requests) = (channels.clone(), requests.clone());
            async move {
                let channel = channels[number as usize % channels.len()].clone();
                let mut request = Request::new(requests[number as usize % requests.len()].clone());
                request.set_timeout(timeout);
                match RankingServiceClient::new(channel).rank(request).await {
                    Ok(answer) => Answer { code: Code::Ok, timings: answer.into_inner().timings },
                    Err(status) => Answer { code: status.code(), timings: None },
                }
            }
        })
    }
}
