//! Answers that hold something until their callers have taken them, or don't want them any more.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body, codegen::Bytes};

/// hyper asks for what follows a piece once its caller has room for some of it, and keeps the piece till then: all of
/// an answer that comes in one piece.
const PIECE_BYTES: usize = 16 << 10;

/// `body`, with `what` dropped when its caller has room for the last piece.
pub(super) fn held<T: Send + Unpin + 'static>(body: Body, what: T) -> Body {
    Body::new(Held { body, rest: Bytes::new(), _what: what })
}

struct Held<T> {
    body: Body,
    /// Of the frame that is passed on.
    rest: Bytes,
    _what: T,
}

impl<T: Send + Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let held = self.get_mut();
        if held.rest.is_empty() {
            let frame = ready!(Pin::new(&mut held.body).poll_frame(cx));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) if data.len() > PIECE_BYTES => held.rest = data,
                Some(Ok(Ok(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
        let piece = held.rest.split_to(PIECE_BYTES.min(held.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::executor::block_on;
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[test]
    fn it_holds_until_the_last_piece() {
        let (what, bytes) = (Arc::new(()), Bytes::from((0..3 * PIECE_BYTES + 5).map(|n| n as u8).collect::<Vec<_>>()));
        let mut body = held(Body::new(Full::new(bytes.clone())), Arc::clone(&what));
        let mut received = vec![];
        for length in [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, 5] {
            assert!(!body.is_end_stream());
            let piece = block_on(body.frame()).unwrap().unwrap().into_data().unwrap();
            assert_eq!(piece.len(), length);
            received.extend_from_slice(&piece);
        }
        assert_eq!(received, bytes);
        assert!(block_on(body.frame()).is_none());
        assert_eq!(Arc::strong_count(&what), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&what), 1);
    }
}
