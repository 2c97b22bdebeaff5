//! From user features and candidates to an ordered answer: admission, queue, micro-batches, the device's own thread,
//! the cache of encoded users, the live model.

mod job;
mod live;

pub use job::{EngineError, Explain, RankJob, Ranked};
pub use live::{LoadedModel, ModelInfo};
