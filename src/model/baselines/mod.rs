//! The systems that SESRec is compared with: one file per model, everything that they share here.
//!
//! # What a model file provides
//! - A serde configuration: `inputs: InputConfig` (flattened) and the model's own sizes, every one with its publication's
//!   default. It implements [`Baseline`]: name, check, tensors (by name, shape, initial values), the network over them.
//! - The network, which implements [`Network`]: `encode` is everything before the candidate, `logits` everything from it
//!   on. Both work on a batch and are differentiable; training, evaluation and serving call the same two.
//! - Its users' state, which implements [`Users`]: what `encode` returns for B users can be taken apart into users, and
//!   that is what the engine caches. A tower's state is a [`Tensor`](candle_core::Tensor) `[B, d]` and needs no code.
//!
//! Then it gets a variant in [`ModelConfig`](super::ModelConfig) and in [`ModelKind`](super::ModelKind), which tests,
//! the command line and bundles go by. The rest of the program knows [`TrainableModel`](super::TrainableModel) and
//! [`RankingModel`](super::RankingModel); [`NetworkTrainable`] and [`NetworkRanker`] are these for every network.
//!
//! # Where things come from
//! - *Items*: [`HistoryVectors::items`](super::HistoryVectors) `[B, Lr, d]`, oldest first, padded on the right;
//!   `item_mask()`, `newest(states)`, `items_on_the_right(L)` for models that pad on the left. Candidates come as
//!   [`Candidates`]: vectors `[B, C, d]` and rows.
//! - *Searches*: `queries()`, `sources()`, `clicked_items()` with `clicked_mask()`, `clicked_means()`, `search_mask()`.
//!   Whether there are any is the configuration's `inputs`: [`InputConfig::without_searches`](super::InputConfig) for
//!   models that see none (their users' features hold none either), `without_search_sources` for models that don't ask how
//!   a search began. Every table that is configured must get a gradient, so leave out what isn't used.
//! - *Users*: `users()` `[B, u]`; `InputConfig::without_users` where they are not used.
//! - *Time*: `batch().src_places` says how many recommendations lie before each search: both sides merged by time. No
//!   event at or after the target's time is ever in a batch. Tables hold other users' events, too: what they say counts
//!   only as far as it is older than `batch().as_of`.
//! - *Tables* (neighbours in a graph, the queries of an item): list them with
//!   [`ParameterList::table`](super::ParameterList::table) or, where their length depends on the data,
//!   [`ParameterList::list`](super::ParameterList::list) (u32), and build them in [`Baseline::tables`] from the training
//!   part of the data set. They travel in `model.safetensors`, are checked by [`Baseline::check_tables`], and come back
//!   through [`Weights::get`](super::Weights::get).
//! - *Item vectors that are more than the embedding*: [`Network::items`]. It is called for a batch's distinct items in
//!   training, and once for all items when a model is loaded. [`Network::item_as_of`] where they change with time.
//! - *What else can be computed once per load*: [`Network::loaded`].
//! - *Running statistics*: [`ParameterList::statistic`](super::ParameterList::statistic). They arrive as variables:
//!   `Var::from_tensor(&tensor)` is the variable itself, and `set` changes what is saved.
//!   [`Dropout::is_training`](crate::nn::Dropout::is_training) tells training from serving.
//! - *Target attention*: [`DinUsers`] is a state of several tensors per event. `target_attention` compares candidates with
//!   events, what depends on the event alone cached with the user; `prediction_head` ends with an MLP, the user's share of
//!   its first layer cached likewise.
//! - *Losses*: by default BCE over the candidates. Otherwise [`Network::losses`], from a [`Step`]; what the batches have
//!   to hold for it (all prefixes, whole sequences, clicks of searches and what the searchers had done before) is
//!   [`Baseline::batch_plan`].

mod dien;
mod din;
mod feed_forward;
mod fmlp;
mod gru4rec;
mod iv4rec;
mod jsr;
mod network;
mod nrhub;
mod prediction_head;
mod query_seqrec;
mod ranker;
mod sasrec;
pub mod srjgraph;
mod stamp;
mod target_attention;
mod trainable;

pub use dien::{Dien, DienConfig, DienUsers, Evolution};
pub use din::{Din, DinConfig, DinUsers, Interest};
pub use fmlp::{FilteredStates, Fmlp, FmlpConfig};
pub use gru4rec::{Gru4Rec, Gru4RecConfig};
pub use iv4rec::{Instruments, Iv4Rec, Iv4RecConfig, Rewritten};
pub use jsr::{ItemWords, Jsr, JsrConfig, ProductMlp, QueryClicks, SearchTask};
pub use network::{Baseline, Candidates, Network, Objective, Step, Users, dot};
pub use nrhub::{Nrhub, NrhubConfig, Views};
pub use prediction_head::Activation;
pub use query_seqrec::{Mixed, MixedStates, QuerySeqRec, QuerySeqRecConfig, Sequences};
pub use ranker::NetworkRanker;
pub use sasrec::{BlockStates, PositionSide, SasRec, SasRecConfig};
pub use srjgraph::{SrjGraph, SrjGraphConfig};
pub use stamp::{Memory, Stamp, StampConfig};
pub use trainable::NetworkTrainable;
