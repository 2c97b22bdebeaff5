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
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{HeaderMap, HeaderValue, Request, Response},
};
use tower::{Layer, Service};
use tracing::Instrument;

use super::{
    ServiceError, Timeouts,
    convert::LARGEST_EVENT_BYTES,
    held::held,
    receive::{Gone, Unfinished, Unit},
    shared::{Arrival, CountedRequest, Shared},
};
use crate::{
    domain::Deadline,
    failures::panic_message,
    telemetry::{Rejection, Rpc, trace::RequestTrace},
};

const REQUEST_ID: &str = "x-request-id";
/// Of one message of a stream: an event, and room for what a later contract may add.
const MAX_EVENT_BYTES: usize = 256 << 10;
const _: () = assert!(LARGEST_EVENT_BYTES <= MAX_EVENT_BYTES);

const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const SERVICE: &str = "/sesrec.v1.RankingService/";

/// Makes [`Observed`].
#[derive(Clone)]
pub(super) struct ObserveLayer {
    pub(super) shared: Arc<Shared>,
    pub(super) unfinished: Arc<Unfinished>,
    /// Places for streams about health and reflection, which need no token and live as long as their callers like.
    pub(super) watches: Arc<Semaphore>,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, layer: self.clone() }
    }
}

/// Counts what has come of every call's message. Gives calls of the ranking service their deadline, metrics and a span,
/// and turns their panics into INTERNAL.
#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    layer: ObserveLayer,
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
        let gone = Gone::default();
        let mut request = request.map(|body| self.layer.unfinished.count(body, unit, gone.clone()));
        let Some(rpc) = rpc else {
            return self.call_other(request);
        };
        let shared = &self.layer.shared;
        // The deadline counts from here. tonic has a timer of its own for `grpc-timeout`, which answers CANCELLED; it
        // starts after this call returns, and this future is polled before it: at a tie, this one answers.
        let at = Instant::now();
        let deadline = limit(rpc, timeout(request.headers()), &shared.options.timeouts).map(Deadline::after);
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
        let counted = CountedRequest::new(shared.metrics.request(rpc), gone);
        request.extensions_mut().insert(counted.clone());
        let running = shared.running.token();
        // In the span: the next layer tells it who the caller is.
        let call = AssertUnwindSafe(span.in_scope(|| self.inner.call(request))).catch_unwind();
        let answered = async move {
            let result = match deadline {
                Some(deadline) => timeout_at(deadline.instant(), call).await,
                None => Ok(call.await),
            };
            let mut response = match result {
                Ok(Ok(answer)) => answer?,
                Ok(Err(panic)) => {
                    tracing::error!(panic = panic_message(&*panic), "a request panicked");
                    Status::from(ServiceError::Internal).into_http()
                }
                Err(_) => Status::from(ServiceError::DeadlineExceeded).into_http(),
            };
            response.headers_mut().insert(REQUEST_ID, request_id);
            let code = code(response.headers());
            if let Some(counted) = counted.take() {
                counted.finish(code);
            }
            trace.finish(code);
            // Running, for the drain, until the last of the answer is out.
            Ok(response.map(|body| held(body, running)))
        };
        Box::pin(answered.with_context(context).instrument(span))
    }
}

impl<S> Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    /// Health, reflection, and what there isn't.
    fn call_other(&mut self, request: Request<Body>) -> BoxFuture<Result<Response<Body>, S::Error>> {
        let path = request.uri().path();
        if !(path == HEALTH_WATCH || path.starts_with("/grpc.reflection.")) {
            return Box::pin(self.inner.call(request));
        }
        let Ok(place) = self.layer.watches.clone().try_acquire_owned() else {
            let refusal = "too many streams about health and reflection are open";
            let refusal = self.layer.shared.refused(Rejection::Streams, refusal);
            return Box::pin(std::future::ready(Ok(Status::from(refusal).into_http())));
        };
        let call = self.inner.call(request);
        Box::pin(async move { Ok(call.await?.map(|body| held(body, place))) })
    }
}

/// How long a call may take: as long as its caller says, unary ones within bounds. A stream that says nothing has no
/// limit.
fn limit(rpc: Rpc, wanted: Option<Duration>, timeouts: &Timeouts) -> Option<Duration> {
    match wanted {
        wanted if rpc == Rpc::AppendEvents => wanted,
        Some(wanted) => Some(wanted.min(timeouts.maximum)),
        None => Some(timeouts.default.min(timeouts.maximum)),
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
    use crate::service::ServiceOptions;

    #[test]
    fn unary_calls_take_bounded_time() {
        let [default, maximum, longer] = [10, 20, 30].map(Duration::from_secs);
        let timeouts = Timeouts { default, maximum, ..ServiceOptions::default().timeouts };
        for (rpc, wanted, expected) in [
            (Rpc::Rank, None, Some(default)),
            (Rpc::Rank, Some(longer), Some(maximum)),
            (Rpc::Rank, Some(Duration::ZERO), Some(Duration::ZERO)),
            (Rpc::AppendEvents, None, None),
            (Rpc::AppendEvents, Some(longer), Some(longer)),
        ] {
            assert_eq!(limit(rpc, wanted, &timeouts), expected, "{rpc:?} {wanted:?}");
        }
        let timeouts = Timeouts { default: longer, ..timeouts };
        assert_eq!(limit(Rpc::Rank, None, &timeouts), Some(maximum), "nor is the default beyond the longest");
    }

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
