//! Around every call: what has come of its message is counted. Around those of the ranking service: arrival time and
//! deadline, metrics, a span with the ids of request and trace, and panics turned into INTERNAL.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use opentelemetry::context::FutureExt as _;
use tokio::time::{Instant, timeout_at};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{HeaderMap, HeaderValue, Request, Response},
};
use tower::{Layer, Service};
use tracing::Instrument;

use super::{
    ServiceError,
    receive::{Unfinished, Unit},
    shared::{Arrival, Counted, Shared},
};
use crate::{
    domain::Deadline,
    telemetry::{Rpc, trace::RequestTrace},
};

const REQUEST_ID: &str = "x-request-id";
/// Of one message of a stream. A valid event has at most 140 kB.
const MAX_EVENT_BYTES: usize = 256 << 10;

const SERVICE: &str = "/sesrec.v1.RankingService/";

/// Makes [`Observed`].
#[derive(Clone)]
pub(super) struct ObserveLayer {
    pub(super) shared: Arc<Shared>,
    pub(super) unfinished: Arc<Unfinished>,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        let Self { shared, unfinished } = self.clone();
        Observed { inner, shared, unfinished }
    }
}

/// See the module.
#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    shared: Arc<Shared>,
    unfinished: Arc<Unfinished>,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let rpc = method(request.uri().path());
        // Reflection's are small and come as streams, which this suits, too.
        let unit = match rpc {
            Some(rpc) if rpc != Rpc::AppendEvents => Unit::Request,
            _ => Unit::Message(MAX_EVENT_BYTES),
        };
        let mut request = request.map(|body| self.unfinished.count(body, unit));
        let Some(rpc) = rpc else {
            return Box::pin(self.inner.call(request));
        };
        // The deadline counts from here. tonic has a timer of its own for `grpc-timeout`, which answers CANCELLED; it
        // starts after this call returns, and this future is polled before it: at a tie, this one answers.
        let at = Instant::now();
        let timeouts = self.shared.options.timeouts;
        let wanted = timeout(request.headers());
        let unary = rpc != Rpc::AppendEvents;
        let limit = match wanted {
            Some(wanted) if unary => Some(wanted.min(timeouts.maximum)),
            None if unary => Some(timeouts.default),
            wanted => wanted,
        };
        let deadline = limit.map(Deadline::after);
        request.extensions_mut().insert(Arrival { at, deadline });

        let request_id = request_id(request.headers());
        let id = request_id.to_str().unwrap_or_default();
        // At the level of errors, so that warnings have the ids also where nothing less is logged.
        let unset = tracing::field::Empty;
        let span = tracing::error_span!("request", rpc = rpc.label(), id, trace_id = unset, caller = unset);
        let trace = RequestTrace::begin(rpc, request.headers(), id);
        if let Some(id) = trace.id() {
            span.record("trace_id", id);
        }
        let context = trace.context();
        // A stream takes it over: it goes on when this future has ended.
        let counted = Counted::new(self.shared.metrics.request(rpc));
        request.extensions_mut().insert(counted.clone());
        let running = self.shared.running.token();
        // In the span: the next layer tells it who the caller is.
        let call = AssertUnwindSafe(span.in_scope(|| self.inner.call(request))).catch_unwind();
        let answered = async move {
            let _running = running;
            let result = match deadline {
                Some(deadline) => timeout_at(deadline.instant(), call).await,
                None => Ok(call.await),
            };
            let mut response = match result {
                Ok(Ok(answer)) => answer?,
                Ok(Err(panic)) => {
                    let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                    let message = message.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                    tracing::error!(panic = message, "a request panicked");
                    Status::from(ServiceError::Internal).into_http()
                }
                Err(_) => Status::from(ServiceError::DeadlineExceeded).into_http(),
            };
            response.headers_mut().insert(REQUEST_ID, request_id);
            let code = code(response.headers());
            if let Some(guard) = counted.take() {
                guard.finish(code);
            }
            trace.finish(code);
            Ok(response)
        };
        Box::pin(answered.with_context(context).instrument(span))
    }
}

/// The method of our service that a path names.
pub(super) fn method(path: &str) -> Option<Rpc> {
    let name = path.strip_prefix(SERVICE)?;
    Rpc::ALL.iter().copied().find(|rpc| rpc.label() == name)
}

/// An error's code is in the headers; a success has its own in the trailers, after the message.
fn code(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// The caller's id, so that its logs and these can be joined, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| (1..=128).contains(&id.len()) && id.to_str().is_ok());
    given.cloned().unwrap_or_else(|| {
        let id = format!("{:016x}", rand::random::<u64>());
        HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

/// `grpc-timeout`: up to eight digits and a unit. A malformed one counts as none.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_the_wire() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            timeout(&headers)
        };
        assert_eq!(parse("20m"), Some(Duration::from_millis(20)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for malformed in ["", "m", "1", "-1m", "1x", "123456789m", "1.5S", "1mm"] {
            assert_eq!(parse(malformed), None, "{malformed}");
        }
    }
}
