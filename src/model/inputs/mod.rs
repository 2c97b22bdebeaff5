//! The input layer that all models share: from catalogue rows to vectors.
//!
//! [`InputConfig`] says which tables a model has, [`Embeddings`] holds them, [`HistoryVectors`] is a batch of histories
//! as vectors: each part is computed when a model asks for it.

mod config;
mod embedding;
mod history;
mod host;

pub use config::{AttributeConfig, InputConfig, InputSizes, QueryFeatures, TableConfig};
pub use embedding::{Embeddings, ItemRows};
pub use history::HistoryVectors;
pub use host::HostEmbeddings;
