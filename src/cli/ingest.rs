//! `sesrec ingest`: events as NDJSON into AppendEvents, acknowledged, resumable.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use tonic::{Code, Status};

use super::{
    client::{ServerArgs, describe, retry_delay},
    ingest_flow::{Flow, Summary},
    ingest_source::{Checkpoint, Source},
};
use crate::engine::parse_duration;

/// Options of `sesrec ingest`.
#[derive(Debug, clap::Args)]
#[command(after_help = "One proto3 JSON sesrec.v1.Event per line:
  {\"eventId\":\"e1\",\"userId\":\"u42\",\"time\":\"2026-01-31T12:00:00Z\",\"recommendation\":{\"itemId\":\"i7\"}}
  {\"eventId\":\"e2\",\"userId\":\"u42\",\"time\":\"2026-01-31T12:00:05Z\",\"search\":{\"searchId\":\"s1\",\"query\":\"red shoes\"}}
Sending a line twice is harmless: its event_id makes it a DUPLICATE.")]
pub struct Args {
    /// The events; `-` is standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Remembers the last line that is settled with all lines before it, and begins after it next time.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Events on their way without an acknowledgement.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    window: u32,
    /// Succeed even if events were INVALID or in CONFLICT.
    #[arg(long)]
    allow_rejects: bool,
    /// How long to go on trying while the server can't be reached or refuses.
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "DURATION")]
    retry_for: Duration,
    #[command(flatten, next_help_heading = "Server")]
    server: ServerArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let checkpoint = match &args.checkpoint {
        Some(path) => Some(Checkpoint::read(path, &args.file)?),
        None => None,
    };
    let after = checkpoint.as_ref().map_or(0, Checkpoint::line);
    let source = Source::open(&args.file, after).await?;
    let mut flow = Flow::new(source, args.window as usize, checkpoint);
    let ended = tokio::select! {
        ended = send_all(&args, &mut flow) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let summary = flow.finish()?;
    summary.print();
    if let Some(hint) = summary.hint() {
        eprintln!("{hint}");
    }
    ended.with_context(|| match &args.checkpoint {
        Some(path) => format!("stopped after line {}; {} says where to go on", summary.settled_line, path.display()),
        None => format!("stopped after line {}; sending the file again is harmless", summary.settled_line),
    })?;
    judge(&summary, args.allow_rejects)
}

fn judge(summary: &Summary, allow_rejects: bool) -> anyhow::Result<()> {
    match summary.rejected() {
        0 => Ok(()),
        _ if allow_rejects => Ok(()),
        n => bail!("{n} events were rejected (--allow-rejects makes that a success)"),
    }
}

/// Sends until everything is acknowledged; connects again after failures that may pass.
async fn send_all(args: &Args, flow: &mut Flow) -> anyhow::Result<()> {
    const FIRST_PAUSE: Duration = Duration::from_millis(100);
    const LONGEST_PAUSE: Duration = Duration::from_secs(10);
    let client = args.server.connect_lazy()?;
    let mut pause = FIRST_PAUSE;
    let mut settled = flow.settled();
    let mut failing_since = tokio::time::Instant::now();
    loop {
        let failure = match flow.send(client.clone()).await? {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if flow.settled() > settled {
            (settled, pause, failing_since) = (flow.settled(), FIRST_PAUSE, tokio::time::Instant::now());
        }
        if !may_pass(&failure) {
            return Err(describe(&failure).context(format!("line {}", flow.oldest_open_line())));
        }
        if failing_since.elapsed() > args.retry_for {
            return Err(describe(&failure).context(format!("no event got through for {:?}", args.retry_for)));
        }
        // Half of the pause is random, so that senders that failed together don't come back together.
        let wait =
            retry_delay(&failure).unwrap_or_default().max(pause / 2 + pause.mul_f64(rand::random::<f64>() / 2.0));
        flow.note(format!("{:?}: {}; again in {:.1} s", failure.code(), failure.message(), wait.as_secs_f64()));
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Outages, overload, restarts. Everything else would fail again.
fn may_pass(status: &Status) -> bool {
    let transport = std::error::Error::source(status).is_some_and(|source| source.is::<tonic::transport::Error>());
    transport
        || matches!(
            status.code(),
            Code::Unavailable
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Aborted
                | Code::Unknown
        )
}
