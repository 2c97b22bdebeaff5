//! `sesrec demo`: the whole story on one machine, from logs to an answer that moved.
//!
//! `stages` makes what has to exist (logs, data set, bundle) by running the very commands it prints; `cast` picks a
//! user and candidates for whom a new search matters; `story` talks to the running server as any client would.
//! `interrupt` listens for Ctrl-C all the time; `program` says how to call this program again.

mod cast;
mod interrupt;
mod program;
mod run;
mod stages;
mod story;

pub use run::Args;
pub(super) use run::run;
