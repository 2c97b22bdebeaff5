//! What has come of requests that are not whole yet: bounded for all callers together, and in time.
//!
//! Admission counts requests, which exist when their messages are decoded; until then tonic keeps what has come. A
//! caller that begins thousands of large requests and ends none would have all of them kept for it. A unary request is
//! whole with its body's end, whatever its message says of its length; of a stream each message is by itself.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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

/// What is whole or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// All of the body.
    Request,
    /// Each message of a stream, of at most so many bytes: what reads the stream keeps as much room as its largest
    /// took.
    Message(usize),
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

    /// The same body, counted.
    pub(super) fn count(self: &Arc<Self>, body: Body, unit: Unit) -> Body {
        let message = Message::default();
        Body::new(CountedBody { inner: body, all: self.clone(), unit, message, counted: 0, patience: None })
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
    /// With the length of a message that is longer than `max`, when its prefix has come.
    fn take(&mut self, mut data: &[u8], max: usize) -> Result<bool, usize> {
        let mut ended = false;
        while !data.is_empty() {
            if self.come < PREFIX_BYTES {
                let (some, rest) = data.split_at(data.len().min(PREFIX_BYTES - self.come));
                self.prefix[self.come..self.come + some.len()].copy_from_slice(some);
                (self.come, data) = (self.come + some.len(), rest);
                if self.come == PREFIX_BYTES && self.bytes() - PREFIX_BYTES > max {
                    return Err(self.bytes() - PREFIX_BYTES);
                }
            } else {
                let some = data.len().min(self.bytes() - self.come);
                (self.come, data) = (self.come + some, &data[some..]);
            }
            if self.come >= PREFIX_BYTES && self.come == self.bytes() {
                (self.come, ended) = (0, true);
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

/// A request's body.
struct CountedBody {
    inner: Body,
    all: Arc<Unfinished>,
    unit: Unit,
    message: Message,
    /// Its part of what all have.
    counted: usize,
    /// While something is not whole.
    patience: Option<Pin<Box<Sleep>>>,
}

impl CountedBody {
    fn come(&mut self, data: &[u8]) -> Result<(), Status> {
        let before = self.counted;
        let now = match self.unit {
            Unit::Request => before + data.len(),
            Unit::Message(max) => {
                let ended = self.message.take(data, max).map_err(|length| {
                    // As tonic says it of a message beyond its own limit.
                    Status::out_of_range(format!(
                        "a message of {length} bytes is too long; at most {max} are allowed here"
                    ))
                })?;
                if ended {
                    self.patience = None;
                }
                self.message.come
            }
        };
        self.counted = now;
        // Most messages come whole, in one piece.
        if now == before {
            return Ok(());
        }
        // Wraps around where less is there than before.
        let grown = now.wrapping_sub(before);
        let all = self.all.bytes.fetch_add(grown, Ordering::Relaxed).wrapping_add(grown);
        if now > before && all > self.all.max_bytes {
            self.all.metrics.rejected(Rejection::Unfinished);
            return Err(ServiceError::Busy("too many requests are half-received").into());
        }
        Ok(())
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            let fine = data.map_or(Ok(()), |data| this.come(data));
            return Poll::Ready(fine.map_or_else(|status| Some(Err(status)), |()| frame));
        }
        if this.counted == 0 {
            return Poll::Pending;
        }
        let patience = this.all.patience;
        ready!(this.patience.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        Poll::Ready(Some(Err(ServiceError::MessageIncomplete.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
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
    use proptest::prelude::*;

    use super::*;

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
