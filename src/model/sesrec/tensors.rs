//! SESRec's answers on any device, in tensors: users encoded together, candidates scored in ragged batches.

use candle_core::{Result, Tensor};

use super::{
    EncodedSide, InterestExtraction, Network,
    counts::Counts,
    explain,
    first_layer::FirstLayer,
    state::{EncodedUser, Interests, Sets, SideState},
};
use crate::{
    data::UserFeatures,
    domain::{EventWeight, HistoryWeights, ItemAttention},
    model::{ScoreRequest, UserState},
    nn::{Dropout, Mask, RowZero, add_row, gather_rows, masked_log_mean_exp, masked_softmax, project},
};

type DeviceUser = EncodedUser<Tensor>;

/// Tables of what depends on the item alone, and the first layer's weights by block.
pub(super) struct TensorRanker {
    /// `W_r E(i)` and `W_s E(i)` by item row `[items, d]`.
    rec_keys: Tensor,
    src_keys: Tensor,
    /// The items' share of the first prediction layer `[items, h]`.
    item_blocks: Tensor,
    /// The interests' share of its weights `[h, 2·3d]`, the user's `[h, u]`.
    interest_weights: Tensor,
    user_weights: Tensor,
    counts: Counts,
}

impl TensorRanker {
    /// Precomputes the item tables; the network finds embedded items there from now on.
    pub(super) fn new(network: &mut Network) -> Result<Self> {
        let items = network.embeddings.precompute_items()?;
        let first = network.head.layers[0].weight(); // [h, 2·3d | u | d]
        let columns = FirstLayer::new(&network.config);
        Ok(Self {
            rec_keys: network.rec.pooling.keys(&items)?,
            src_keys: network.src.pooling.keys(&items)?,
            item_blocks: project(&items, &columns.candidate().of(first)?)?,
            interest_weights: columns.interests().of(first)?.contiguous()?,
            user_weights: columns.user().of(first)?.contiguous()?,
            counts: network.counts.clone(),
        })
    }

    pub(super) fn encode(&self, network: &Network, users: &[&UserFeatures]) -> Result<Vec<UserState>> {
        let limits = network.config.inputs.limits;
        let batch = network.config.history_padding().batch(users.iter().copied(), limits);
        let encoded = network.encode(&batch, &[], &mut Dropout::off())?;
        let bias = network.head.layers[0].bias();
        let user_blocks = if network.config.inputs.user_dim() == 0 {
            bias.unsqueeze(0)?.repeat((users.len(), 1))?
        } else {
            add_row(&project(&encoded.inputs.users, &self.user_weights)?, bias)? // [B, h]
        };
        let (rec_weights, src_weights) = (host_weights(&encoded.rec)?, host_weights(&encoded.src)?);
        let extraction = network.config.interest_extraction;
        let states = (0..users.len()).map(|user| {
            let state = EncodedUser {
                rec: side_state(&encoded.rec, user, &rec_weights[user], extraction)?,
                src: side_state(&encoded.src, user, &src_weights[user], extraction)?,
                user_block: user_blocks.narrow(0, user, 1)?.force_contiguous()?,
                counts: self.counts.of_user(users[user]),
            };
            let bytes = state.bytes();
            Ok(UserState::new(state, bytes))
        });
        states.collect()
    }

    /// Pooled interests of one side `[C, 3d]` for candidates' keys `[C, d]`; zeros without events. `[C, d]` without
    /// multi-interest extraction. Beside them how well the candidates match each set: `[C, 3]` or `[C, 1]`.
    fn pool(&self, side: &SideState<Tensor>, poolings: usize, keys: &Tensor) -> Result<(Tensor, Tensor)> {
        let (count, d) = keys.dims2()?;
        let Some(Interests { encoded, sets }) = &side.interests else {
            let zeros = |columns: usize| Tensor::zeros((count, columns), keys.dtype(), keys.device());
            return Ok((zeros(poolings * d)?, zeros(poolings)?));
        };
        let scores = keys.matmul(&encoded.t()?)?; // [C, n]
        match sets {
            Sets::Undivided => {
                let pooled = softmax(&scores)?.matmul(encoded)?; // [C, d]
                let matches = log_mean_exp(&scores)?;
                Ok((Tensor::cat(&vec![&pooled; poolings], 1)?, Tensor::cat(&vec![&matches; poolings], 1)?))
            }
            Sets::Divided { similar, .. } => {
                let events = encoded.dim(0)?;
                let part = |start: usize, len: usize| {
                    softmax(&scores.narrow(1, start, len)?)?.matmul(&encoded.narrow(0, start, len)?)
                };
                let (positive, negative) = (part(0, *similar)?, part(*similar, events - similar)?);
                // The sets partition the events, so "all" is their sum weighted by the mass of each set.
                let share = softmax(&scores)?.narrow(1, 0, *similar)?.sum_keepdim(1)?; // [C, 1]
                let all = (&negative + (&positive - &negative)?.broadcast_mul(&share)?)?;
                let matches = |start: usize, len: usize| log_mean_exp(&scores.narrow(1, start, len)?);
                let matches = [matches(0, events)?, matches(0, *similar)?, matches(*similar, events - similar)?];
                Ok((Tensor::cat(&[&all, &positive, &negative], 1)?, Tensor::cat(&matches, 1)?))
            }
        }
    }

    pub(super) fn score(&self, network: &Network, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>> {
        let items: Vec<u32> = requests.iter().flat_map(|request| request.items).copied().collect();
        if items.is_empty() {
            return Ok(vec![vec![]; requests.len()]);
        }
        let rec_keys = gather_rows(&self.rec_keys, &items, RowZero::Learns)?; // [ΣC, d]
        let src_keys = gather_rows(&self.src_keys, &items, RowZero::Learns)?;
        let poolings = network.config.interest_extraction.poolings();
        let embedded = match &network.inner_products {
            Some(_) => Some(network.embeddings.items(&[&items])?.list(0)?), // [ΣC, d]
            None => None,
        };
        let (mut interests, mut matches, mut products) = (vec![], vec![], vec![]);
        let (mut user_blocks, mut owners, mut start) = (vec![], vec![], 0);
        for (n, request) in requests.iter().enumerate() {
            let (user, count) = (request.state.get::<DeviceUser>(), request.items.len());
            user_blocks.push(user.user_block.clone());
            owners.extend(std::iter::repeat_n(n as u32, count));
            if count > 0 {
                let (rec, rec_matches) = self.pool(&user.rec, poolings, &rec_keys.narrow(0, start, count)?)?;
                let (src, src_matches) = self.pool(&user.src, poolings, &src_keys.narrow(0, start, count)?)?;
                let interest = Tensor::cat(&[rec, src], 1)?; // [C, 2·3d], as the first layer's columns
                if let Some(embedded) = &embedded {
                    let sets = interest.reshape((count, 2 * poolings, ()))?;
                    let candidates = embedded.narrow(0, start, count)?.unsqueeze(1)?;
                    products.push(sets.broadcast_mul(&candidates)?.sum(2)?); // [C, 2·3]
                }
                interests.push(interest);
                matches.push(Tensor::cat(&[rec_matches, src_matches], 1)?);
            }
            start += count;
        }
        let interests = project(&Tensor::cat(&interests, 0)?, &self.interest_weights)?; // [ΣC, h]
        let users = gather_rows(&Tensor::cat(&user_blocks, 0)?, &owners, RowZero::Learns)?;
        let candidates = gather_rows(&self.item_blocks, &items, RowZero::Learns)?;
        let first = ((interests + users)? + candidates)?;
        let mut logits = network.head.after_first(&first, &mut Dropout::off())?; // [ΣC, 1]
        if let Some(weights) = &network.matching {
            logits = (logits + project(&Tensor::cat(&matches, 0)?, &weights.unsqueeze(0)?)?)?;
        }
        if let Some(weights) = &network.inner_products {
            logits = (logits + project(&Tensor::cat(&products, 0)?, &weights.unsqueeze(0)?)?)?;
        }
        if let Some(bias) = &network.item_bias {
            logits = (logits + gather_rows(bias, &items, RowZero::Learns)?)?;
        }
        let mut scores = ScoreRequest::split(requests, &logits.flatten_all()?.to_vec1::<f32>()?);
        for (request, scores) in requests.iter().zip(&mut scores) {
            self.counts.add(&request.state.get::<DeviceUser>().counts, request.items, scores);
        }
        Ok(scores)
    }

    pub(super) fn explain(&self, state: &UserState, items: &[u32]) -> Result<(HistoryWeights, Vec<ItemAttention>)> {
        let user = state.get::<DeviceUser>();
        if items.is_empty() {
            return Ok(explain::without_items(&user.rec, &user.src));
        }
        let sides = [(&user.rec, &self.rec_keys), (&user.src, &self.src_keys)];
        explain::attention(sides.map(|(side, keys)| Ok((side.clone(), gather_rows(keys, items, RowZero::Learns)?))))
    }
}

/// The logarithm of the mean of `e^score` over the last dimension: `[C, n]` → `[C, 1]`.
fn log_mean_exp(scores: &Tensor) -> Result<Tensor> {
    let (_, length) = scores.dims2()?;
    masked_log_mean_exp(&scores.unsqueeze(0)?, &Mask::prefixes(&[length], length))?.squeeze(0)
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

fn side_state(
    side: &EncodedSide,
    user: usize,
    events: &[EventWeight],
    extraction: InterestExtraction,
) -> Result<SideState<Tensor>> {
    let interests = if events.is_empty() {
        None
    } else {
        let encoded = side.events.encoded.narrow(0, user, 1)?.squeeze(0)?.narrow(0, 0, events.len())?; // [n, d]
        let sets = Sets::of(events, extraction);
        let encoded = match &sets {
            Sets::Undivided => encoded.force_contiguous()?,
            Sets::Divided { order, .. } => {
                let rows: Vec<u32> = order.iter().map(|&event| event as u32).collect();
                gather_rows(&encoded, &rows, RowZero::Learns)?
            }
        };
        Some(Interests { encoded, sets })
    };
    Ok(SideState { events: events.to_vec(), interests })
}
