//! SESRec's answers on a CPU, without tensors: one user's history and a tile of candidates at a time are small
//! matrices, and a tensor operation's bookkeeping and copies cost as much as its arithmetic.
//!
//! [`items`] has what depends on the item alone, [`host_encoder`] encodes (for a GPU, too), [`score`] scores,
//! [`CpuRanker`] answers. The network of tensors is the definition; the tests hold both to the same golden values, and
//! to each other.

mod encode;
mod host_encoder;
mod interests;
mod items;
mod ranker;
mod score;

#[cfg(feature = "cuda")]
pub(super) use host_encoder::HostEncoder;
pub(super) use ranker::CpuRanker;
