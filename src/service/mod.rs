//! The gRPC service.

pub mod convert;
mod violations;

pub use violations::{Violation, Violations};
