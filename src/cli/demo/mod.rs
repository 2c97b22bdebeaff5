//! `sesrec demo`: the whole story on one machine, from logs to an answer that moved.
//!
//! `stages` makes what has to exist (logs, data set, bundle) by running the very commands it prints; `cast` picks a user
//! and candidates for whom a new search matters; `story` talks to the running server as any client would.

mod cast;
mod run;
mod stages;
mod story;

pub use run::Args;
pub(super) use run::run;
