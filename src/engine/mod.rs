//! From user features and candidates to an ordered answer.
//!
//! `admission` decides at once whether a request may wait → `queue` holds it until the device is free, its deadline
//! passes or its caller goes away → `batcher` makes a micro-batch of what waits → `worker`, a thread that owns the
//! device, encodes the users that `user_cache` doesn't have and scores all candidates → `order` sorts. `cores` says how
//! many of a CPU's a batch has, `progress` whether the device gets on, `slot` holds the live model, `load` makes one
//! from a bundle.
//!
//! Batching is greedy: an idle device starts at once, so a lone caller pays nothing for it; a busy one lets requests
//! gather. [`Engine`] is the handle to all of it.

mod admission;
mod batcher;
mod cores;
mod handle;
mod job;
mod live;
mod load;
mod options;
mod order;
mod pace;
mod progress;
mod queue;
mod slot;
mod user_cache;
mod worker;

pub use handle::{AdmittedRank, Engine};
pub use job::{EngineError, Explain, RankJob, Ranked};
pub use live::{LoadedModel, ModelInfo};
pub use load::LoadError;
pub use options::EngineOptions;
pub(crate) use order::order;
pub use slot::ModelSlot;
