//! The gRPC service: protobuf in, protobuf out, everything between in domain values.
//!
//! `layer` notes arrival and deadline, `receive` counts what has come of unfinished messages → `auth` asks for a token
//! with the right → `methods`, the generated trait → one handler per method (`rank`, `append`, `history`, `info`) →
//! `convert` checks requests, `present` makes answers, `errors` maps failures. `shared` is what handlers have in
//! common, `last_known` this replica's copies of histories. [`Server`] puts it on a port, `probe` says when traffic may
//! come.

mod append;
mod auth;
mod connection;
pub mod convert;
mod errors;
mod handshake;
mod held;
mod history;
mod info;
mod last_known;
mod layer;
mod methods;
mod options;
pub mod present;
mod probe;
mod rank;
mod receive;
mod server;
mod shared;
mod violations;

pub use auth::{
    CertificateFiles, Certificates, NewToken, ReflectionAccess, Right, SecurityOptions, TlsError, TokenFile,
    TokenFileError,
};
pub use errors::{ERROR_DOMAIN, ServiceError};
pub use options::{Concurrency, OnStoreOutage, ServerOptions, ServiceOptions, Timeouts};
pub use server::{Server, ServerError};
pub use shared::RankingServer;
pub use violations::{Violation, Violations};
