//! The values that labels can take: enums, so that a metric can't grow a series per typing error or per user.

use prometheus_client::encoding::EncodeLabelSet;

/// An enum whose variants have label texts.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The text in metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

label!(
    /// A method of the service.
    Rpc {
        /// Unary.
        Rank = "Rank",
        /// Unary.
        AppendEvent = "AppendEvent",
        /// A stream; it is counted as one request, its events by outcome.
        AppendEvents = "AppendEvents",
        /// Unary.
        GetHistory = "GetHistory",
        /// Unary.
        DeleteHistory = "DeleteHistory",
        /// Unary.
        GetModelInfo = "GetModelInfo",
    }
);
label!(
    /// The disjoint parts of a Rank's time.
    Stage {
        /// Waiting for the device.
        Queue = "queue",
        /// Reading the history.
        History = "history",
        /// History to user state.
        Encode = "encode",
        /// User state and candidates to scores.
        Score = "score",
        /// Everything else until the answer is built: decoding, validation, ordering.
        Other = "other",
    }
);
label!(
    /// Why a request was refused at once.
    Rejection {
        /// As many Ranks as may be are under way.
        QueuedRequests = "queued_requests",
        /// Their candidates are as many as may be.
        QueuedCandidates = "queued_candidates",
        /// As many appends as may run are running.
        Appends = "appends",
        /// As many streams as may be open are open.
        Streams = "streams",
        /// As many histories as may be are read for callers or erased.
        Histories = "histories",
        /// What has come of unfinished requests is as much as may be kept.
        Unfinished = "unfinished",
        /// No token, or an unknown one.
        Unauthenticated = "unauthenticated",
        /// A token without the right.
        PermissionDenied = "permission_denied",
        /// The server is shutting down.
        ShuttingDown = "shutting_down",
    }
);
label!(
    /// Why nobody waits for an answer any more.
    Abandoned {
        /// Its deadline passed.
        Deadline = "deadline",
        /// The caller went away.
        Cancelled = "cancelled",
    }
);
label!(
    /// How far an abandoned request had come.
    Phase {
        /// It was still queued: the model never saw it.
        Queued = "queued",
        /// The device was at it.
        Computing = "computing",
    }
);
label!(
    /// What a store is asked.
    StoreOperation {
        /// Events to a user's history.
        Append = "append",
        /// A history.
        Load = "load",
        /// Erasure.
        Delete = "delete",
        /// Whether it answers.
        Ping = "ping",
    }
);
label!(
    /// How a store fails.
    StoreFailure {
        /// Not reachable or broken.
        Unavailable = "unavailable",
        /// Too slow.
        Deadline = "deadline",
        /// A value from a newer version of this program.
        NewerSchema = "newer_schema",
        /// A value that can't be read.
        Corrupt = "corrupt",
        /// Configuration.
        Config = "config",
        /// The caller went away first.
        Cancelled = "cancelled",
    }
);
label!(
    /// What became of an event.
    AppendOutcome {
        /// The history changed.
        Applied = "applied",
        /// A replay.
        Duplicate = "duplicate",
        /// Older than everything kept, expired or erased.
        TooOld = "too_old",
        /// Its id is stored with another payload.
        Conflict = "conflict",
        /// It breaks a rule.
        Invalid = "invalid",
        /// The store failed: not acknowledged.
        Failed = "failed",
    }
);
label!(
    /// What became of a line of the rank log.
    RankLogOutcome {
        /// It is in the file, or will be within a second.
        Written = "written",
        /// The queue before the file was full.
        Dropped = "dropped",
        /// The disk refused it.
        Failed = "failed",
    }
);
label!(
    /// What is read anew: on SIGHUP, the certificate also when its files are others.
    Reloaded {
        /// The bundle.
        Model = "model",
        /// The file of tokens.
        Tokens = "tokens",
        /// The certificate of TLS, its key and its clients' authority.
        Certificate = "certificate",
    }
);
label!(
    /// Where an item was named.
    ItemPlace {
        /// As a candidate.
        Candidate = "candidate",
        /// In a history.
        History = "history",
    }
);

/// What the model gauge says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ModelLabels {
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// Architecture.
    pub kind: String,
    /// "cpu" or "cuda:N".
    pub device: String,
}

/// One label set per family; the fields are the label names.
macro_rules! label_sets {
    ($($name:ident { $($field:ident),+ })+) => {
        $(
            #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
            pub(super) struct $name {
                $(pub(super) $field: &'static str),+
            }
        )+
    };
}

label_sets! {
    RpcLabel { rpc }
    RpcCodeLabels { rpc, code }
    StageLabel { stage }
    ReasonLabel { reason }
    AbandonedLabels { reason, phase }
    OperationLabel { operation }
    StoreFailureLabels { operation, kind }
    OutcomeLabel { outcome }
    PlaceLabel { place }
    WhatLabel { what }
    BuildLabels { version, target, features }
}
