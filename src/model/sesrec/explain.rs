//! The attention that events receive for a candidate.

use candle_core::{Result, Tensor};

use super::{
    state::{Sets, SideState},
    tensors::softmax,
};
use crate::domain::{EventAttention, HistoryWeights, ItemAttention};

/// Of the recommendation and the search side, each with the candidates' keys `[C, d]`.
pub(super) fn attention(
    sides: [Result<(SideState<Tensor>, Tensor)>; 2],
) -> Result<(HistoryWeights, Vec<ItemAttention>)> {
    let [rec, src] = sides;
    let ((rec, rec_keys), (src, src_keys)) = (rec?, src?);
    let both = side_attention(&rec, &rec_keys)?.into_iter().zip(side_attention(&src, &src_keys)?);
    let attention = both.map(|(recommendations, searches)| ItemAttention { recommendations, searches }).collect();
    Ok((HistoryWeights { recommendations: rec.events, searches: src.events }, attention))
}

/// Without candidates: nothing is looked up for them, which devices refuse.
pub(super) fn without_items<T>(rec: &SideState<T>, src: &SideState<T>) -> (HistoryWeights, Vec<ItemAttention>) {
    (HistoryWeights { recommendations: rec.events.clone(), searches: src.events.clone() }, vec![])
}

/// Per candidate.
fn side_attention(side: &SideState<Tensor>, keys: &Tensor) -> Result<Vec<EventAttention>> {
    let Some(interests) = &side.interests else {
        return Ok(vec![EventAttention::default(); keys.dim(0)?]);
    };
    if keys.dim(0)? == 0 {
        return Ok(vec![]);
    }
    let scores = keys.matmul(&interests.encoded.t()?)?; // [C, n]
    let all = softmax(&scores)?.to_vec2::<f32>()?;
    match &interests.sets {
        Sets::Undivided => {
            let same = |all: Vec<f32>| EventAttention { similar: all.clone(), dissimilar: all.clone(), all };
            Ok(all.into_iter().map(same).collect())
        }
        Sets::Divided { similar, order } => {
            let events = order.len();
            let positive = softmax(&scores.narrow(1, 0, *similar)?)?.to_vec2::<f32>()?;
            let negative = softmax(&scores.narrow(1, *similar, events - similar)?)?.to_vec2::<f32>()?;
            // Back from set order to event order, zero outside a set.
            let scatter = |weights: &[f32], order: &[usize]| {
                let mut by_event = vec![0.0; events];
                weights.iter().zip(order).for_each(|(&weight, &event)| by_event[event] = weight);
                by_event
            };
            let candidates = all.iter().zip(positive.iter().zip(&negative));
            let explained = candidates.map(|(all, (positive, negative))| EventAttention {
                all: scatter(all, order),
                similar: scatter(positive, &order[..*similar]),
                dissimilar: scatter(negative, &order[*similar..]),
            });
            Ok(explained.collect())
        }
    }
}
