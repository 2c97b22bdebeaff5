//! The flow of events to the server: a bounded window of unacknowledged ones, sent again after a reconnect.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    client::Client,
    ingest_source::{Checkpoint, Line, Source},
};
use crate::proto::v1::{self, Outcome};

/// How many rejected lines are shown one by one.
const SHOWN_REJECTS: u64 = 20;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// An event on its way.
struct Open {
    line: u64,
    request: v1::AppendEventRequest,
}

/// Everything between the input and its acknowledgements.
pub(super) struct Flow {
    source: Source,
    window: usize,
    /// In the order of lines, which is the order of acknowledgements.
    open: VecDeque<Open>,
    /// The last line read.
    read_line: u64,
    input_ended: bool,
    checkpoint: Option<Checkpoint>,
    checkpoint_written: Instant,
    outcomes: BTreeMap<&'static str, u64>,
    settled: u64,
    started: Instant,
    bar: ProgressBar,
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
    pub(super) fn new(source: Source, window: usize, checkpoint: Option<Checkpoint>) -> Self {
        let bar = match source.size {
            Some(size) => ProgressBar::new(size).with_style(style("{bar:30} {percent:>3} %  {msg}")),
            None => ProgressBar::new_spinner().with_style(style("{spinner} {msg}")),
        };
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            read_line: checkpoint.as_ref().map_or(0, Checkpoint::line),
            source,
            window,
            open: VecDeque::new(),
            input_ended: false,
            checkpoint,
            checkpoint_written: Instant::now(),
            outcomes: BTreeMap::new(),
            settled: 0,
            started: Instant::now(),
            bar,
        }
    }

    /// Sends what is open, then what the input has, over one stream. `Ok(Ok(()))`: all is acknowledged;
    /// `Ok(Err(status))`: the stream failed, what is open has to be sent again; `Err`: the input or the checkpoint failed.
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
        let mut answers = match client.append_events(ReceiverStream::new(receiver)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
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
                    Ok(None) => return Ok(Err(Status::unavailable("the server ended the stream early"))),
                    Err(status) => return Ok(Err(status)),
                },
                line = self.source.next(), if room => {
                    let line = line.context("reading the input")?;
                    if let (Some(request), Some(sender)) = (self.read(line), &sender) {
                        let _ = sender.try_send(request);
                    }
                    self.save_sometimes()?;
                }
            }
        }
    }

    /// Takes a line in: what is to be sent, if anything.
    fn read(&mut self, line: Option<(u64, Line)>) -> Option<v1::AppendEventRequest> {
        let Some((line, text)) = line else {
            self.input_ended = true;
            return None;
        };
        self.read_line = line;
        let text = match text {
            Line::Text(text) => text,
            Line::TooLong => {
                self.reject(line, "INVALID", "longer than any event can be");
                return None;
            }
        };
        if text.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        match serde_json::from_slice::<v1::Event>(&text) {
            Ok(event) => {
                let request = v1::AppendEventRequest { event: Some(event) };
                self.open.push_back(Open { line, request: request.clone() });
                Some(request)
            }
            Err(error) => {
                self.reject(line, "INVALID", &format!("not a proto3 JSON sesrec.v1.Event: {error}"));
                None
            }
        }
    }

    fn settle(&mut self, answer: &v1::AppendEventResponse) -> anyhow::Result<()> {
        let open = self.open.pop_front().context("the server acknowledged an event that was not sent")?;
        let sent = open.request.event.as_ref().map(|event| event.event_id.as_str()).unwrap_or_default();
        // An INVALID event's id may be what is invalid: it comes back shortened.
        anyhow::ensure!(
            sent == answer.event_id || answer.outcome() == Outcome::Invalid,
            "line {}: the server acknowledged {:?} instead of {sent:?}",
            open.line,
            answer.event_id
        );
        match answer.outcome() {
            Outcome::Invalid => {
                let violations = answer.field_violations.iter();
                let reasons: Vec<_> = violations.map(|v| format!("{} {}", v.field, v.description)).collect();
                self.reject(open.line, "INVALID", &reasons.join("; "));
            }
            Outcome::Conflict => {
                self.reject(open.line, "CONFLICT", &format!("event_id {sent} is stored with another payload or time"));
            }
            outcome => self.count(outcome.as_str_name()),
        }
        self.save_sometimes()
    }

    fn reject(&mut self, line: u64, outcome: &'static str, reason: &str) {
        self.count(outcome);
        let shown: u64 = ["INVALID", "CONFLICT"].iter().filter_map(|name| self.outcomes.get(name)).sum();
        if shown <= SHOWN_REJECTS {
            self.note(format!("line {line}: {outcome}: {reason}"));
        } else if shown == SHOWN_REJECTS + 1 {
            self.note("further rejected lines are only counted".into());
        }
    }

    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
        self.settled += 1;
        // Formatting for every event would cost more than sending it.
        if self.settled.is_multiple_of(256) {
            let rate = self.settled as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
            self.bar.set_position(self.source.bytes());
            self.bar.set_message(format!("{} events/s  {}", HumanCount(rate as u64), list(&self.outcomes)));
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

    /// The line of the oldest event without an acknowledgement.
    pub(super) fn oldest_open_line(&self) -> u64 {
        self.open.front().map_or(self.read_line + 1, |open| open.line)
    }

    fn settled_line(&self) -> u64 {
        self.open.front().map_or(self.read_line, |open| open.line - 1)
    }

    fn save_sometimes(&mut self) -> anyhow::Result<()> {
        if self.checkpoint_written.elapsed() > CHECKPOINT_EVERY { self.save() } else { Ok(()) }
    }

    fn save(&mut self) -> anyhow::Result<()> {
        let line = self.settled_line();
        self.checkpoint_written = Instant::now();
        self.checkpoint.as_mut().map_or(Ok(()), |checkpoint| checkpoint.write(line))
    }

    /// Writes the checkpoint and sums up.
    pub(super) fn finish(mut self) -> anyhow::Result<Summary> {
        self.save()?;
        self.bar.finish_and_clear();
        Ok(Summary {
            settled_line: self.settled_line(),
            elapsed: self.started.elapsed(),
            outcomes: std::mem::take(&mut self.outcomes),
        })
    }
}

impl Summary {
    /// One line for people.
    pub(super) fn print(&self) {
        let events: u64 = self.outcomes.values().sum();
        let rate = events as f64 / self.elapsed.as_secs_f64().max(1e-3);
        let outcomes = if events == 0 { "nothing to do".into() } else { list(&self.outcomes) };
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
        ["INVALID", "CONFLICT"].iter().filter_map(|name| self.outcomes.get(name)).sum()
    }
}

fn list(outcomes: &BTreeMap<&'static str, u64>) -> String {
    outcomes.iter().map(|(name, n)| format!("{name} {}", HumanCount(*n))).collect::<Vec<_>>().join(", ")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

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
