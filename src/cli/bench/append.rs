//! `sesrec bench append`: a closed loop. Each stream keeps a window of unacknowledged events, as an ingesting pipeline
//! does.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    super::{
        client::model_info,
        connect_args::{ConnectArgs, Transport},
    },
    connect,
    load::latency_histogram,
    report::Report,
    workload::{ItemSource, Users, Workload},
};
use crate::{
    domain::EventTime,
    proto::{
        timestamp_of_millis,
        v1::{
            AppendEventRequest, Event, Outcome, Recommendation, SearchClick, event::Payload,
            ranking_service_client::RankingServiceClient,
        },
    },
    units::{parse_count, parse_duration},
};

/// Options of `sesrec bench append`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten, next_help_heading = "Server")]
    server: ConnectArgs,
    #[command(flatten)]
    items: ItemSource,
    #[command(flatten)]
    users: Users,
    #[command(flatten)]
    load: LoadOptions,
    /// How long it measures.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    duration: Duration,
    /// Write the figures to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How much load.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LoadOptions {
    /// Streams side by side.
    #[arg(long, default_value_t = 8, value_parser = parse_count, value_name = "N")]
    pub(super) streams: usize,
    /// Unacknowledged events per stream.
    #[arg(long, default_value_t = 256, value_parser = parse_count, value_name = "W")]
    pub(super) window: usize,
    /// Events in a row of one user: interactions, then, where there are three or more, a search and a click on it.
    #[arg(long, default_value_t = 10, value_parser = parse_count, value_name = "N")]
    pub(super) visit: usize,
    /// How long it measures; each command has its own flag for it.
    #[arg(skip)]
    pub(super) duration: Duration,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let workload = Workload::new(args.items.read()?, args.users);
    let channels = connect(&args.server, args.load.streams.min(8)).await?;
    let info = model_info(&channels[0], None).await?;
    let mut report = Report::new(Some(&info));
    let load = LoadOptions { duration: args.duration, ..args.load };
    measure(&channels, &workload, &load, "append", &mut report).await?;
    report.finish(args.json.as_deref())
}

/// Acknowledged events, and how long they took, those under way at the end included.
pub(super) struct Acknowledged {
    pub(super) events: u64,
    pub(super) elapsed: Duration,
}

/// Appends for the duration and reports what was acknowledged.
pub(super) async fn measure(
    channels: &[Transport],
    workload: &Workload,
    options: &LoadOptions,
    name: &str,
    report: &mut Report,
) -> anyhow::Result<Acknowledged> {
    let LoadOptions { streams, window, visit, .. } = *options;
    // Another run must not be a replay of this one.
    let run = EventTime::now().nanos();
    let started = Instant::now();
    let until = started + options.duration;
    let mut tasks = vec![];
    for number in 0..streams {
        let events = Events::new(workload.clone(), visit, format!("{run:x}-{number}"), number);
        let channel = channels[number % channels.len()].clone();
        tasks.push(tokio::spawn(stream(channel, window, events.take_while(move |_| Instant::now() < until))));
    }
    let (mut latency, mut errors) = (latency_histogram(), BTreeMap::new());
    for task in tasks {
        let done = task.await.context("a stream's task")??;
        latency.add(&done.latency).context("histograms of equal bounds add")?;
        for (outcome, count) in done.refused {
            *errors.entry(outcome).or_default() += count;
        }
    }
    let name = format!("{name}: {streams} streams, window {window}");
    let elapsed = started.elapsed();
    report.closed(&name, &latency, errors, elapsed);
    Ok(Acknowledged { events: latency.len(), elapsed })
}

/// Gives every user of a workload its history; repeating it changes nothing.
pub(super) async fn fill(channel: &Transport, workload: &Workload) -> anyhow::Result<()> {
    let workload = workload.clone();
    // A fixed, recent day, so that a second fill is a replay and nothing is past its time to live.
    let now = (EventTime::now().nanos() / 1_000_000_000).cast_signed();
    let start = now - now % 86_400 - 86_400;
    let events = (0..workload.users()).flat_map(move |user| {
        let history = workload.history(user);
        let user_id = workload.user_id(user);
        let recommendations = history.recommendations.into_iter().map(Payload::Recommendation);
        let payloads = recommendations.chain(history.searches.into_iter().map(Payload::Search));
        payloads.enumerate().map(move |(number, payload)| Event {
            event_id: format!("fill-{start}-{number}"),
            user_id: user_id.clone(),
            time: Some(timestamp_of_millis((start + number as i64) * 1_000)),
            payload: Some(payload),
        })
    });
    let done = stream(channel.clone(), 1024, events).await?;
    ensure!(done.refused.is_empty(), "filling histories: the server refused events: {:?}", done.refused);
    Ok(())
}

#[derive(Debug)]
struct Done {
    /// Microseconds from sending to acknowledgement, of events that were applied or known.
    latency: Histogram<u64>,
    refused: BTreeMap<String, u64>,
}

/// Sends events over one stream, at most `window` unacknowledged.
async fn stream(
    channel: Transport,
    window: usize,
    events: impl Iterator<Item = Event> + Send + 'static,
) -> anyhow::Result<Done> {
    let (sender, receiver) = mpsc::channel::<AppendEventRequest>(window);
    let permits = Arc::new(Semaphore::new(window));
    let sent: Arc<Mutex<VecDeque<Instant>>> = Arc::default();
    let producer = {
        let (permits, sent) = (permits.clone(), sent.clone());
        tokio::spawn(async move {
            for event in events {
                let Ok(permit) = permits.acquire().await else { return };
                permit.forget();
                sent.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
                if sender.send(AppendEventRequest { event: Some(event) }).await.is_err() {
                    return;
                }
            }
        })
    };
    let mut done = Done { latency: latency_histogram(), refused: BTreeMap::new() };
    let mut client = RankingServiceClient::new(channel);
    let answers = client.append_events(ReceiverStream::new(receiver)).await.context("AppendEvents")?;
    let mut answers = answers.into_inner();
    while let Some(answer) = answers.message().await.context("AppendEvents: the stream broke")? {
        let sent_at = sent.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let sent_at = sent_at.context("AppendEvents: more acknowledgements than events")?;
        match answer.outcome() {
            Outcome::Applied | Outcome::Duplicate => {
                done.latency.saturating_record(sent_at.elapsed().as_micros() as u64);
            }
            other => *done.refused.entry(other.as_str_name().to_owned()).or_default() += 1,
        }
        permits.add_permits(1);
    }
    permits.close();
    producer.await.context("the sending task")?;
    let missing = sent.lock().unwrap_or_else(PoisonError::into_inner).len();
    ensure!(missing == 0, "AppendEvents: {missing} events were not acknowledged");
    Ok(done)
}

/// Endless new events of all users, visit by visit.
pub(super) struct Events {
    workload: Workload,
    visit: usize,
    prefix: String,
    stream: usize,
    number: usize,
    rng: ChaCha8Rng,
}

impl Events {
    pub(super) fn new(workload: Workload, visit: usize, prefix: String, stream: usize) -> Self {
        let rng = workload.rng(stream, 2);
        Self { workload, visit, prefix, stream, number: 0, rng }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let number = self.number;
        self.number += 1;
        // A visit is one user's, so that a click finds its search.
        let visit = number / self.visit;
        let search_id = format!("{}-{visit}", self.prefix);
        let payload = match self.visit - number % self.visit {
            2 if self.visit > 2 => {
                let mut search = self.workload.search(number, &mut self.rng);
                search.search_id = search_id;
                Payload::Search(search)
            }
            1 if self.visit > 2 => {
                Payload::SearchClick(SearchClick { search_id, item_id: self.workload.item(&mut self.rng) })
            }
            _ => Payload::Recommendation(Recommendation { item_id: self.workload.item(&mut self.rng) }),
        };
        let user = visit.wrapping_mul(7919).wrapping_add(self.stream);
        Some(Event {
            event_id: format!("{}-{number}", self.prefix),
            user_id: self.workload.user_id(user),
            time: Some(EventTime::now().into()),
            payload: Some(payload),
        })
    }
}
