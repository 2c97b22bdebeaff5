//! Guards: what starts is counted at once, and ends in exactly one way, even when its future is dropped.

use std::time::Instant;

use tonic::Code;

use super::{
    Metrics, Rpc, StoreFailure, StoreOperation,
    labels::{OperationLabel, RpcCodeLabels, RpcLabel, StoreFailureLabels},
};

/// A request or stream in flight. Dropped without [`finish`](Self::finish), it was cancelled.
#[derive(Debug)]
#[must_use = "dropping it counts a cancelled request"]
pub struct RequestGuard {
    metrics: Metrics,
    rpc: Rpc,
    started: Instant,
    finished: bool,
}

impl Metrics {
    /// A request or stream has arrived.
    pub fn request(&self, rpc: Rpc) -> RequestGuard {
        self.inner().in_flight.get_or_create(&RpcLabel { rpc: rpc.label() }).inc();
        RequestGuard { metrics: self.clone(), rpc, started: Instant::now(), finished: false }
    }

    /// A call of the history store begins.
    pub fn store_call(&self, operation: StoreOperation) -> StoreCallGuard {
        StoreCallGuard { metrics: self.clone(), operation, started: Instant::now(), finished: false }
    }

    /// A caller has connected.
    pub(crate) fn connection(&self) -> ConnectionGuard {
        self.inner().connections.inc();
        ConnectionGuard(self.clone())
    }
}

impl RequestGuard {
    /// It was answered.
    pub fn finish(mut self, code: Code) {
        self.end(code);
        let rpc = self.rpc.label();
        // A stream's duration says how long its caller stayed, not how fast the service is.
        if self.rpc != Rpc::AppendEvents {
            let seconds = self.started.elapsed().as_secs_f64();
            self.metrics.inner().request_seconds.get_or_create(&RpcLabel { rpc }).observe(seconds);
        }
    }

    fn end(&mut self, code: Code) {
        self.finished = true;
        let (metrics, rpc) = (self.metrics.inner(), self.rpc.label());
        metrics.in_flight.get_or_create(&RpcLabel { rpc }).dec();
        metrics.requests.get_or_create(&RpcCodeLabels { rpc, code: code_name(code) }).inc();
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.end(Code::Cancelled);
            self.metrics.inner().cancelled.get_or_create(&RpcLabel { rpc: self.rpc.label() }).inc();
        }
    }
}

/// A store call under way. Dropped without [`finish`](Self::finish), its caller went away.
#[derive(Debug)]
#[must_use = "dropping it counts a cancelled call"]
pub struct StoreCallGuard {
    metrics: Metrics,
    operation: StoreOperation,
    started: Instant,
    finished: bool,
}

impl StoreCallGuard {
    /// The store answered, or failed.
    pub fn finish(mut self, result: Result<(), StoreFailure>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<(), StoreFailure>) {
        self.finished = true;
        let (metrics, operation) = (self.metrics.inner(), self.operation.label());
        let seconds = self.started.elapsed().as_secs_f64();
        metrics.store_seconds.get_or_create(&OperationLabel { operation }).observe(seconds);
        if let Err(failure) = result {
            metrics.store_errors.get_or_create(&StoreFailureLabels { operation, kind: failure.label() }).inc();
        }
    }
}

impl Drop for StoreCallGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.end(Err(StoreFailure::Cancelled));
        }
    }
}

/// An open connection of a caller's. Dropped, it is closed.
#[derive(Debug)]
#[must_use = "dropping it counts a closed connection"]
pub(crate) struct ConnectionGuard(Metrics);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.inner().connections.dec();
    }
}

/// As the gRPC specification spells codes.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_in_one_way() {
        let metrics = Metrics::new();
        let in_flight = || {
            let text = metrics.encode();
            let line = text.lines().find(|line| line.starts_with(r#"sesrec_requests_in_flight{rpc="Rank"}"#));
            line.unwrap().rsplit(' ').next().unwrap().to_owned()
        };
        let first = metrics.request(Rpc::Rank);
        let second = metrics.request(Rpc::Rank);
        assert_eq!(in_flight(), "2");
        first.finish(Code::Ok);
        drop(second);
        assert_eq!(in_flight(), "0");
        let text = metrics.encode();
        assert!(text.contains(r#"sesrec_requests_total{rpc="Rank",code="OK"} 1"#), "{text}");
        assert!(text.contains(r#"sesrec_requests_total{rpc="Rank",code="CANCELLED"} 1"#));
        assert!(text.contains(r#"sesrec_requests_cancelled_total{rpc="Rank"} 1"#));
        assert!(text.contains(r#"sesrec_request_duration_seconds_count{rpc="Rank"} 1"#));
    }

    #[test]
    fn store_calls_count_failures_by_kind() {
        let metrics = Metrics::new();
        metrics.store_call(StoreOperation::Load).finish(Ok(()));
        metrics.store_call(StoreOperation::Load).finish(Err(StoreFailure::Unavailable));
        drop(metrics.store_call(StoreOperation::Append));
        let text = metrics.encode();
        assert!(text.contains(r#"sesrec_store_duration_seconds_count{operation="load"} 2"#), "{text}");
        assert!(text.contains(r#"sesrec_store_errors_total{operation="load",kind="unavailable"} 1"#));
        assert!(text.contains(r#"sesrec_store_errors_total{operation="append",kind="cancelled"} 1"#));
    }
}
