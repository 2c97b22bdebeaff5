//! `sesrec ingest`: events as NDJSON into AppendEvents, acknowledged, resumable.
//!
//! `source` reads lines, or entries of a Redis Stream (`stream`) → `flow` sends them and takes the acknowledgements →
//! `settled` knows how far the input is done, `rejects` keeps what can't be stored, `progress` tells people.

mod flow;
mod progress;
mod rejects;
mod settled;
mod source;
pub(super) mod stream;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use tonic::{Code, Status};

use flow::{Flow, Plan};
use progress::Summary;
use rejects::{DeadLetters, Rejects};
use source::{Checkpoint, Input, Source};
use stream::{StreamArgs, StreamSource};

use super::{
    client::{ServerArgs, describe, is_the_servers, retry_delay},
    signals::StopSignals,
};
use crate::{secrets::without_passwords, units::parse_duration};

const ABOUT: &str = "One proto3 JSON sesrec.v1.Event per line (here broken in two, to be read):
  {\"eventId\":\"e1\",\"userId\":\"u42\",\"time\":\"2026-01-31T12:00:00Z\",
   \"recommendation\":{\"itemId\":\"i7\"}}
  {\"eventId\":\"e2\",\"userId\":\"u42\",\"time\":\"2026-01-31T12:00:05Z\",
   \"search\":{\"searchId\":\"s1\",\"query\":\"red shoes\"}}
Sending a line twice is harmless: its event_id makes it a DUPLICATE.

From a compressed file:
  zcat events.ndjson.gz | sesrec ingest -
From a Redis Stream whose entries have such JSON in the field `event` (XADD searches * event '{…}'):
  sesrec ingest redis://localhost/searches --group sesrec \\
    --consumer $HOSTNAME --dead-letter rejected.ndjson
From Kafka, by its own client (docs/operating.md):
  kcat -b BROKER -C -t searches -o s@MILLISECONDS -q -u \\
    | sesrec ingest - --dead-letter rejected.ndjson";

/// Options of `sesrec ingest`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct Args {
    /// The events: a file, `-` for standard input, or a Redis Stream as redis://HOST:PORT/STREAM.
    #[arg(value_name = "INPUT", default_value = "-")]
    input: String,
    /// Remembers the last line of a file that is settled with all lines before it, and begins after it next time. Stays
    /// before the first rejected line, unless --dead-letter or --allow-rejects says what becomes of those.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Append events that can't be stored, with the reason, to this file as NDJSON; they are no failure then. A stream
    /// needs it: what is acknowledged there is gone.
    #[arg(long, value_name = "FILE")]
    dead_letter: Option<PathBuf>,
    /// Events on their way without an acknowledgement.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    window: u32,
    /// Succeed even if events were INVALID or in CONFLICT.
    #[arg(long)]
    allow_rejects: bool,
    /// How long to go on trying while the server can't be reached or refuses.
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "DURATION")]
    retry_for: Duration,
    #[command(flatten, next_help_heading = "Redis Streams")]
    stream: StreamArgs,
    #[command(flatten, next_help_heading = "Server")]
    server: ServerArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let streaming = StreamSource::is_stream(&args.input);
    let mut flow = Flow::new(args.plan().await?);
    let mut stop = StopSignals::listen();
    let ended = tokio::select! {
        ended = send_all(&args, &mut flow) => ended,
        // For a stream that is the usual end: what is not acknowledged is read again.
        _ = stop.next() => if streaming { Ok(()) } else { Err(anyhow::anyhow!("interrupted")) },
    };
    let summary = flow.finish().await?;
    summary.print(&ended);
    if let Some(hint) = summary.hint() {
        eprintln!("{hint}");
    }
    ended.with_context(|| match &args.checkpoint {
        Some(path) => format!("stopped after line {}; {} says where to go on", summary.settled_line, path.display()),
        None if streaming => "stopped; what is not acknowledged will be read again".into(),
        None => format!("stopped after line {}; sending the file again is harmless", summary.settled_line),
    })?;
    args.judge(&summary)
}

impl Args {
    async fn plan(&self) -> anyhow::Result<Plan> {
        let mut checkpoint = None;
        let input = if StreamSource::is_stream(&self.input) {
            anyhow::ensure!(self.checkpoint.is_none(), "--checkpoint: a stream's group remembers where it is");
            anyhow::ensure!(
                self.dead_letter.is_some(),
                "a stream needs --dead-letter FILE, for events that can't be stored"
            );
            let stream = StreamSource::open(&self.input, &self.stream, self.window as usize, self.retry_for);
            Input::Stream(stream.await?)
        } else {
            let path = Path::new(&self.input);
            if let Some(file) = &self.checkpoint {
                anyhow::ensure!(
                    self.input != "-" && path.metadata().with_context(|| self.input.clone())?.is_file(),
                    "--checkpoint is for files: a pipe can't be read again (what is sent twice is a DUPLICATE, so begin early enough)"
                );
                checkpoint = Some(Checkpoint::read(file, path)?);
            }
            Input::Lines(Source::open(path, checkpoint.as_ref().map_or(0, Checkpoint::line)).await?)
        };
        Ok(Plan {
            input,
            window: self.window as usize,
            checkpoint,
            rejects: match &self.dead_letter {
                Some(path) => Rejects::Keep(DeadLetters::open(path, without_passwords(&self.input))?),
                None if self.allow_rejects => Rejects::Allow,
                None => Rejects::Fail,
            },
        })
    }

    /// Whether events that can't be stored are a failure.
    fn judge(&self, summary: &Summary) -> anyhow::Result<()> {
        match summary.rejected() {
            0 => Ok(()),
            _ if self.allow_rejects || self.dead_letter.is_some() => Ok(()),
            n => {
                bail!("{n} events were rejected (--dead-letter FILE keeps them, --allow-rejects makes that a success)")
            }
        }
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
        // A source may be quiet for longer than streams live: what ends then has failed nothing.
        if flow.settled() > settled || flow.ended_idle() {
            (settled, pause, failing_since) = (flow.settled(), FIRST_PAUSE, tokio::time::Instant::now());
        }
        if !may_pass(&failure) {
            if flow.give_up_oldest(&failure)? {
                continue;
            }
            return Err(describe(&failure).context(flow.oldest_open().to_string()));
        }
        // Or quiet on a stream that lives for long.
        if failing_since.max(flow.open_since()).elapsed() > args.retry_for {
            return Err(describe(&failure).context(format!("no event got through for {:?}", args.retry_for)));
        }
        let wait = wait(retry_delay(&failure), pause, rand::random());
        flow.note(format!("{:?}: {}; again in {:.1} s", failure.code(), failure.message(), wait.as_secs_f64()));
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the server asks for, or `pause` where that is longer; and by `random` (0 to 1) up to half as long again: the
/// server asks all for the same, and senders that failed together must not come back together.
fn wait(asked: Option<Duration>, pause: Duration, random: f64) -> Duration {
    asked.unwrap_or_default().max(pause).mul_f64(1.0 + random / 2.0)
}

/// Outages, overload, restarts. Everything else would fail again.
fn may_pass(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::ResourceExhausted
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::Unknown => true,
        // Also what gRPC calls a stream that a proxy or a dying connection reset.
        Code::Internal | Code::DataLoss => !is_the_servers(status),
        _ => std::error::Error::source(status).is_some_and(|source| source.is::<tonic::transport::Error>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::StoreError, service::ServiceError};

    #[test]
    fn senders_that_are_asked_to_wait_for_the_same_time_come_back_at_different_ones() {
        let [asked, short, long] = [500, 100, 10_000].map(Duration::from_millis);
        assert_eq!(wait(Some(asked), short, 0.0), asked);
        assert_eq!(wait(Some(asked), short, 0.5), Duration::from_millis(625));
        assert_eq!(wait(Some(asked), long, 0.5), Duration::from_millis(12_500));
        assert_eq!(wait(None, short, 1.0), Duration::from_millis(150));
        // Whatever a proxy in between asks for.
        assert!(wait(Some(Duration::from_secs(i64::MAX as u64)), short, 1.0) > asked);
    }

    #[test]
    fn a_broken_stream_may_pass_and_what_the_server_says_of_an_event_does_not() {
        let reset = Status::internal("h2 protocol error: error reading a body from connection");
        assert!(may_pass(&reset) && may_pass(&Status::unavailable("")));
        assert!(!may_pass(&ServiceError::Store(StoreError::Corrupt("a record".into())).into()));
        assert!(!may_pass(&ServiceError::Internal.into()) && !may_pass(&Status::unimplemented("")));
    }
}
