//! SESRec's answers on a CPU, without tensors: one user's history and a tile of candidates at a time are small
//! matrices, and a tensor operation's bookkeeping and copies cost as much as its arithmetic.
//!
//! [`ItemVectors`] has what depends on the item alone, [`HostEncoder`] encodes (for a GPU, too), [`Head`] scores. The
//! network of tensors is the definition; the tests hold both to the same golden values, and to each other.

mod encode;
mod interests;
mod items;
mod score;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use self::{encode::Encoder, items::ItemVectors, score::Head};
use super::{
    Network, explain,
    state::{EncodedUser, SideState},
};
use crate::{
    data::UserFeatures,
    domain::{HistoryWeights, ItemAttention},
    model::{HostEmbeddings, ModelError, ScoreRequest, UserState},
    nn::Matrix,
};

type HostUser = EncodedUser<Matrix>;

/// What encodes users in host memory.
pub(super) struct HostEncoder {
    embeddings: HostEmbeddings,
    items: ItemVectors,
    encoder: Encoder,
}

impl HostEncoder {
    /// Of a network on the CPU; vectors of items are precomputed where all of them take at most `item_table_bytes`.
    fn new(network: &Network, item_table_bytes: u64) -> Result<Self> {
        let embeddings = HostEmbeddings::new(&network.embeddings)?;
        let items = ItemVectors::new(network, &embeddings, item_table_bytes)?;
        Ok(Self { encoder: Encoder::new(network)?, items, embeddings })
    }

    /// For a ranker that scores elsewhere: events' items are few enough to be embedded when they come.
    #[cfg(feature = "cuda")]
    pub(super) fn without_item_table(network: &Network) -> Result<Self> {
        let (embeddings, items) = (HostEmbeddings::new(&network.embeddings)?, ItemVectors::without_table(network)?);
        Ok(Self { encoder: Encoder::new(network)?, items, embeddings })
    }

    pub(super) fn encode(&self, users: &[&UserFeatures]) -> Result<Vec<EncodedUser<Matrix>>> {
        let encode = |user: &&UserFeatures| self.encoder.encode(&self.embeddings, &self.items, user);
        if users.len() == 1 || rayon::current_num_threads() == 1 {
            users.iter().map(encode).collect()
        } else {
            users.par_iter().map(encode).collect()
        }
    }
}

/// A trained SESRec in host memory.
pub(super) struct CpuRanker {
    users: HostEncoder,
    head: Head,
}

impl CpuRanker {
    /// Of a network on the CPU; vectors of items are precomputed where all of them take at most `item_table_bytes`.
    pub(super) fn new(network: &Network, item_table_bytes: u64) -> Result<Self> {
        Ok(Self { users: HostEncoder::new(network, item_table_bytes)?, head: Head::new(network)? })
    }

    pub(super) fn encode(&self, users: &[&UserFeatures]) -> std::result::Result<Vec<UserState>, ModelError> {
        let states = self.users.encode(users)?.into_iter().map(|user| {
            let bytes = user.bytes();
            UserState::new(user, bytes)
        });
        Ok(states.collect())
    }

    pub(super) fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>> {
        self.head.score(&self.users.embeddings, &self.users.items, requests)
    }

    pub(super) fn explain(&self, state: &UserState, items: &[u32]) -> Result<(HistoryWeights, Vec<ItemAttention>)> {
        let user = state.get::<HostUser>();
        let [rec, src] = self.users.items.keys(&self.users.embeddings, items)?;
        let sides = [(&user.rec, rec), (&user.src, src)];
        explain::attention(sides.map(|(side, keys): (&SideState<Matrix>, Tensor)| Ok((side.tensors()?, keys))))
    }
}
