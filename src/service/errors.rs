//! Every way in which a call can fail, and the one table from there to gRPC codes and `google.rpc` details.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Right, Violations};
use crate::{
    domain::{EventId, HistoryVersion, ModelVersion},
    engine::EngineError,
    history::StoreError,
    telemetry::{StoreFailure, Throttle},
};

/// `ErrorInfo.domain` of every error.
pub const ERROR_DOMAIN: &str = "sesrec";

/// When a caller should come back after an outage of the store: reconnecting takes about as long.
const STORE_RETRY: Duration = Duration::from_millis(500);
/// When a caller should come back to a server that is leaving: its load balancer has noticed by then.
const DRAIN_RETRY: Duration = Duration::from_millis(200);
/// When a caller should come back after a limit on concurrency.
const LIMIT_RETRY: Duration = Duration::from_millis(50);

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServiceError {
    /// The request breaks rules.
    #[error("invalid request: {0}")]
    Invalid(#[from] Violations),
    /// The store did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine did not answer. With the time after which a retry has a chance.
    #[error("{0}")]
    Engine(EngineError, Duration),
    /// The deadline passed in the service.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// The history has not reached the token's state.
    #[error("history_token: the store has not reached the token's state; retry, or ask without history_token")]
    TokenAhead {
        /// The token's.
        wanted: HistoryVersion,
        /// The store's.
        stored: HistoryVersion,
    },
    /// Another model is live.
    #[error("model_version {wanted} is not live; {live} is")]
    ModelNotLive {
        /// The request's.
        wanted: ModelVersion,
        /// The live one's.
        live: ModelVersion,
    },
    /// The event id is stored with other contents.
    #[error("event_id {0} is stored with another payload or time; use a new event_id for a new event")]
    Conflict(EventId),
    /// No credentials, or none that count here.
    #[error("not authenticated: {0}")]
    Unauthenticated(&'static str),
    /// The token does not have the right.
    #[error("the token has no right to {0}")]
    PermissionDenied(Right),
    /// A limit on concurrent work.
    #[error("{0}; try again later")]
    Busy(&'static str),
    /// The server is shutting down.
    #[error("the server is shutting down; connect again")]
    Draining,
    /// A message that its caller doesn't finish.
    #[error("a message was begun and not finished in time")]
    MessageIncomplete,
    /// A stream whose caller doesn't take what it is told.
    #[error("the stream's acknowledgements were not read in time; events without one have to be sent again")]
    Unread,
    /// The stream is as old as streams get.
    #[error("the stream has reached the age at which streams end here; open another")]
    StreamAge,
    /// A bug.
    #[error("internal error; the server's log has the details under this request's id")]
    Internal,
}

/// Code, reason, and when to retry.
struct Row(Code, &'static str, Option<Duration>);

impl ServiceError {
    /// The table.
    fn row(&self) -> Row {
        use ServiceError as E;
        match self {
            E::Invalid(_) => Row(Code::InvalidArgument, "INVALID_REQUEST", None),
            E::Store(StoreError::Unavailable(_)) => Row(Code::Unavailable, "STORE_UNAVAILABLE", Some(STORE_RETRY)),
            E::Store(StoreError::Deadline) => Row(Code::DeadlineExceeded, "STORE_DEADLINE", None),
            E::Store(StoreError::NewerSchema { .. }) => Row(Code::FailedPrecondition, "STORE_NEWER_SCHEMA", None),
            E::Store(StoreError::Corrupt(_)) => Row(Code::DataLoss, "STORE_CORRUPT", None),
            E::Store(StoreError::Config(_)) => Row(Code::Unavailable, "STORE_CONFIGURATION", Some(STORE_RETRY)),
            E::Engine(EngineError::Overloaded(_), retry) => Row(Code::ResourceExhausted, "OVERLOADED", Some(*retry)),
            E::Engine(EngineError::DeadlineExceeded, _) => Row(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None),
            E::Engine(EngineError::ShuttingDown, _) => Row(Code::Unavailable, "SHUTTING_DOWN", Some(DRAIN_RETRY)),
            E::Engine(EngineError::Model(_), _) => Row(Code::Internal, "MODEL_FAILED", None),
            E::DeadlineExceeded => Row(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None),
            E::TokenAhead { .. } => Row(Code::FailedPrecondition, "HISTORY_TOKEN_AHEAD", None),
            E::ModelNotLive { .. } => Row(Code::FailedPrecondition, "MODEL_VERSION_NOT_LIVE", None),
            E::Conflict(_) => Row(Code::AlreadyExists, "EVENT_ID_CONFLICT", None),
            E::Unauthenticated(_) => Row(Code::Unauthenticated, "UNAUTHENTICATED", None),
            E::PermissionDenied(_) => Row(Code::PermissionDenied, "PERMISSION_DENIED", None),
            E::Busy(_) => Row(Code::ResourceExhausted, "OVERLOADED", Some(LIMIT_RETRY)),
            E::Draining => Row(Code::Unavailable, "SHUTTING_DOWN", Some(DRAIN_RETRY)),
            E::MessageIncomplete => Row(Code::DeadlineExceeded, "MESSAGE_INCOMPLETE", None),
            E::Unread => Row(Code::Aborted, "ACKNOWLEDGEMENTS_UNREAD", Some(DRAIN_RETRY)),
            E::StreamAge => Row(Code::Unavailable, "STREAM_AGE", Some(DRAIN_RETRY)),
            E::Internal => Row(Code::Internal, "INTERNAL", None),
        }
    }

    /// As callers get it.
    pub(super) fn code(&self) -> Code {
        self.row().0
    }

    /// What callers read. Addresses and paths of the store stay in the log.
    fn message(&self) -> String {
        match self {
            Self::Store(error) if error.is_outage() => {
                "the history store is unavailable; what was not acknowledged may be repeated".into()
            }
            Self::Store(StoreError::Corrupt(_)) => "the history store failed; the server's log has the details".into(),
            Self::Engine(EngineError::Model(_), _) => "the model failed; the server's log has the details".into(),
            error => error.to_string(),
        }
    }

    /// What `ErrorInfo` says besides the reason.
    fn metadata(&self) -> HashMap<String, String> {
        match self {
            Self::TokenAhead { wanted, stored } => {
                HashMap::from([("stored".into(), stored.to_string()), ("wanted".into(), wanted.to_string())])
            }
            Self::ModelNotLive { wanted, live } => {
                HashMap::from([("live".into(), live.to_string()), ("wanted".into(), wanted.to_string())])
            }
            Self::Conflict(event_id) => HashMap::from([("event_id".into(), event_id.to_string())]),
            Self::PermissionDenied(right) => HashMap::from([("required_right".into(), right.to_string())]),
            _ => HashMap::new(),
        }
    }

    fn log(&self) {
        let Some(more) = FLOODS.pass(self, Instant::now()) else { return };
        match self {
            Self::Store(StoreError::Unavailable(_) | StoreError::Deadline) => {
                tracing::warn!(error = %self, more, "a request failed");
            }
            Self::Store(_) | Self::Engine(EngineError::Model(_), _) | Self::Internal => {
                tracing::error!(error = %self, more, "a request failed");
            }
            Self::TokenAhead { wanted, stored } => {
                tracing::warn!(%wanted, %stored, more, "the store is behind a history_token");
            }
            _ => tracing::debug!(error = %self, "refused"),
        }
    }
}

static FLOODS: Floods = Floods::new();

/// Failures that come with every request as long as their cause lasts. Of each kind the log has the first at once, then
/// a line a second, with how many more there were.
struct Floods {
    unavailable: Throttle,
    newer_schema: Throttle,
    configuration: Throttle,
    model: Throttle,
    token_ahead: Throttle,
}

impl Floods {
    const fn new() -> Self {
        Self {
            unavailable: Throttle::new(),
            newer_schema: Throttle::new(),
            configuration: Throttle::new(),
            model: Throttle::new(),
            token_ahead: Throttle::new(),
        }
    }

    /// `None`: not to be told now; else how many more of its kind there were since the last that was.
    fn pass(&self, error: &ServiceError, now: Instant) -> Option<u64> {
        let kind = match error {
            ServiceError::Store(StoreError::Unavailable(_) | StoreError::Deadline) => &self.unavailable,
            ServiceError::Store(StoreError::NewerSchema { .. }) => &self.newer_schema,
            ServiceError::Store(StoreError::Config(_)) => &self.configuration,
            ServiceError::Engine(EngineError::Model(_), _) => &self.model,
            // One may be its caller's mistake; many are a store that has lost data.
            ServiceError::TokenAhead { .. } => &self.token_ahead,
            // One user's damaged value, or a bug: each is worth its line. The rest is told at debug only.
            _ => return Some(0),
        };
        kind.pass(now)
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        error.log();
        let Row(code, reason, retry) = error.row();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, ERROR_DOMAIN, error.metadata());
        if let Some(delay) = retry {
            details.set_retry_info(Some(delay));
        }
        if let ServiceError::Invalid(violations) = &error {
            for violation in violations.listed() {
                details.add_bad_request_violation(&violation.field, &violation.description);
            }
        }
        Status::with_error_details(code, error.message(), details)
    }
}

/// As metrics count it.
pub(super) fn store_failure(error: &StoreError) -> StoreFailure {
    match error {
        StoreError::Unavailable(_) => StoreFailure::Unavailable,
        StoreError::Deadline => StoreFailure::Deadline,
        StoreError::NewerSchema { .. } => StoreFailure::NewerSchema,
        StoreError::Corrupt(_) => StoreFailure::Corrupt,
        StoreError::Config(_) => StoreFailure::Config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let store = |error| ServiceError::Store(error);
        let engine = |error| ServiceError::Engine(error, Duration::from_millis(7));
        let version = |text: &str| ModelVersion::new(text).expect("an id");
        let table = [
            (Violations::of("user_id", "must not be empty").into(), Code::InvalidArgument, "INVALID_REQUEST", None),
            (
                store(StoreError::Unavailable("redis://secret".into())),
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                Some(STORE_RETRY),
            ),
            (
                store(StoreError::Config("redis://secret".into())),
                Code::Unavailable,
                "STORE_CONFIGURATION",
                Some(STORE_RETRY),
            ),
            (store(StoreError::Deadline), Code::DeadlineExceeded, "STORE_DEADLINE", None),
            (
                store(StoreError::NewerSchema { found: 9, supported: 1 }),
                Code::FailedPrecondition,
                "STORE_NEWER_SCHEMA",
                None,
            ),
            (store(StoreError::Corrupt("redis://secret".into())), Code::DataLoss, "STORE_CORRUPT", None),
            (
                engine(EngineError::Overloaded("queue full")),
                Code::ResourceExhausted,
                "OVERLOADED",
                Some(Duration::from_millis(7)),
            ),
            (engine(EngineError::DeadlineExceeded), Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None),
            (engine(EngineError::ShuttingDown), Code::Unavailable, "SHUTTING_DOWN", Some(DRAIN_RETRY)),
            (engine(EngineError::Model("redis://secret".into())), Code::Internal, "MODEL_FAILED", None),
            (ServiceError::DeadlineExceeded, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None),
            (
                ServiceError::TokenAhead { wanted: HistoryVersion(2), stored: HistoryVersion(1) },
                Code::FailedPrecondition,
                "HISTORY_TOKEN_AHEAD",
                None,
            ),
            (
                ServiceError::ModelNotLive { wanted: version("a"), live: version("b") },
                Code::FailedPrecondition,
                "MODEL_VERSION_NOT_LIVE",
                None,
            ),
            (ServiceError::Conflict(EventId::new("e").expect("an id")), Code::AlreadyExists, "EVENT_ID_CONFLICT", None),
            (ServiceError::Unauthenticated("no token"), Code::Unauthenticated, "UNAUTHENTICATED", None),
            (ServiceError::PermissionDenied(Right::Admin), Code::PermissionDenied, "PERMISSION_DENIED", None),
            (ServiceError::Busy("too many streams"), Code::ResourceExhausted, "OVERLOADED", Some(LIMIT_RETRY)),
            (ServiceError::Draining, Code::Unavailable, "SHUTTING_DOWN", Some(DRAIN_RETRY)),
            (ServiceError::StreamAge, Code::Unavailable, "STREAM_AGE", Some(DRAIN_RETRY)),
            (ServiceError::MessageIncomplete, Code::DeadlineExceeded, "MESSAGE_INCOMPLETE", None),
            (ServiceError::Unread, Code::Aborted, "ACKNOWLEDGEMENTS_UNREAD", Some(DRAIN_RETRY)),
            (ServiceError::Internal, Code::Internal, "INTERNAL", None),
        ];
        for (error, code, reason, retry) in table {
            let name = error.to_string();
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{name}");
            let details = status.get_error_details();
            assert_eq!(details.retry_info().and_then(|retry| retry.retry_delay), retry, "{name}");
            let info = details.error_info().expect("always there");
            assert_eq!((info.domain.as_str(), info.reason.as_str()), (ERROR_DOMAIN, reason), "{name}");
            assert!(!status.message().contains("secret"), "{}", status.message());
        }
    }

    #[test]
    fn of_an_outage_the_log_has_a_line_a_second_for_each_kind() {
        let (floods, start) = (Floods::new(), Instant::now());
        let store = |error| ServiceError::Store(error);
        let outages = [
            store(StoreError::Unavailable("away".into())),
            store(StoreError::NewerSchema { found: 9, supported: 1 }),
            store(StoreError::Config("wrong password".into())),
            ServiceError::Engine(EngineError::Model("broken".into()), Duration::ZERO),
            ServiceError::TokenAhead { wanted: HistoryVersion(2), stored: HistoryVersion(1) },
        ];
        let others = [store(StoreError::Corrupt("one value".into())), ServiceError::Internal, ServiceError::Draining];
        let pass = |error, milliseconds| floods.pass(error, start + Duration::from_millis(milliseconds));
        for kind in &outages {
            assert_eq!(pass(kind, 0), Some(0), "{kind}: no kind waits for another");
            assert!((0..1000).all(|milliseconds| pass(kind, milliseconds).is_none()), "{kind}");
            assert_eq!(pass(kind, 1000), Some(1000), "{kind}");
        }
        for error in &others {
            assert!((0..1000).all(|milliseconds| pass(error, milliseconds) == Some(0)), "{error}");
        }
    }
}
