//! AppendEvent and AppendEvents.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt};
use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::Instrument;

use super::{
    ServiceError, Violations, convert, present,
    shared::{Counted, Shared, failure},
};
use crate::{
    domain::{Deadline, Event, EventTime},
    history::{Appended, Outcome, StoreError},
    proto::v1,
    telemetry::{AppendOutcome, Rejection, StoreOperation, trace},
};

/// How much of one stream is read ahead of the store, besides the number of events: several of the largest
/// ([`convert::LARGEST_EVENT_BYTES`]).
const WINDOW_BYTES: usize = 1 << 20;

/// Acknowledgements of one stream that wait to be sent.
const ANSWERS: usize = 64;

/// Appends one event.
pub(super) async fn append_event(
    shared: &Shared,
    request: v1::AppendEventRequest,
    deadline: Deadline,
) -> Result<v1::AppendEventResponse, ServiceError> {
    let _place = shared.place(&shared.appends, Rejection::Appends, "too many appends are running")?;
    let event = shared.parse(request)?;
    let results = shared.append(std::slice::from_ref(&event), deadline).await;
    let appended = results.into_iter().next().ok_or(ServiceError::Internal)??;
    match appended.outcome {
        Outcome::Conflict => Err(ServiceError::Conflict(event.event_id)),
        _ => Ok(present::acknowledgement(event.event_id.to_string(), appended)),
    }
}

/// Acknowledges a stream of events, in order, each only after the store has it.
///
/// Whatever has arrived while the store was busy goes to it in one call: a slow caller's events go one by one, a fast
/// one's share round trips and fsyncs. Nothing more is read meanwhile, so that HTTP/2 flow control holds back the
/// caller; the same happens when the caller doesn't read its acknowledgements, for some time. The stream runs in a task
/// of its own, since nobody asks a response body for more that has no room to send; with the body, it ends.
pub(super) fn append_events(
    shared: &Arc<Shared>,
    inbound: Streaming<v1::AppendEventRequest>,
    deadline: Option<Deadline>,
    counted: Counted,
) -> Result<impl Stream<Item = Answer> + Send + use<>, ServiceError> {
    let Ok(permit) = shared.streams.clone().try_acquire_owned() else {
        let refusal = shared.refused(Rejection::Streams, "too many AppendEvents streams are open");
        counted.finish(refusal.code());
        return Err(refusal);
    };
    let events = EventStream {
        shared: shared.clone(),
        inbound,
        deadline,
        old_at: shared.options.timeouts.stream.map(|age| Instant::now() + age),
        acknowledgements: VecDeque::new(),
        end: None,
        counted: Some(counted),
        permit,
    };
    let (answers, body) = mpsc::channel(ANSWERS);
    // In the request's span, so that the log has its ids to the stream's end.
    tokio::spawn(events.run(answers).instrument(tracing::Span::current()));
    Ok(ReceiverStream::new(body))
}

struct EventStream {
    shared: Arc<Shared>,
    inbound: Streaming<v1::AppendEventRequest>,
    deadline: Option<Deadline>,
    /// When it ends for its age.
    old_at: Option<Instant>,
    /// Of events that the store has, or never will have.
    acknowledgements: VecDeque<v1::AppendEventResponse>,
    /// How the stream ends, once all acknowledgements are out.
    end: Option<Result<(), Status>>,
    /// Taken when the stream has ended; dropped inside, the caller went away.
    counted: Option<Counted>,
    permit: OwnedSemaphorePermit,
}

type Answer = Result<v1::AppendEventResponse, Status>;

impl EventStream {
    /// Until its end, its caller's, or that of the patience for acknowledgements that nobody reads.
    async fn run(mut self, answers: mpsc::Sender<Answer>) {
        // A place for the last word.
        let Ok(last) = answers.clone().reserve_owned().await else { return };
        let error = loop {
            let answer = tokio::select! {
                biased;
                () = answers.closed() => return,
                answer = AssertUnwindSafe(self.next()).catch_unwind() => answer,
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return,
                // Told by the panic hook. Without a last word the stream would look as if it had ended well.
                Err(_) => break ServiceError::Internal,
            };
            match timeout(self.shared.options.timeouts.unread, answers.send(answer)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => break ServiceError::Unread,
            }
        };
        // It stays one of `--max-streams`: what it holds goes with its connection.
        let Self { shared, mut inbound, acknowledgements, counted, permit: _permit, .. } = self;
        drop(acknowledgements);
        let status = Status::from(error);
        if let Some(counted) = counted {
            counted.finish(status.code());
        }
        last.send(Err(status));
        // What is read makes room for other requests of the connection; HTTP/2 gives none back for a stream that is
        // open.
        tokio::select! {
            () = answers.closed() => {}
            () = shared.draining.cancelled() => {}
            () = async { while inbound.message().await.is_ok_and(|message| message.is_some()) {} } => {}
        }
    }

    async fn next(&mut self) -> Option<Answer> {
        loop {
            if let Some(acknowledgement) = self.acknowledgements.pop_front() {
                return Some(Ok(acknowledgement));
            }
            if let Some(end) = self.end.take() {
                self.counted.take()?.finish(end.as_ref().err().map_or(Code::Ok, Status::code));
                return end.err().map(Err);
            }
            // After an error, the stream is asked once more.
            self.counted.as_ref()?;
            let batch = self.read().await;
            self.store(batch).await;
        }
    }

    /// Waits for an event and takes those that are there already.
    async fn read(&mut self) -> Vec<Result<Event, v1::AppendEventResponse>> {
        let at = async |instant: Option<Instant>| match instant {
            Some(instant) => sleep_until(instant).await,
            None => std::future::pending().await,
        };
        let first = tokio::select! {
            biased;
            () = self.shared.draining.cancelled() => Some(Err(ServiceError::Draining.into())),
            () = at(self.deadline.map(|deadline| deadline.instant())) => Some(Err(ServiceError::DeadlineExceeded.into())),
            () = at(self.old_at) => Some(Err(ServiceError::StreamAge.into())),
            first = self.inbound.next() => first,
        };
        let mut batch = vec![];
        let (mut next, mut bytes) = (Some(first), 0);
        while let Some(arrived) = next {
            match arrived {
                Some(Ok(request)) => {
                    bytes += request.encoded_len();
                    batch.push(self.shared.checked(request));
                }
                Some(Err(status)) => self.end = Some(Err(status)),
                None => self.end = Some(Ok(())),
            }
            let full = batch.len() >= self.shared.options.concurrency.stream_window || bytes >= WINDOW_BYTES;
            next = if full || self.end.is_some() { None } else { self.inbound.next().now_or_never() };
        }
        batch
    }

    /// Appends when it is this stream's turn: the events of many fast ones would keep a store busy for longer than
    /// anybody else's call may take. It is not read meanwhile, so that its caller is held back.
    async fn append(
        &self,
        events: &[Event],
        deadline: Deadline,
    ) -> Result<Vec<Result<Appended, ServiceError>>, ServiceError> {
        if events.is_empty() {
            return Ok(vec![]);
        }
        // A window may be larger than what all streams have together: alone, then.
        let places = events.len().min(self.shared.options.concurrency.stream_events) as u32;
        let _places = tokio::select! {
            biased;
            places = self.shared.stream_events.acquire_many(places) => places.map_err(|_| ServiceError::Internal)?,
            () = self.shared.draining.cancelled() => return Err(ServiceError::Draining),
            () = sleep_until(deadline.instant()) => return Err(ServiceError::DeadlineExceeded),
        };
        Ok(self.shared.append(events, deadline).await)
    }

    /// Hands a batch to the store and notes its acknowledgements, up to the first event that the store failed on: an
    /// acknowledgement says that everything before it is acknowledged too.
    async fn store(&mut self, batch: Vec<Result<Event, v1::AppendEventResponse>>) {
        let mut events = Vec::with_capacity(batch.len());
        // Nothing for an event, which the store answers.
        let entries = batch.into_iter().map(|entry| entry.map(|event| events.push(event)).err());
        let entries: Vec<Option<v1::AppendEventResponse>> = entries.collect();
        let deadline = self.deadline.unwrap_or_else(|| Deadline::after(Duration::MAX));
        let mut results = match self.append(&events, deadline).await {
            Ok(results) => events.into_iter().zip(results),
            Err(error) => {
                self.end = Some(Err(error.into()));
                return;
            }
        };
        for invalid in entries {
            let acknowledgement = match invalid {
                Some(invalid) => Ok(invalid),
                None => match results.next() {
                    Some((event, Ok(appended))) => Ok(present::acknowledgement(event.event_id.to_string(), appended)),
                    Some((_, Err(error))) => Err(error),
                    None => Err(ServiceError::Internal),
                },
            };
            match acknowledgement {
                Ok(acknowledgement) => self.acknowledgements.push_back(acknowledgement),
                Err(error) => {
                    self.end = Some(Err(error.into()));
                    return;
                }
            }
        }
    }
}

impl Shared {
    fn parse(&self, request: v1::AppendEventRequest) -> Result<Event, Violations> {
        let latest = EventTime::now().saturating_add(self.options.max_event_lead);
        convert::event(request, latest).inspect_err(|_| self.metrics.event(AppendOutcome::Invalid, None))
    }

    /// The event, or the acknowledgement that says what is wrong with it.
    fn checked(&self, request: v1::AppendEventRequest) -> Result<Event, v1::AppendEventResponse> {
        let event_id = request.event.as_ref().map(|event| event.event_id.clone()).unwrap_or_default();
        self.parse(request).map_err(|violations| v1::AppendEventResponse {
            event_id: event_id.chars().take(512).collect(),
            outcome: v1::Outcome::Invalid.into(),
            history_token: String::new(),
            field_violations: violations.to_proto(),
        })
    }

    /// A counted append; the answers are in the events' order.
    async fn append(&self, events: &[Event], deadline: Deadline) -> Vec<Result<Appended, ServiceError>> {
        let guard = self.metrics.store_call(StoreOperation::Append);
        let (started, store_deadline) = (Instant::now(), self.store_deadline(deadline));
        let results = timeout_at(store_deadline.instant(), self.store.append(events, store_deadline)).await;
        let results = results.unwrap_or_else(|_| vec![Err(StoreError::Deadline); events.len()]);
        let failed = results.iter().find_map(|result| result.as_ref().err());
        guard.finish(failed.map_or(Ok(()), |error| Err(failure(error, deadline))));
        trace::note("store", started, started.elapsed());
        let now = EventTime::now();
        let answers = events.iter().zip(results).map(|(event, result)| {
            match &result {
                Ok(appended) => {
                    let lag = Duration::from_nanos(now.nanos().saturating_sub(event.time.nanos()));
                    let applied = appended.outcome == Outcome::Applied;
                    self.metrics.event(present::outcome_label(appended.outcome), applied.then_some(lag));
                }
                Err(_) => self.metrics.event(AppendOutcome::Failed, None),
            }
            result.map_err(|error| self.blame(error, deadline))
        });
        answers.collect()
    }
}
