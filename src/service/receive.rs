//! What has come of requests that are not whole yet: bounded for all callers together, and in time.
//!
//! Admission counts requests, which exist when their messages are decoded; until then tonic keeps what has come. A
//! caller that begins thousands of large requests and ends none would have all of them kept for it. A unary request is
//! whole with its body's end, whatever its message says of its length; of a stream each message is by itself.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body, codegen::Bytes};

use super::ServiceError;
use crate::telemetry::{Metrics, Rejection};

/// gRPC's length-prefixed messages: a byte of flags, then the length.
const PREFIX_BYTES: usize = 5;

/// How many of the largest messages may be half-received at once, and how much where those are small.
const LARGEST_MESSAGES: usize = 16;
const LEAST_BYTES: usize = 16 << 20;

/// What has to arrive completely before it stops counting: the whole body, or each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// All of the body.
    Request,
    /// Each message of a stream, of at most so many bytes: what reads the stream keeps as much room as its largest
    /// took.
    Message(usize),
}

/// Whether a request's caller went away before its body's end. Of that hyper and tonic leave an ordinary end, or an
/// error under any of several codes.
#[derive(Debug, Clone, Default)]
pub(super) struct Gone(Arc<AtomicBool>);

impl Gone {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What all callers' unfinished requests hold together.
#[derive(Debug)]
pub(super) struct Unfinished {
    bytes: AtomicUsize,
    max_bytes: usize,
    /// From a message's first byte to its last.
    patience: Duration,
    metrics: Metrics,
}

impl Unfinished {
    pub(super) fn new(max_message_bytes: usize, patience: Duration, metrics: Metrics) -> Self {
        let max_bytes = max_message_bytes.saturating_mul(LARGEST_MESSAGES).max(LEAST_BYTES);
        Self { bytes: AtomicUsize::new(0), max_bytes, patience, metrics }
    }

    /// The same body, counted; `gone` tells of its caller.
    pub(super) fn count(self: &Arc<Self>, body: Body, unit: Unit, gone: Gone) -> Body {
        Body::new(CountedBody {
            inner: body,
            all: self.clone(),
            unit,
            gone,
            message: Message::default(),
            counted: 0,
            patience: None,
            refused: None,
        })
    }
}

/// Where in its messages a body is.
#[derive(Debug, Default)]
struct Message {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the message that have come, its prefix included.
    come: usize,
}

impl Message {
    /// Takes in what comes next; whether a message ended with it. Of whole messages nothing is left.
    ///
    /// # Errors
    /// When the prefix of a message has come that is longer than `max`.
    fn take(&mut self, piece: &[u8], max: usize) -> Result<bool, TooLong> {
        let (mut ended, mut data, mut whole) = (false, piece, 0);
        while !data.is_empty() {
            if self.come < PREFIX_BYTES {
                let (some, rest) = data.split_at(data.len().min(PREFIX_BYTES - self.come));
                self.prefix[self.come..self.come + some.len()].copy_from_slice(some);
                (self.come, data) = (self.come + some.len(), rest);
                if self.come == PREFIX_BYTES && self.bytes() - PREFIX_BYTES > max {
                    return Err(TooLong { length: self.bytes() - PREFIX_BYTES, whole });
                }
            } else {
                let some = data.len().min(self.bytes() - self.come);
                (self.come, data) = (self.come + some, &data[some..]);
            }
            if self.come >= PREFIX_BYTES && self.come == self.bytes() {
                (self.come, ended) = (0, true);
                whole = piece.len() - data.len();
            }
        }
        Ok(ended)
    }

    /// How long it is, by its prefix.
    fn bytes(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        PREFIX_BYTES + u32::from_be_bytes(length) as usize
    }
}

/// A message that is too long.
#[derive(Debug, PartialEq, Eq)]
struct TooLong {
    length: usize,
    /// How many bytes of the piece belong to whole messages before it.
    whole: usize,
}

/// A request's body.
struct CountedBody {
    inner: Body,
    all: Arc<Unfinished>,
    unit: Unit,
    gone: Gone,
    message: Message,
    /// Its part of what all have.
    counted: usize,
    /// While something is not whole.
    patience: Option<Pin<Box<Sleep>>>,
    /// What follows the whole messages that came in one piece with the beginning of one that is too long.
    refused: Option<Status>,
}

impl CountedBody {
    /// Passes on what has come; of a piece with a message that is too long, what stands before it.
    fn receive(&mut self, mut data: Bytes) -> Result<Frame<Bytes>, Status> {
        let whole = self.count(&data)?;
        if self.refused.is_some() {
            data.truncate(whole);
        }
        match self.refused.take_if(|_| data.is_empty()) {
            Some(status) => Err(status),
            None => Ok(Frame::data(data)),
        }
    }

    /// How much of it may be passed on.
    fn count(&mut self, data: &[u8]) -> Result<usize, Status> {
        let before = self.counted;
        let now = match self.unit {
            Unit::Request => before + data.len(),
            Unit::Message(max) => {
                match self.message.take(data, max) {
                    Ok(true) => self.patience = None,
                    Ok(false) => {}
                    Err(TooLong { length, whole }) => {
                        // As tonic says it of a message beyond its own limit.
                        let said = format!("a message of {length} bytes is too long; at most {max} are allowed here");
                        self.refused = Some(Status::out_of_range(said));
                        return Ok(whole);
                    }
                }
                self.message.come
            }
        };
        self.counted = now;
        // Most messages come whole, in one piece.
        if now == before {
            return Ok(data.len());
        }
        // Wraps around where less is there than before.
        let grown = now.wrapping_sub(before);
        let all = self.all.bytes.fetch_add(grown, Ordering::Relaxed).wrapping_add(grown);
        if now > before && all > self.all.max_bytes {
            self.all.metrics.rejected(Rejection::Unfinished);
            // At once: who comes before this body is dropped must not be refused for what is refused already.
            self.all.bytes.fetch_sub(std::mem::take(&mut self.counted), Ordering::Relaxed);
            return Err(ServiceError::Busy("too many requests are half-received").into());
        }
        Ok(data.len())
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(refused) = this.refused.take() {
            return Poll::Ready(Some(Err(refused)));
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            let frame = frame.map(|frame| frame.map(Frame::into_data));
            match &frame {
                Some(Err(_)) => this.gone.set(),
                // A stream that was reset looks like one that ended, but for this.
                None if !this.inner.is_end_stream() => this.gone.set(),
                _ => {}
            }
            return Poll::Ready(frame.map(|frame| match frame? {
                Ok(data) => this.receive(data),
                Err(trailers) => Ok(trailers),
            }));
        }
        if this.counted == 0 {
            return Poll::Pending;
        }
        let patience = this.all.patience;
        ready!(this.patience.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        Poll::Ready(Some(Err(ServiceError::MessageIncomplete.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.refused.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        self.all.bytes.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use http_body_util::{BodyExt, Full};
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        [&[0][..], &(length as u32).to_be_bytes(), &vec![7; length]].concat()
    }

    /// Whatever piece the beginning of a message comes in that is too long, the whole ones before it are passed on.
    #[test]
    fn a_message_that_is_too_long_takes_none_along() {
        let before = [message(3), message(0), message(10)].concat();
        for cut in [0, 3, before.len() - 1, before.len(), before.len() + 2] {
            let bytes = Bytes::from([before.clone(), message(11)].concat());
            let pieces = [bytes.slice(..cut), bytes.slice(cut..)];
            let frames = pieces.map(|piece| Ok::<_, Status>(Frame::data(piece)));
            let body = Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames)));
            let all = Arc::new(Unfinished::new(1000, Duration::from_secs(60), Metrics::new()));
            let mut body = all.count(body, Unit::Message(10), Gone::default());
            let mut passed_on = vec![];
            let status = loop {
                match block_on(body.frame()).expect("no end before the refusal") {
                    Ok(frame) => passed_on.extend(frame.into_data().unwrap()),
                    Err(status) => break status,
                }
            };
            assert_eq!(status.code(), tonic::Code::OutOfRange);
            assert_eq!(status.message(), "a message of 11 bytes is too long; at most 10 are allowed here");
            // Of the prefix, what came by itself.
            assert_eq!(passed_on, bytes[..before.len().max(cut)], "cut at {cut}");
            drop(body);
            assert_eq!(all.bytes.load(Ordering::Relaxed), 0);
        }
    }

    /// Although its body is still there: hyper and tonic drop it later than others come.
    #[test]
    fn what_is_refused_half_received_keeps_nobody_out() {
        for unit in [Unit::Request, Unit::Message(100)] {
            let all = Unfinished { max_bytes: 10, ..Unfinished::new(100, Duration::from_secs(60), Metrics::new()) };
            let all = Arc::new(all);
            let begin = |lengths: &[usize]| {
                let mut bytes = Bytes::from(message(50));
                let pieces = lengths.iter().map(|&length| Ok::<_, Status>(Frame::data(bytes.split_to(length))));
                let pieces = futures::stream::iter(pieces.collect::<Vec<_>>());
                all.count(Body::new(http_body_util::StreamBody::new(pieces)), unit, Gone::default())
            };
            let next = |body: &mut Body| block_on(body.frame()).expect("another piece");

            let (mut before, mut refused, mut after) = (begin(&[6]), begin(&[2, 4]), begin(&[4]));
            next(&mut before).expect("6 bytes in all");
            next(&mut refused).expect("8 in all");
            let status = next(&mut refused).expect_err("12 in all");
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
            next(&mut after).expect("10 in all: the refused 6 count no longer");

            drop(refused);
            assert_eq!(all.bytes.load(Ordering::Relaxed), 10, "{unit:?}: what was given back is not given back again");
            drop((before, after));
            assert_eq!(all.bytes.load(Ordering::Relaxed), 0, "{unit:?}");
        }
    }

    #[test]
    fn a_caller_is_gone_who_leaves_before_the_end() {
        let gone_after = |body: Body| {
            let all = Arc::new(Unfinished::new(1000, Duration::from_secs(60), Metrics::new()));
            let gone = Gone::default();
            let mut body = all.count(body, Unit::Request, gone.clone());
            while let Some(Ok(_)) = block_on(body.frame()) {}
            gone.is_set()
        };
        assert!(!gone_after(Body::new(Full::new(Bytes::from(message(3))))));
        assert!(!gone_after(Body::empty()));
        // An end that the body didn't foresee is what hyper makes of a stream that was reset.
        let reset = futures::stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(message(3))))]);
        assert!(gone_after(Body::new(http_body_util::StreamBody::new(reset))));
        let broken = futures::stream::iter([Err::<Frame<Bytes>, _>(Status::unknown("connection reset"))]);
        assert!(gone_after(Body::new(http_body_util::StreamBody::new(broken))));
    }

    proptest! {
        /// However messages are cut to pieces, what is counted is what has come of the one that is not whole.
        #[test]
        fn pieces_of_any_size(
            lengths in prop::collection::vec(0_usize..300, 1..8),
            cuts in prop::collection::vec(0_usize..2500, 0..20),
        ) {
            let mut bytes = vec![];
            let mut ends = vec![0];
            for length in lengths {
                bytes.push(0);
                bytes.extend((length as u32).to_be_bytes());
                bytes.extend(vec![7; length]);
                ends.push(bytes.len());
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let (mut message, mut at) = (Message::default(), 0);
            for cut in cuts {
                message.take(&bytes[at..cut], 300).unwrap();
                at = cut;
                let whole = ends.iter().copied().filter(|&end| end <= at).max().unwrap_or_default();
                prop_assert_eq!(message.come, at - whole);
            }
        }
    }
}
