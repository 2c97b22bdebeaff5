//! `sesrec bench replicas`: servers that share a Redis, each a process of its own, and what an answer costs them.
//!
//! On one machine replicas share its cores, so that more of them can't do more. What shows is the processor time of a
//! Rank and of an event, in the servers and in Redis: where it stays the same as replicas are added, machines of their
//! own would each bring what the first one does, until Redis's core is full.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use redis::aio::MultiplexedConnection;

use super::{
    append, connect,
    local::{Temporary, unless_stopped},
    rank::{self, LoadOptions},
    report::{Costs, Report},
    workload::{HistoryMode, Users, Workload},
};
use crate::{
    cli::{
        client::model_info,
        connect_args::{ConnectArgs, Transport},
    },
    model::random,
    units::{parse_count, parse_duration},
};

/// Connections to each replica.
const CONNECTIONS: usize = 2;
/// Of the highest rate: where costs are measured, as an operator would plan.
const PLANNED: f64 = 0.7;

/// Options of `sesrec bench replicas`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many replicas; several values make several runs.
    #[arg(long, default_value = "1,2,4", value_delimiter = ',', value_name = "N,…")]
    replicas: Vec<usize>,
    /// The Redis that they share; nothing else should use it meanwhile.
    #[arg(long, default_value = "redis://localhost:6379", value_name = "URL")]
    redis: String,
    /// Items of the catalogue.
    #[arg(long, default_value_t = 100_000, value_parser = parse_count, value_name = "N")]
    items: usize,
    /// Candidates per request.
    #[arg(long, default_value_t = 100, value_parser = parse_count, value_name = "N")]
    candidates: usize,
    /// How histories reach the model: stored ones are read from Redis, and their users are encoded once.
    #[arg(long, value_enum, default_value = "stored")]
    history: HistoryMode,
    /// Ranks per second. Default: the highest rate that all of them together sustain is searched.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// The bound on the 99th percentile within which the highest rate is searched.
    #[arg(long, default_value = "50ms", value_parser = parse_duration, value_name = "DURATION")]
    p99: Duration,
    /// How long each run measures.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    duration: Duration,
    #[command(flatten)]
    users: Users,
    #[command(flatten)]
    append: append::LoadOptions,
    /// Write the figures to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    unless_stopped(measured(args)).await
}

async fn measured(args: Args) -> anyhow::Result<()> {
    ensure!(args.replicas.iter().all(|&replicas| replicas > 0), "--replicas must be above 0");
    let client = redis::Client::open(args.redis.as_str()).context("--redis")?;
    let mut redis =
        client.get_multiplexed_async_connection().await.with_context(|| format!("--redis {}", args.redis))?;
    let directory = Temporary::new()?;
    let bundle = directory.0.join("random-kuaishou");
    let (path, items) = (bundle.clone(), args.items.max(1));
    tokio::task::spawn_blocking(move || random::bundle(items)?.write(&path).context("writing the bundle")).await??;
    let users = |seed| Users { seed, ..args.users.clone() };
    let catalogue: Vec<String> = (0..items).map(random::item_id).collect();
    // Events go to users of their own: histories that are ranked stay as they are.
    let workloads = (
        Workload::new(catalogue.clone(), users(args.users.seed)),
        Workload::new(catalogue, users(args.users.seed.wrapping_add(1))),
    );

    let mut report = None;
    for &count in &args.replicas {
        let mut replicas = vec![];
        for _ in 0..count {
            replicas.push(Replica::start(&bundle, &args.redis).await?);
        }
        let channels = channels(&replicas).await?;
        let report = match &mut report {
            Some(report) => report,
            None => report.insert(Report::new(Some(&model_info(&channels[0], None).await?))),
        };
        append::fill(&channels[0], &workloads.0).await?;
        let costs = measure(&args, &replicas, &channels, (&workloads.0, &workloads.1), &mut redis, report).await?;
        report.costs(costs);
    }
    report.context("--replicas names no number")?.finish(args.json.as_deref())
}

/// Of all replicas, in turn: whoever takes a few of them has few of each.
async fn channels(replicas: &[Replica]) -> anyhow::Result<Vec<Transport>> {
    let mut by_replica = vec![];
    for replica in replicas {
        by_replica.push(connect(&ConnectArgs::plain(replica.url.clone()), CONNECTIONS).await?);
    }
    Ok((0..CONNECTIONS).flat_map(|number| by_replica.iter().map(move |channels| channels[number].clone())).collect())
}

/// Ranks, then appends.
async fn measure(
    args: &Args,
    replicas: &[Replica],
    channels: &[Transport],
    (ranked, appended): (&Workload, &Workload),
    redis: &mut MultiplexedConnection,
    report: &mut Report,
) -> anyhow::Result<Costs> {
    let load = LoadOptions::search(args.candidates, args.p99, args.duration, channels.len());
    let best = match args.rate {
        Some(_) => None,
        None => rank::measure(channels, ranked, args.history, &load, report).await?.map(|best| best.rate),
    };
    let rate = args.rate.or(best.map(|best| best * PLANNED)).context("no rate is sustained within --p99")?;
    // Everything that is answered counts, so nothing warms up first.
    let planned = LoadOptions { warm_up: Duration::ZERO, p99: Duration::MAX, ..load.at(rate) };
    let before = Spent::now(replicas, redis).await?;
    let run = rank::measure(channels, ranked, args.history, &planned, report).await?;
    let answers = run.with_context(|| format!("{rate:.0} Ranks/s are too many: see the errors above"))?.latency.len();
    let rank = before.until_now(replicas, redis).await?.each(answers);

    let options = append::LoadOptions { duration: args.duration, ..args.append.clone() };
    let before = Spent::now(replicas, redis).await?;
    let name = format!("append, {} replicas", replicas.len());
    let acknowledged = append::measure(channels, appended, &options, &name, report).await?;
    let event = before.until_now(replicas, redis).await?.each(acknowledged.events);
    let resident = replicas.iter().map(Replica::resident).sum::<Option<u64>>();
    Ok(Costs {
        replicas: replicas.len(),
        ranks_per_second: best.unwrap_or(rate),
        events_per_second: acknowledged.events as f64 / acknowledged.elapsed.as_secs_f64(),
        rank,
        event,
        resident_bytes: resident.map(|bytes| bytes / replicas.len() as u64),
    })
}

/// Processor seconds since the processes began.
#[derive(Clone, Copy)]
struct Spent {
    servers: f64,
    redis: f64,
}

impl Spent {
    async fn now(replicas: &[Replica], redis: &mut MultiplexedConnection) -> anyhow::Result<Self> {
        let servers = replicas.iter().map(Replica::processor_seconds).sum::<Option<f64>>();
        let info: String = redis::cmd("INFO").arg("cpu").query_async(redis).await.context("INFO cpu")?;
        let seconds = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        let redis = seconds("used_cpu_user:").zip(seconds("used_cpu_sys:")).context("INFO cpu says no times")?;
        Ok(Self {
            servers: servers.context("processor times of the replicas: there is no /proc")?,
            redis: redis.0 + redis.1,
        })
    }

    async fn until_now(self, replicas: &[Replica], redis: &mut MultiplexedConnection) -> anyhow::Result<Self> {
        let now = Self::now(replicas, redis).await?;
        Ok(Self { servers: now.servers - self.servers, redis: now.redis - self.redis })
    }

    /// Microseconds of the servers and of Redis.
    fn each(self, count: u64) -> (f64, f64) {
        let micros = |seconds: f64| seconds * 1e6 / count.max(1) as f64;
        (micros(self.servers), micros(self.redis))
    }
}

/// `sesrec serve` as a process. Killed when dropped.
struct Replica {
    process: Child,
    url: String,
}

impl Replica {
    /// Starts one and waits until it listens. It is killed, too, if nobody waits that long.
    async fn start(bundle: &Path, redis: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's path")?;
        let mut command = Command::new(program);
        // What its flags don't say are defaults, whatever the environment holds for other servers.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SESREC_")) {
            command.env_remove(name);
        }
        let mut process = command
            .args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off"])
            // What is measured is how much they can do: a busy machine's Redis is not to be called unavailable.
            .args(["--log", "info", "--log-format", "json", "--store-timeout", "20s", "--store", redis, "--model"])
            .arg(bundle)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting a replica")?;
        let log = process.stderr.take().context("a replica's log")?;
        let mut replica = Self { process, url: String::new() };
        replica.url = tokio::task::spawn_blocking(move || listening(log)).await??;
        Ok(replica)
    }

    /// User and system time.
    fn processor_seconds(&self) -> Option<f64> {
        // Linux counts in hundredths of a second here, whatever the kernel's own clock is.
        const TICKS: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).ok()?;
        // The name before it may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        Some((ticks(14)? + ticks(15)?) / TICKS)
    }

    fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        crate::telemetry::resident_bytes(&status)
    }
}

/// Where a replica listens, as soon as its log says so.
fn listening(log: ChildStderr) -> anyhow::Result<String> {
    let mut log = BufReader::new(log).lines();
    let mut said = String::new();
    for line in log.by_ref() {
        let line = line.context("a replica's log")?;
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if let ("gRPC", Some(address)) = (event["message"].as_str().unwrap_or_default(), event["address"].as_str()) {
            let url = format!("http://{address}");
            // What comes later has to be read, too, or the replica would wait for room in the pipe.
            std::thread::spawn(move || log.for_each(drop));
            return Ok(url);
        }
        said = line;
    }
    bail!("a replica ended before it listened: {said}")
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
