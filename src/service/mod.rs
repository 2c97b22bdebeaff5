//! The gRPC service: protobuf in, protobuf out, everything between in domain values.
//!
//! `layer` notes arrival and deadline → `methods`, the generated trait → one handler per method (`rank`, `append`,
//! `history`, `info`) → `convert` checks requests, `present` makes answers, `errors` maps failures. `shared` is what
//! handlers have in common, `last_known` this replica's copies of histories. [`Server`] puts it on a port.

mod append;
mod connection;
pub mod convert;
mod errors;
mod history;
mod info;
mod last_known;
mod layer;
mod methods;
mod options;
pub mod present;
mod rank;
mod server;
mod shared;
mod violations;

pub use errors::{ERROR_DOMAIN, ServiceError};
pub use options::{Concurrency, OnStoreOutage, ServerOptions, ServiceOptions, Timeouts};
pub use server::{Server, ServerError};
pub use shared::RankingServer;
pub use violations::{Violation, Violations};
