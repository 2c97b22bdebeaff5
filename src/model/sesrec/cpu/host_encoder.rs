//! Users encoded in host memory, on all cores where there are several.

use candle_core::Result;
use rayon::prelude::*;

use super::{
    super::Network,
    encode::{Encoder, HostUser},
    items::ItemVectors,
};
use crate::{data::UserFeatures, model::HostEmbeddings};

/// What encodes users in host memory.
pub(in crate::model::sesrec) struct HostEncoder {
    pub(super) embeddings: HostEmbeddings,
    pub(super) items: ItemVectors,
    encoder: Encoder,
}

impl HostEncoder {
    /// Of a network on the CPU; vectors of items are precomputed where all of them take at most `item_table_bytes`.
    pub(super) fn new(network: &Network, item_table_bytes: u64) -> Result<Self> {
        let embeddings = HostEmbeddings::new(&network.embeddings)?;
        let items = ItemVectors::new(network, &embeddings, item_table_bytes)?;
        Ok(Self { encoder: Encoder::new(network)?, items, embeddings })
    }

    /// For a ranker that scores elsewhere: events' items are few enough to be embedded when they come.
    #[cfg(feature = "cuda")]
    pub(in crate::model::sesrec) fn without_item_table(network: &Network) -> Result<Self> {
        let (embeddings, items) = (HostEmbeddings::new(&network.embeddings)?, ItemVectors::without_table(network)?);
        Ok(Self { encoder: Encoder::new(network)?, items, embeddings })
    }

    pub(in crate::model::sesrec) fn encode(&self, users: &[&UserFeatures]) -> Result<Vec<HostUser>> {
        let encode = |user: &&UserFeatures| self.encoder.encode(&self.embeddings, &self.items, user);
        if users.len() == 1 || rayon::current_num_threads() == 1 {
            users.iter().map(encode).collect()
        } else {
            users.par_iter().map(encode).collect()
        }
    }
}
