//! Any network that answers: items computed once per load, users encoded once, candidates scored against both.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Result, Tensor};

use super::{Baseline, Candidates, Network, Users, network::items_as_of};
use crate::{
    data::{Catalogue, HistoryLimits, UserFeatures},
    domain::{HistoryWeights, ItemAttention},
    model::{
        Embeddings, HistoryPadding, HistoryVectors, ItemRows, ModelError, RankingModel, ScoreRequest, UserState,
        Weights, weights,
    },
    nn::{Dropout, RowZero, gather_rows},
};

/// A network on a device.
#[derive(Debug)]
pub struct NetworkRanker<N> {
    network: N,
    embeddings: Embeddings,
    /// All items' vectors `[items, d]`.
    items: Tensor,
    limits: HistoryLimits,
    padding: HistoryPadding,
}

/// A user as the network encoded it, and the moment that is asked about.
struct Encoded<U> {
    user: U,
    as_of: Option<i64>,
}

impl<N: Network> NetworkRanker<N> {
    /// Computes the items' vectors, and what else depends on the weights alone.
    pub fn new<B: Baseline<Network = N>>(
        config: &B,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> std::result::Result<Self, ModelError> {
        let tensors = weights::on_device(tensors, device)?;
        let tensors = Weights::new(&tensors);
        let embeddings = Embeddings::new(config.inputs(), catalogue, &tensors)?;
        let network = config.network(&tensors)?;
        let items = embeddings.all_items(|rows| network.items(&embeddings, rows, &mut Dropout::off()))?;
        Ok(Self {
            network: network.loaded(&embeddings, &items)?,
            embeddings,
            items,
            limits: config.inputs().limits,
            padding: config.batch_plan().padding,
        })
    }

    /// Looked up where the items' current vectors are asked for.
    fn item_rows(&self, lists: &[&[u32]]) -> Result<ItemRows> {
        let current = self.embeddings.item_rows() as u32;
        if !N::ITEMS_CHANGE || lists.iter().copied().flatten().all(|&row| row < current) {
            return Ok(ItemRows::of_all(self.items.clone(), lists));
        }
        ItemRows::distinct(lists, |rows| self.network.items(&self.embeddings, rows, &mut Dropout::off()))
    }

    fn encode_batch(&self, users: &[&UserFeatures]) -> Result<Vec<UserState>> {
        let batch = self.padding.batch(users.iter().copied(), self.limits);
        let batch = &*batch.at_least_one_position();
        let items = items_as_of(&self.network, batch, &[], |lists| self.item_rows(lists))?;
        let history = HistoryVectors::new(batch, &self.embeddings, &items);
        let encoded = self.network.encode(&history, &mut Dropout::off())?;
        let states = batch.as_of.iter().enumerate().map(|(n, &as_of)| {
            let user = encoded.user(n)?;
            let bytes = user.bytes();
            Ok(UserState::new(Encoded { user, as_of }, bytes))
        });
        states.collect()
    }

    /// The vectors of all requests' candidates `[ΣC, d]`, one request after another; nothing if there are none.
    fn candidates(&self, requests: &[ScoreRequest<'_>]) -> Result<Option<Tensor>> {
        let of_request = |request: &ScoreRequest<'_>| {
            let as_of = request.state.get::<Encoded<N::Users>>().as_of;
            request.items.iter().map(|&item| self.network.item_as_of(item, as_of)).collect::<Result<Vec<_>>>()
        };
        let rows = if N::ITEMS_CHANGE {
            requests.iter().map(of_request).collect::<Result<Vec<_>>>()?.concat()
        } else {
            requests.iter().flat_map(|request| request.items).copied().collect()
        };
        if rows.is_empty() {
            Ok(None)
        } else if N::ITEMS_CHANGE {
            Ok(Some(self.item_rows(&[&rows])?.list(0)?))
        } else {
            Ok(Some(gather_rows(&self.items, &rows, RowZero::Learns)?))
        }
    }

    fn score_batch(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>> {
        let Some(vectors) = self.candidates(requests)? else { return Ok(vec![vec![]; requests.len()]) };
        let (mut logits, mut start) = (vec![], 0);
        for request in requests.iter().filter(|request| !request.items.is_empty()) {
            let count = request.items.len();
            let vectors = vectors.narrow(0, start, count)?.unsqueeze(0)?; // [1, C, d]
            let candidates = Candidates { rows: request.items, vectors, embeddings: &self.embeddings };
            let Encoded { user, .. } = request.state.get::<Encoded<N::Users>>();
            logits.push(self.network.logits(user, &candidates, &mut Dropout::off())?.flatten_all()?);
            start += count;
        }
        Ok(ScoreRequest::split(requests, &Tensor::cat(&logits, 0)?.to_vec1::<f32>()?))
    }
}

impl<N: Network> RankingModel for NetworkRanker<N> {
    fn limits(&self) -> HistoryLimits {
        self.limits
    }

    fn device(&self) -> &Device {
        self.items.device()
    }

    fn encode(&self, users: &[&UserFeatures]) -> std::result::Result<Vec<UserState>, ModelError> {
        if users.is_empty() {
            return Ok(vec![]);
        }
        Ok(self.encode_batch(users)?)
    }

    fn score(&self, requests: &[ScoreRequest<'_>]) -> std::result::Result<Vec<Vec<f32>>, ModelError> {
        Ok(self.score_batch(requests)?)
    }

    /// Empty: these models have no sets of similar and dissimilar interests to explain.
    fn explain(
        &self,
        _: &UserState,
        items: &[u32],
    ) -> std::result::Result<(HistoryWeights, Vec<ItemAttention>), ModelError> {
        Ok((HistoryWeights::default(), vec![ItemAttention::default(); items.len()]))
    }
}
