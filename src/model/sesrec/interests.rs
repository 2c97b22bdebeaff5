//! Multi-interest extraction (eq. 14-16): a candidate attends to each side's events three times, or once without it.

use candle_core::{Result, Tensor};

use super::{EncodedSide, InterestExtraction};
use crate::nn::{batch_matmul, batch_matmul_transposed, masked_softmax, project};

/// `W_side [d, d]`, and what it is used for.
#[derive(Debug, Clone)]
pub struct InterestPooling {
    pub(super) w: Tensor,
    extraction: InterestExtraction,
}

impl InterestPooling {
    /// From the release's `[1, d, d]`.
    pub(super) fn new(w: &Tensor, extraction: InterestExtraction) -> Result<Self> {
        Ok(Self { w: w.squeeze(0)?, extraction })
    }

    /// `W E(c)`: `[.., d]` → `[.., d]`; an event's score is its product with that.
    pub fn keys(&self, candidates: &Tensor) -> Result<Tensor> {
        project(candidates, &self.w)
    }

    /// Candidates `[B, C, d]` → pooled interests `[B, C, 3d]`: over all real events, the positive and the negative set; over
    /// all events only, `[B, C, d]`, without multi-interest extraction. A side without events gives zeros.
    pub fn forward(&self, candidates: &Tensor, side: &EncodedSide) -> Result<Tensor> {
        let scores = batch_matmul_transposed(&self.keys(candidates)?, &side.events.encoded)?; // [B, C, L]
        let sets = [&side.events.real, &side.interests.positive, &side.interests.negative];
        let sets = &sets[..self.extraction.poolings()];
        let pooled = sets.iter().map(|set| batch_matmul(&masked_softmax(&scores, set)?, &side.events.encoded));
        Tensor::cat(&pooled.collect::<Result<Vec<_>>>()?, 2)
    }
}
