//! `sesrec bench events`: events for `sesrec ingest` to be measured with, as lines or as entries of a Redis Stream.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use anyhow::{Context, bail};

use super::{
    append::Events,
    workload::{Users, Workload},
};
use crate::{
    cli::ingest::stream::{StreamSource, split},
    domain::EventTime,
    model::random,
    proto::v1::Event,
    units::parse_count,
};

/// Of the model of `bench local`; a store keeps whatever item is named.
const ITEMS: usize = 100_000;
/// Events in a row of one user: eight interactions, a search, a click on it.
const VISIT: usize = 10;
/// Entries per round trip.
const PIPELINE: usize = 1000;

/// Options of `sesrec bench events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to: a file, `-` (standard output), or a stream as redis://HOST:PORT/STREAM.
    #[arg(value_name = "OUTPUT", default_value = "-")]
    output: String,
    /// How many.
    #[arg(long, default_value_t = 200_000, value_parser = parse_count, value_name = "N")]
    count: usize,
    /// Distinct users.
    #[arg(long, default_value_t = 10_000, value_parser = parse_count, value_name = "N")]
    users: usize,
    /// The field of an entry that gets the event.
    #[arg(long, default_value = "event", value_name = "NAME")]
    field: String,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let users = Users { users: args.users, recommendations: 0, searches: 0, seed: 1 };
    let workload = Workload::new((0..ITEMS).map(random::item_id).collect(), users);
    // Other ids each time, or the second ingestion would be one of duplicates.
    let run = EventTime::now().nanos();
    let events = Events::new(workload, VISIT, format!("{run:x}"), 0).take(args.count);
    if StreamSource::is_stream(&args.output) {
        return add(&args.output, &args.field, events).await;
    }
    if args.output.contains("://") {
        bail!("{}: is neither a file nor redis://HOST:PORT/STREAM", args.output);
    }
    let output: Box<dyn Write> = match args.output.as_str() {
        "-" => Box::new(io::stdout().lock()),
        path if Path::new(path).is_file() => bail!("{path} exists: choose another file, or delete it"),
        path => Box::new(File::create(path).with_context(|| path.to_owned())?),
    };
    let mut output = BufWriter::new(output);
    for event in events {
        serde_json::to_writer(&mut output, &event).context("an event as JSON")?;
        output.write_all(b"\n").with_context(|| args.output.clone())?;
    }
    output.flush().with_context(|| args.output.clone())
}

async fn add(url: &str, field: &str, events: impl Iterator<Item = Event>) -> anyhow::Result<()> {
    let (server, stream) = split(url)?;
    let client = redis::Client::open(server).context("the stream's URL")?;
    let mut connection = client.get_multiplexed_async_connection().await.context("the stream's Redis")?;
    let mut events = events.peekable();
    while events.peek().is_some() {
        let mut pipeline = redis::pipe();
        for event in events.by_ref().take(PIPELINE) {
            let text = serde_json::to_string(&event).context("an event as JSON")?;
            pipeline.cmd("XADD").arg(&[stream.as_str(), "*", field, &text]).ignore();
        }
        let added: redis::RedisResult<()> = pipeline.query_async(&mut connection).await;
        added.with_context(|| format!("the stream {stream}"))?;
    }
    Ok(())
}
