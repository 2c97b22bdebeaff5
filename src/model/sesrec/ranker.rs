//! SESRec that answers: item tables computed once, users encoded once, candidates scored in ragged batches.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Result, Tensor};

use super::{
    CoattentionPadding, EncodedSide, InterestExtraction, Network, SesRecConfig, check, explain,
    state::{EncodedUser, Interests, SideState},
};
use crate::{
    data::{Catalogue, HistoryBatch, HistoryLimits, UserFeatures},
    domain::{EventWeight, HistoryWeights, ItemAttention},
    model::{ModelError, RankingModel, ScoreRequest, UserState, Weights, weights},
    nn::{Dropout, Mask, RowZero, add_row, gather_rows, masked_softmax, project, sigmoid},
};

/// A trained SESRec on a device.
///
/// The first prediction layer is linear in its blocks `[R interests; S interests; user; candidate]`, so the candidates'
/// share is a table by item and the user's share is part of the user's state.
pub struct SesRecRanker {
    network: Network,
    /// `W_r E(i)` and `W_s E(i)` by item row `[items, d]`.
    rec_keys: Tensor,
    src_keys: Tensor,
    /// The items' share of the first prediction layer `[items, h]`.
    item_blocks: Tensor,
    /// The interests' share of its weights `[h, 2·3d]`, the user's `[h, u]`.
    interest_weights: Tensor,
    user_weights: Tensor,
}

impl SesRecRanker {
    /// Checks the weights against the configuration and precomputes the item tables.
    pub fn new(
        config: SesRecConfig,
        catalogue: Arc<Catalogue>,
        weights: &HashMap<String, Tensor>,
        device: &Device,
    ) -> std::result::Result<Self, ModelError> {
        config.validate()?;
        check(&config, weights)?;
        let weights = weights::on_device(weights, device)?;
        let mut network = Network::new(config, catalogue, &Weights::new(&weights))?;
        let items = network.embeddings.precompute_items()?;
        let first = network.head.layers[0].weight(); // [h, 2·3d | u | d]
        let (d, u) = (network.config.hidden_dim, network.config.inputs.user_dim());
        let interests = network.config.interests_dim();
        Ok(Self {
            rec_keys: network.rec.pooling.keys(&items)?,
            src_keys: network.src.pooling.keys(&items)?,
            item_blocks: project(&items, &first.narrow(1, interests + u, d)?)?,
            interest_weights: first.narrow(1, 0, interests)?.contiguous()?,
            user_weights: first.narrow(1, interests, u)?.contiguous()?,
            network,
        })
    }

    /// Every intermediate of a batch of histories, for analysis and tests.
    pub fn network(&self) -> &Network {
        &self.network
    }

    fn encode_batch(&self, users: &[&UserFeatures]) -> Result<Vec<UserState>> {
        let limits = self.limits();
        let batch = match self.network.config.coattention_padding {
            CoattentionPadding::Include => HistoryBatch::padded_to_limits(users.iter().copied(), limits),
            CoattentionPadding::Exclude => HistoryBatch::padded_to_longest(users.iter().copied(), limits),
        };
        let encoded = self.network.encode(&batch, &[], &mut Dropout::off())?;
        let bias = self.network.head.layers[0].bias();
        let user_blocks = add_row(&project(&encoded.inputs.users, &self.user_weights)?, bias)?; // [B, h]
        let (rec_weights, src_weights) = (host_weights(&encoded.rec)?, host_weights(&encoded.src)?);
        let states = (0..users.len()).map(|user| {
            let state = EncodedUser {
                rec: self.side_state(&encoded.rec, user, &rec_weights[user])?,
                src: self.side_state(&encoded.src, user, &src_weights[user])?,
                user_block: user_blocks.narrow(0, user, 1)?.force_contiguous()?,
            };
            let bytes = state.bytes();
            Ok(UserState::new(state, bytes))
        });
        states.collect()
    }

    /// Pooled interests of one side `[C, 3d]` for candidates' keys `[C, d]`; zeros without events. `[C, d]` without
    /// multi-interest extraction.
    fn pool(&self, side: &SideState, keys: &Tensor) -> Result<Tensor> {
        let (count, d) = keys.dims2()?;
        let poolings = self.network.config.interest_extraction.poolings();
        match &side.interests {
            None => Tensor::zeros((count, poolings * d), keys.dtype(), keys.device()),
            Some(Interests::Undivided { encoded }) => {
                let pooled = softmax(&keys.matmul(&encoded.t()?)?)?.matmul(encoded)?; // [C, d]
                Tensor::cat(&vec![&pooled; poolings], 1)
            }
            Some(Interests::Divided { encoded, similar, .. }) => {
                let events = encoded.dim(0)?;
                let scores = keys.matmul(&encoded.t()?)?; // [C, n]
                let part = |start: usize, len: usize| {
                    softmax(&scores.narrow(1, start, len)?)?.matmul(&encoded.narrow(0, start, len)?)
                };
                let (positive, negative) = (part(0, *similar)?, part(*similar, events - similar)?);
                // The sets partition the events, so "all" is their sum weighted by the mass of each set.
                let share = softmax(&scores)?.narrow(1, 0, *similar)?.sum_keepdim(1)?; // [C, 1]
                let all = (&negative + (&positive - &negative)?.broadcast_mul(&share)?)?;
                Tensor::cat(&[&all, &positive, &negative], 1)
            }
        }
    }

    fn side_state(&self, side: &EncodedSide, user: usize, events: &[EventWeight]) -> Result<SideState> {
        let interests = if events.is_empty() {
            None
        } else {
            let encoded = side.events.encoded.narrow(0, user, 1)?.squeeze(0)?.narrow(0, 0, events.len())?; // [n, d]
            let apart = self.network.config.interest_extraction == InterestExtraction::Multiple;
            let divided = apart && events.iter().all(|event| event.similar != event.dissimilar);
            Some(if divided {
                let (mut order, dissimilar): (Vec<usize>, Vec<usize>) =
                    (0..events.len()).partition(|&event| events[event].similar);
                let similar = order.len();
                order.extend(dissimilar);
                let rows: Vec<u32> = order.iter().map(|&event| event as u32).collect();
                Interests::Divided { encoded: gather_rows(&encoded, &rows, RowZero::Learns)?, similar, order }
            } else {
                Interests::Undivided { encoded: encoded.force_contiguous()? }
            })
        };
        Ok(SideState { events: events.to_vec(), interests })
    }

    fn score_batch(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>> {
        let items: Vec<u32> = requests.iter().flat_map(|request| request.items).copied().collect();
        if items.is_empty() {
            return Ok(vec![vec![]; requests.len()]);
        }
        let rec_keys = gather_rows(&self.rec_keys, &items, RowZero::Learns)?; // [ΣC, d]
        let src_keys = gather_rows(&self.src_keys, &items, RowZero::Learns)?;
        let (mut interests, mut user_blocks, mut owners, mut start) = (vec![], vec![], vec![], 0);
        for (n, request) in requests.iter().enumerate() {
            let (user, count) = (request.state.get::<EncodedUser>(), request.items.len());
            user_blocks.push(user.user_block.clone());
            owners.extend(std::iter::repeat_n(n as u32, count));
            if count > 0 {
                let rec = self.pool(&user.rec, &rec_keys.narrow(0, start, count)?)?;
                let src = self.pool(&user.src, &src_keys.narrow(0, start, count)?)?;
                interests.push(Tensor::cat(&[rec, src], 1)?);
            }
            start += count;
        }
        let interests = project(&Tensor::cat(&interests, 0)?, &self.interest_weights)?; // [ΣC, h]
        let users = gather_rows(&Tensor::cat(&user_blocks, 0)?, &owners, RowZero::Learns)?;
        let candidates = gather_rows(&self.item_blocks, &items, RowZero::Learns)?;
        let first = ((interests + users)? + candidates)?;
        let logits = self.network.head.after_first(&first, &mut Dropout::off())?; // [ΣC, 1]
        let mut scores = logits.flatten_all()?.to_vec1::<f32>()?;
        sigmoid(&mut scores);
        let mut rest = scores.as_slice();
        let split = requests.iter().map(|request| {
            let (scores, others) = rest.split_at(request.items.len());
            rest = others;
            scores.to_vec()
        });
        Ok(split.collect())
    }
}

impl RankingModel for SesRecRanker {
    fn limits(&self) -> HistoryLimits {
        self.network.config.inputs.limits
    }

    fn device(&self) -> &Device {
        self.network.device()
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

    fn explain(
        &self,
        state: &UserState,
        items: &[u32],
    ) -> std::result::Result<(HistoryWeights, Vec<ItemAttention>), ModelError> {
        let user = state.get::<EncodedUser>();
        let weights = HistoryWeights { recommendations: user.rec.events.clone(), searches: user.src.events.clone() };
        let rec = explain::attention(&user.rec, &gather_rows(&self.rec_keys, items, RowZero::Learns)?)?;
        let src = explain::attention(&user.src, &gather_rows(&self.src_keys, items, RowZero::Learns)?)?;
        let both = rec.into_iter().zip(src);
        let attention = both.map(|(recommendations, searches)| ItemAttention { recommendations, searches }).collect();
        Ok((weights, attention))
    }
}

/// Over the last dimension of `[C, n]`, every position taking part.
pub(super) fn softmax(scores: &Tensor) -> Result<Tensor> {
    let (_, length) = scores.dims2()?;
    masked_softmax(&scores.unsqueeze(0)?, &Mask::prefixes(&[length], length))?.squeeze(0)
}

/// Every user's event weights, read from the device once.
fn host_weights(side: &EncodedSide) -> Result<Vec<Vec<EventWeight>>> {
    let interests = &side.interests;
    let rows = interests.weights.to_vec2::<f32>()?.into_iter().enumerate();
    let weights = rows.map(|(user, row)| {
        let sets = interests.positive.row(user).iter().zip(interests.negative.row(user));
        let events = row.into_iter().zip(sets).take(side.events.lengths[user]);
        events.map(|(coattention, (&similar, &dissimilar))| EventWeight { coattention, similar, dissimilar }).collect()
    });
    Ok(weights.collect())
}
