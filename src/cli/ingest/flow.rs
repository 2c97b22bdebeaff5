//! The flow of events to the server: a bounded window of unacknowledged ones, sent again after a reconnect.

use std::{collections::VecDeque, time::Duration};

use anyhow::Context;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{
    progress::{Progress, Summary},
    rejects::{Rejected, Rejects},
    settled::Settled,
    source::{Checkpoint, Input, Line, MAX_LINE_BYTES, Position},
};
use crate::{
    cli::{
        client::{Client, violations},
        ndjson::fault,
    },
    proto::v1::{self, Outcome},
};

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
    window: usize,
    /// In the order of the input, which is the order of acknowledgements.
    open: VecDeque<Open>,
    input_ended: bool,
    settled: Settled,
    progress: Progress,
    /// Events given up in a row because the stream broke at them.
    broke: u32,
    /// Since when there has been something open.
    open_since: Instant,
    /// Whether the last stream was accepted and ended with nothing open.
    ended_idle: bool,
}

/// What is sent, and what is kept of it.
pub(super) struct Plan {
    pub(super) input: Input,
    pub(super) window: usize,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) rejects: Rejects,
}

impl Flow {
    /// Nothing sent yet.
    pub(super) fn new(plan: Plan) -> Self {
        let Plan { input, window, checkpoint, rejects } = plan;
        Self {
            progress: Progress::of(&input),
            input,
            window,
            open: VecDeque::new(),
            input_ended: false,
            settled: Settled::new(checkpoint, rejects),
            broke: 0,
            open_since: Instant::now(),
            ended_idle: false,
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
                _ = tick.tick() => self.progress.tell(&self.input),
            }
        }
    }

    /// Takes a line in: what is to be sent, if anything.
    fn read(&mut self, line: Option<(Position, Line)>) -> anyhow::Result<Option<v1::AppendEventRequest>> {
        let Some((position, text)) = line else {
            self.input_ended = true;
            return Ok(None);
        };
        let before = self.settled.read_line;
        if let Position::Line(line) = position {
            self.settled.read_line = line;
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
                        self.open_since = Instant::now();
                    }
                    self.open.push_back(Open { position, request: request.clone() });
                    return Ok(Some(request));
                }
                // The beginning of an event whose writer has not come to its end. Rejected, the whole event would never
                // be sent, as the checkpoint says that this line is settled.
                Err(_) if unended && self.settled.is_resumable() => {
                    self.note(format!("{position} has no end and is no event yet: left for the next run"));
                    (self.settled.read_line, self.input_ended) = (before, true);
                    return Ok(None);
                }
                Err(error) => (text, format!("not a proto3 JSON sesrec.v1.Event: {}", fault(&error))),
            },
            Line::TooLong => (vec![], format!("longer than {MAX_LINE_BYTES} bytes, which no event is")),
            Line::Unusable(reason) => (vec![], reason),
        };
        let text = String::from_utf8_lossy(&text);
        self.reject(&Rejected { position: &position, outcome: "INVALID", reason: &reason, event: text.trim() })?;
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
            Outcome::Invalid => self.reject_sent(&open, "INVALID", &violations(answer))?,
            Outcome::Conflict => {
                let reason = format!("event_id {sent} is stored with another payload or time");
                self.reject_sent(&open, "CONFLICT", &reason)?;
            }
            outcome => {
                self.input.settled(&open.position);
                self.progress.count(outcome.as_str_name(), &self.input);
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
        if !events_fault || !self.settled.keeps_rejects() || self.broke >= BREAKERS {
            return Ok(false);
        }
        let Some(open) = self.open.pop_front() else { return Ok(false) };
        self.broke += 1;
        let reason = format!("{:?}: {}", status.code(), status.message());
        self.reject_sent(&open, "FAILED", &reason)?;
        Ok(true)
    }

    fn reject_sent(&mut self, open: &Open, outcome: &'static str, reason: &str) -> anyhow::Result<()> {
        self.reject(&Rejected { position: &open.position, outcome, reason, event: &text(&open.request) })
    }

    fn reject(&mut self, rejected: &Rejected<'_>) -> anyhow::Result<()> {
        self.settled.reject(rejected)?;
        self.input.settled(rejected.position);
        self.progress.reject(rejected, &self.input);
        Ok(())
    }

    /// Says something without disturbing the progress.
    pub(super) fn note(&self, text: String) {
        self.progress.note(text);
    }

    /// Events with an outcome.
    pub(super) fn settled(&self) -> u64 {
        self.progress.events()
    }

    /// Since when there has been something open, if there is.
    pub(super) fn open_since(&self) -> Instant {
        self.open_since
    }

    /// Whether the last stream had been accepted, and nothing was open when it ended.
    pub(super) fn ended_idle(&self) -> bool {
        self.ended_idle
    }

    /// The oldest event without an acknowledgement.
    pub(super) fn oldest_open(&self) -> Position {
        self.open.front().map_or(Position::Line(self.settled.read_line + 1), |open| open.position.clone())
    }

    fn save_sometimes(&mut self) -> anyhow::Result<()> {
        self.settled.save_sometimes(self.open.front().map(|open| &open.position))
    }

    /// Writes the checkpoint and sums up.
    pub(super) async fn finish(mut self) -> anyhow::Result<Summary> {
        let oldest_open = self.open.front().map(|open| &open.position);
        self.settled.save(oldest_open)?;
        let summary = self.progress.finish(self.settled.line(oldest_open));
        self.input.close().await?;
        Ok(summary)
    }
}

fn text(request: &v1::AppendEventRequest) -> String {
    request.event.as_ref().and_then(|event| serde_json::to_string(event).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{rejects::DeadLetters, source::Source},
        *,
    };

    /// A log may be read while its writer is in the middle of a line.
    #[tokio::test]
    async fn an_event_that_is_half_written_is_left_for_the_next_run() {
        let directory = tempfile::tempdir().unwrap();
        let [log, mark, letters] = ["log", "mark", "letters"].map(|name| directory.path().join(name));
        let line = |n: u32| format!(r#"{{"eventId":"e{n}","userId":"u","recommendation":{{"itemId":"i"}}}}"#);
        let read_all = async |checkpoint: Option<Checkpoint>| {
            let plan = Plan {
                input: Input::Lines(Source::open(&log, checkpoint.as_ref().map_or(0, Checkpoint::line)).await.unwrap()),
                window: 8,
                checkpoint,
                rejects: Rejects::Keep(DeadLetters::open(&letters, "log".into()).unwrap()),
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
}
