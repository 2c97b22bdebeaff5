//! Users encoded and candidates scored in host memory.

use candle_core::{Result, Tensor};

use super::{
    super::{Network, explain, state::SideState},
    encode::HostUser,
    host_encoder::HostEncoder,
    score::Head,
};
use crate::{
    data::UserFeatures,
    domain::{HistoryWeights, ItemAttention},
    model::{ModelError, ScoreRequest, UserState},
    nn::Matrix,
};

/// A trained SESRec in host memory.
pub(in crate::model::sesrec) struct CpuRanker {
    users: HostEncoder,
    head: Head,
}

impl CpuRanker {
    /// Of a network on the CPU; vectors of items are precomputed where all of them take at most `item_table_bytes`.
    pub(in crate::model::sesrec) fn new(network: &Network, item_table_bytes: u64) -> Result<Self> {
        Ok(Self { users: HostEncoder::new(network, item_table_bytes)?, head: Head::new(network)? })
    }

    pub(in crate::model::sesrec) fn encode(
        &self,
        users: &[&UserFeatures],
    ) -> std::result::Result<Vec<UserState>, ModelError> {
        let states = self.users.encode(users)?.into_iter().map(|user| {
            let bytes = user.bytes();
            UserState::new(user, bytes)
        });
        Ok(states.collect())
    }

    pub(in crate::model::sesrec) fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>> {
        self.head.score(&self.users.embeddings, &self.users.items, requests)
    }

    pub(in crate::model::sesrec) fn explain(
        &self,
        state: &UserState,
        items: &[u32],
    ) -> Result<(HistoryWeights, Vec<ItemAttention>)> {
        let user = state.get::<HostUser>();
        let [rec, src] = self.users.items.keys(&self.users.embeddings, items)?;
        let sides = [(&user.rec, rec), (&user.src, src)];
        explain::attention(sides.map(|(side, keys): (&SideState<Matrix>, Tensor)| Ok((side.tensors()?, keys))))
    }
}
