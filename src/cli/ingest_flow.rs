//! The flow of events to the server: a bounded window of unacknowledged ones, sent again after a reconnect.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{
    client::Client,
    ingest_rejects::{DeadLetters, Rejected},
    ingest_source::{Checkpoint, Input, Line, MAX_LINE_BYTES, Position},
};
use crate::proto::v1::{self, Outcome};

/// How many rejected lines are shown one by one.
const SHOWN_REJECTS: u64 = 20;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// How often a stream's progress is shown where there is no terminal for a bar.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Events in a row that may break the stream by themselves. More: it is not the events.
const BREAKERS: u32 = 10;

/// An event on its way.
struct Open {
    position: Position,
    request: v1::AppendEventRequest,
}

/// Everything between the input and its acknowledgements.
pub(super) struct Flow {
    input: Input,
    name: String,
    window: usize,
    /// In the order of the input, which is the order of acknowledgements.
    open: VecDeque<Open>,
    /// The last line read.
    read_line: u64,
    input_ended: bool,
    checkpoint: Option<Checkpoint>,
    checkpoint_written: Instant,
    /// Of lines whose rejection is a failure: they are still to be dealt with.
    first_rejected: Option<u64>,
    allow_rejects: bool,
    dead_letters: Option<DeadLetters>,
    outcomes: BTreeMap<&'static str, u64>,
    settled: u64,
    /// Events given up in a row because the stream broke at them.
    broke: u32,
    /// Since when there has been something open.
    open_since: tokio::time::Instant,
    /// Whether the last stream was accepted and ended with nothing open.
    ended_idle: bool,
    started: Instant,
    told: Instant,
    bar: ProgressBar,
}

/// What is sent, and what is kept of it.
pub(super) struct Plan {
    pub(super) input: Input,
    /// The input as dead letters name it, without a password.
    pub(super) name: String,
    pub(super) window: usize,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Whether rejected events are no failure.
    pub(super) allow_rejects: bool,
    pub(super) dead_letters: Option<DeadLetters>,
}

/// What became of everything.
pub(super) struct Summary {
    outcomes: BTreeMap<&'static str, u64>,
    elapsed: Duration,
    /// Everything up to this line is settled.
    pub(super) settled_line: u64,
}

impl Flow {
    /// Nothing sent yet.
    pub(super) fn new(plan: Plan) -> Self {
        let Plan { input, name, window, checkpoint, allow_rejects, dead_letters } = plan;
        let bar = match input.size() {
            Some(size) => ProgressBar::new(size).with_style(style("{bar:30} {percent:>3} %  {msg}")),
            None => ProgressBar::new_spinner().with_style(style("{spinner} {msg}")),
        };
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            read_line: checkpoint.as_ref().map_or(0, Checkpoint::line),
            input,
            name,
            window,
            open: VecDeque::new(),
            input_ended: false,
            checkpoint,
            checkpoint_written: Instant::now(),
            first_rejected: None,
            allow_rejects,
            dead_letters,
            outcomes: BTreeMap::new(),
            settled: 0,
            broke: 0,
            open_since: tokio::time::Instant::now(),
            ended_idle: false,
            started: Instant::now(),
            told: Instant::now(),
            bar,
        }
    }

    /// Sends what is open, then what the input has, over one stream. `Ok(Ok(()))`: all is acknowledged;
    /// `Ok(Err(status))`: the stream failed, what is open has to be sent again; `Err`: the input or the checkpoint
    /// failed.
    pub(super) async fn send(&mut self, mut client: Client) -> anyhow::Result<Result<(), Status>> {
        // Room for the whole window: sending below never waits, so that reading acknowledgements never does.
        let (sender, receiver) = mpsc::channel(self.window);
        for open in &self.open {
            let _ = sender.try_send(open.request.clone());
        }
        let mut sender = Some(sender);
        if self.open.is_empty() && self.input_ended {
            return Ok(Ok(()));
        }
        self.ended_idle = false;
        let mut answers = match client.append_events(ReceiverStream::new(receiver)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            if self.input_ended {
                // Half-closes the stream: the server ends it after the last acknowledgement.
                sender = None;
            }
            let room = !self.input_ended && self.open.len() < self.window;
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.settle(&answer)?,
                    Ok(None) if self.input_ended && self.open.is_empty() => return Ok(Ok(())),
                    ended => {
                        self.ended_idle = self.open.is_empty();
                        let early = || Status::unavailable("the server ended the stream early");
                        return Ok(Err(ended.err().unwrap_or_else(early)));
                    }
                },
                line = self.input.next(), if room => {
                    let line = line.context("reading the input")?;
                    if let (Some(request), Some(sender)) = (self.read(line)?, &sender) {
                        let _ = sender.try_send(request);
                    }
                    self.save_sometimes()?;
                }
                _ = tick.tick() => self.tell(),
            }
        }
    }

    /// Takes a line in: what is to be sent, if anything.
    fn read(&mut self, line: Option<(Position, Line)>) -> anyhow::Result<Option<v1::AppendEventRequest>> {
        let Some((position, text)) = line else {
            self.input_ended = true;
            return Ok(None);
        };
        let before = self.read_line;
        if let Position::Line(line) = position {
            self.read_line = line;
        }
        let unended = matches!(text, Line::Open(_));
        let (text, reason) = match text {
            Line::Text(text) | Line::Open(text)
                if text.iter().all(u8::is_ascii_whitespace) && matches!(position, Position::Line(_)) =>
            {
                return Ok(None);
            }
            Line::Text(text) | Line::Open(text) => match serde_json::from_slice::<v1::Event>(&text) {
                Ok(event) => {
                    let request = v1::AppendEventRequest { event: Some(event) };
                    if self.open.is_empty() {
                        self.open_since = tokio::time::Instant::now();
                    }
                    self.open.push_back(Open { position, request: request.clone() });
                    return Ok(Some(request));
                }
                // The beginning of an event whose writer has not come to its end. Rejected, the whole event would never
                // be sent, as the checkpoint says that this line is settled.
                Err(_) if unended && self.checkpoint.is_some() => {
                    self.note(format!("{position} has no end and is no event yet: left for the next run"));
                    (self.read_line, self.input_ended) = (before, true);
                    return Ok(None);
                }
                Err(error) => (text, format!("not a proto3 JSON sesrec.v1.Event: {error}")),
            },
            Line::TooLong => (vec![], format!("longer than {MAX_LINE_BYTES} bytes, which no event is")),
            Line::Unusable(reason) => (vec![], reason),
        };
        self.reject(&position, "INVALID", &reason, String::from_utf8_lossy(&text).trim())?;
        Ok(None)
    }

    fn settle(&mut self, answer: &v1::AppendEventResponse) -> anyhow::Result<()> {
        let open = self.open.pop_front().context("the server acknowledged an event that was not sent")?;
        let sent = open.request.event.as_ref().map(|event| event.event_id.as_str()).unwrap_or_default();
        // An INVALID event's id may be what is invalid: it comes back shortened.
        anyhow::ensure!(
            sent == answer.event_id || answer.outcome() == Outcome::Invalid,
            "{}: the server acknowledged {:?} instead of {sent:?}",
            open.position,
            answer.event_id
        );
        self.broke = 0;
        match answer.outcome() {
            Outcome::Invalid => {
                let violations = answer.field_violations.iter();
                let reasons: Vec<_> = violations.map(|v| format!("{} {}", v.field, v.description)).collect();
                self.reject(&open.position, "INVALID", &reasons.join("; "), &text(&open.request))?;
            }
            Outcome::Conflict => {
                let reason = format!("event_id {sent} is stored with another payload or time");
                self.reject(&open.position, "CONFLICT", &reason, &text(&open.request))?;
            }
            outcome => {
                self.input.settled(&open.position);
                self.count(outcome.as_str_name());
            }
        }
        self.save_sometimes()
    }

    /// Gives up the oldest open event, at which the stream broke: the server acknowledges in order, up to the event
    /// that its store fails on. `false`: not without a dead-letter file, and not if others before it met the same.
    pub(super) fn give_up_oldest(&mut self, status: &Status) -> anyhow::Result<bool> {
        let events_fault = matches!(
            status.code(),
            // The last one: longer than an event can be.
            Code::DataLoss | Code::Internal | Code::InvalidArgument | Code::OutOfRange
        );
        if !events_fault || self.dead_letters.is_none() || self.broke >= BREAKERS {
            return Ok(false);
        }
        let Some(open) = self.open.pop_front() else { return Ok(false) };
        self.broke += 1;
        let reason = format!("{:?}: {}", status.code(), status.message());
        self.reject(&open.position, "FAILED", &reason, &text(&open.request))?;
        Ok(true)
    }

    fn reject(&mut self, position: &Position, outcome: &'static str, reason: &str, event: &str) -> anyhow::Result<()> {
        if let Some(letters) = &mut self.dead_letters {
            letters.write(&self.name, &Rejected { position: &position.to_string(), outcome, reason, event })?;
            // An entry is acknowledged right away, a line with the next checkpoint.
            if matches!(position, Position::Entry(_)) {
                letters.sync()?;
            }
        } else if let (Position::Line(line), false) = (position, self.allow_rejects) {
            // Some are found out when they are read, others when the server has answered.
            self.first_rejected = Some(self.first_rejected.map_or(*line, |first| first.min(*line)));
        }
        self.input.settled(position);
        self.count(outcome);
        let shown = rejected(&self.outcomes);
        if shown <= SHOWN_REJECTS {
            self.note(format!("{position}: {outcome}: {reason}"));
        } else if shown == SHOWN_REJECTS + 1 {
            self.note("further rejected events are only counted".into());
        }
        Ok(())
    }

    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
        self.settled += 1;
        // Formatting for every event would cost more than sending it.
        if self.settled.is_multiple_of(256) {
            self.bar.set_position(self.input.bytes());
            self.bar.set_message(self.progress());
        }
    }

    fn progress(&self) -> String {
        let rate = self.settled as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let status = self.input.status().map(|status| format!("  {status}")).unwrap_or_default();
        format!("{} events/s  {}{status}", HumanCount(rate as u64), list(&self.outcomes))
    }

    /// A stream goes on for days: its progress is shown also while nothing comes, and where there is no terminal.
    fn tell(&mut self) {
        if self.input.status().is_some() {
            self.bar.set_message(self.progress());
            if self.bar.is_hidden() && self.told.elapsed() > TELL_EVERY {
                self.told = Instant::now();
                eprintln!("{}", self.progress());
            }
        }
    }

    /// Says something without disturbing the bar; also where there is no terminal for one.
    pub(super) fn note(&self, text: String) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Events with an outcome.
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// Since when there has been something open, if there is.
    pub(super) fn open_since(&self) -> tokio::time::Instant {
        self.open_since
    }

    /// Whether the last stream had been accepted, and nothing was open when it ended.
    pub(super) fn ended_idle(&self) -> bool {
        self.ended_idle
    }

    /// The oldest event without an acknowledgement.
    pub(super) fn oldest_open(&self) -> Position {
        self.open.front().map_or(Position::Line(self.read_line + 1), |open| open.position.clone())
    }

    fn settled_line(&self) -> u64 {
        let settled = match self.open.front() {
            Some(Open { position: Position::Line(line), .. }) => line - 1,
            _ => self.read_line,
        };
        self.first_rejected.map_or(settled, |rejected| settled.min(rejected - 1))
    }

    fn save_sometimes(&mut self) -> anyhow::Result<()> {
        if self.checkpoint_written.elapsed() > CHECKPOINT_EVERY { self.save() } else { Ok(()) }
    }

    fn save(&mut self) -> anyhow::Result<()> {
        let line = self.settled_line();
        self.checkpoint_written = Instant::now();
        if let Some(letters) = &mut self.dead_letters {
            letters.sync()?;
        }
        self.checkpoint.as_mut().map_or(Ok(()), |checkpoint| checkpoint.write(line))
    }

    /// Writes the checkpoint and sums up.
    pub(super) async fn finish(mut self) -> anyhow::Result<Summary> {
        self.save()?;
        self.bar.finish_and_clear();
        let (settled_line, elapsed) = (self.settled_line(), self.started.elapsed());
        self.input.close().await?;
        Ok(Summary { settled_line, elapsed, outcomes: self.outcomes })
    }
}

impl Summary {
    /// One line for people; nothing where nothing could be done.
    pub(super) fn print(&self, ended_well: bool) {
        let events: u64 = self.outcomes.values().sum();
        let rate = events as f64 / self.elapsed.as_secs_f64().max(1e-3);
        let outcomes = match (events, ended_well) {
            (0, false) => return,
            (0, true) => "nothing to do".into(),
            _ => list(&self.outcomes),
        };
        println!(
            "{} events in {:.1} s ({rate:.0} events/s): {outcomes}",
            HumanCount(events),
            self.elapsed.as_secs_f64()
        );
    }

    /// What to do, where most events were dropped for their age: that is rarely what was meant.
    pub(super) fn hint(&self) -> Option<String> {
        let events: u64 = self.outcomes.values().sum();
        let too_old = self.outcomes.get(Outcome::TooOld.as_str_name()).copied().unwrap_or(0);
        (too_old > events / 2).then(|| {
            format!(
                "hint: {} of {} events were TOO_OLD and are not stored: they are older than the server's --time-to-live, \
                 or than all that it keeps of their users. To replay old logs, start the server with \
                 `serve --time-to-live 0s`",
                HumanCount(too_old),
                HumanCount(events)
            )
        })
    }

    /// Events that the server refused for good.
    pub(super) fn rejected(&self) -> u64 {
        rejected(&self.outcomes)
    }
}

fn rejected(outcomes: &BTreeMap<&'static str, u64>) -> u64 {
    ["INVALID", "CONFLICT", "FAILED"].iter().filter_map(|name| outcomes.get(name)).sum()
}

fn text(request: &v1::AppendEventRequest) -> String {
    request.event.as_ref().and_then(|event| serde_json::to_string(event).ok()).unwrap_or_default()
}

fn list(outcomes: &BTreeMap<&'static str, u64>) -> String {
    outcomes.iter().map(|(name, n)| format!("{name} {}", HumanCount(*n))).collect::<Vec<_>>().join(", ")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::{super::ingest_source::Source, *};

    /// A log may be read while its writer is in the middle of a line.
    #[tokio::test]
    async fn an_event_that_is_half_written_is_left_for_the_next_run() {
        let directory = tempfile::tempdir().unwrap();
        let [log, mark, letters] = ["log", "mark", "letters"].map(|name| directory.path().join(name));
        let line = |n: u32| format!(r#"{{"eventId":"e{n}","userId":"u","recommendation":{{"itemId":"i"}}}}"#);
        let read_all = async |checkpoint: Option<Checkpoint>| {
            let plan = Plan {
                input: Input::Lines(Source::open(&log, checkpoint.as_ref().map_or(0, Checkpoint::line)).await.unwrap()),
                name: "log".into(),
                window: 8,
                checkpoint,
                allow_rejects: false,
                dead_letters: Some(DeadLetters::open(&letters).unwrap()),
            };
            let mut flow = Flow::new(plan);
            let mut ids = vec![];
            while !flow.input_ended {
                let next = flow.input.next().await.unwrap();
                ids.extend(flow.read(next).unwrap().and_then(|request| request.event).map(|event| event.event_id));
            }
            // As if the server had them all.
            flow.open.clear();
            (ids, flow.finish().await.unwrap())
        };
        let checkpoint = || Some(Checkpoint::read(&mark, &log).unwrap());

        std::fs::write(&log, format!("{}\n{}", line(1), &line(2)[..30])).unwrap();
        let (ids, summary) = read_all(checkpoint()).await;
        assert_eq!((ids.as_slice(), summary.settled_line, summary.rejected()), (&["e1".to_owned()][..], 1, 0));
        // Complete but for its end: it can't become anything else.
        std::fs::write(&log, format!("{}\n{}", line(1), line(2))).unwrap();
        let (ids, summary) = read_all(checkpoint()).await;
        assert_eq!((ids.as_slice(), summary.settled_line), (&["e2".to_owned()][..], 2));
        assert_eq!(std::fs::read_to_string(&letters).unwrap(), "");

        // Without a checkpoint nobody comes back for it.
        std::fs::write(&log, &line(1)[..30]).unwrap();
        let (ids, summary) = read_all(None).await;
        assert_eq!((ids.len(), summary.rejected()), (0, 1));
        assert!(std::fs::read_to_string(&letters).unwrap().contains(r#""position":"line 1""#));
    }

    #[test]
    fn most_events_too_old_is_worth_a_hint() {
        let hint = |outcomes: &[(&'static str, u64)]| {
            let outcomes = outcomes.iter().copied().collect();
            Summary { outcomes, elapsed: Duration::ZERO, settled_line: 0 }.hint()
        };
        let told = hint(&[("TOO_OLD", 1_001), ("APPLIED", 999)]).expect("a hint");
        assert!(told.contains("1,001 of 2,000") && told.contains("serve --time-to-live 0s"), "{told}");
        assert!(hint(&[("TOO_OLD", 1)]).is_some());
        assert_eq!(hint(&[("TOO_OLD", 1_000), ("APPLIED", 900), ("INVALID", 100)]), None);
        assert_eq!(hint(&[("APPLIED", 5)]), None);
        assert_eq!(hint(&[]), None);
    }
}
