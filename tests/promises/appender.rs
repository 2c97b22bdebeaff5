//! A log pipeline: one stream of events at a time, a window of them unacknowledged; what a broken stream leaves open is
//! sent again on the next one.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use sesrec::{
    domain::EventTime,
    proto::v1::{self, Outcome, event::Payload},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{bundle::item, server::Client};

const WINDOW: usize = 64;
/// Fewer than a history keeps, so that none makes room for another.
pub const EVENTS_PER_USER: usize = 200;

/// What was sent of one event, to send it again.
pub type Sent = v1::AppendEventRequest;

pub struct Appender {
    name: String,
    next: usize,
    open: VecDeque<Sent>,
    /// In the order of acknowledgements.
    pub acknowledged: Vec<Sent>,
    progress: Arc<AtomicUsize>,
}

impl Appender {
    pub fn new(name: &str, progress: Arc<AtomicUsize>) -> Self {
        Self { name: name.into(), next: 0, open: VecDeque::new(), acknowledged: vec![], progress }
    }

    /// Appends until the stream breaks or the test says so.
    pub async fn run(mut self, mut client: Client, stop: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(WINDOW);
        let again = self.open.len();
        for event in &self.open {
            sender.try_send(event.clone()).unwrap();
        }
        let Ok(answers) = client.append_events(ReceiverStream::new(receiver)).await else { return self };
        let mut answers = answers.into_inner();
        for answered in 0.. {
            while self.open.len() < WINDOW && !stop.is_cancelled() {
                let event = self.event();
                // Room for the window; closed once the stream is broken.
                if sender.try_send(event.clone()).is_err() {
                    return self;
                }
                self.open.push_back(event);
            }
            if self.open.is_empty() {
                return self;
            }
            let Ok(Some(answer)) = answers.message().await else { return self };
            let event = self.open.pop_front().expect("an acknowledgement is of an event");
            assert_eq!(answer.event_id, id(&event), "acknowledgements are in order");
            match answer.outcome() {
                Outcome::Applied => {}
                // The server had stored it, but its acknowledgement did not get here.
                Outcome::Duplicate if answered < again => {}
                other => panic!("{} was {other:?}", answer.event_id),
            }
            self.acknowledged.push(event);
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        self
    }

    fn event(&mut self) -> Sent {
        let number = self.next;
        self.next += 1;
        let recommendation = v1::Recommendation { item_id: item(number) };
        let event = v1::Event {
            event_id: format!("{}-{number}", self.name),
            user_id: format!("{}-{}", self.name, number / EVENTS_PER_USER),
            time: Some(EventTime::now().into()),
            payload: Some(Payload::Recommendation(recommendation)),
        };
        v1::AppendEventRequest { event: Some(event) }
    }
}

pub fn id(sent: &Sent) -> &str {
    sent.event.as_ref().map_or("", |event| &event.event_id)
}

pub fn user(sent: &Sent) -> &str {
    sent.event.as_ref().map_or("", |event| &event.user_id)
}
