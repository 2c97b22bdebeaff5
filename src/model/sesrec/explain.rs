//! The attention that events receive for a candidate.

use candle_core::{Result, Tensor};

use super::{
    ranker::softmax,
    state::{Interests, SideState},
};
use crate::domain::EventAttention;

/// Per candidate, from its keys `[C, d]`.
pub(super) fn attention(side: &SideState, keys: &Tensor) -> Result<Vec<EventAttention>> {
    let Some(interests) = &side.interests else {
        return Ok(vec![EventAttention::default(); keys.dim(0)?]);
    };
    if keys.dim(0)? == 0 {
        return Ok(vec![]);
    }
    let scores = keys.matmul(&interests.encoded().t()?)?; // [C, n]
    let all = softmax(&scores)?.to_vec2::<f32>()?;
    match interests {
        Interests::Undivided { .. } => {
            let same = |all: Vec<f32>| EventAttention { similar: all.clone(), dissimilar: all.clone(), all };
            Ok(all.into_iter().map(same).collect())
        }
        Interests::Divided { similar, order, .. } => {
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
