//! Multi-interest extraction (eq. 14-16): a candidate attends to each side's events three times, or once without it.

use candle_core::{Result, Tensor};

use super::{EncodedSide, InterestExtraction};
use crate::nn::{Mask, batch_matmul, batch_matmul_transposed, masked_log_mean_exp, masked_softmax, project};

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
        let scores = self.scores(candidates, side)?;
        let pooled = self.sets(side).map(|set| batch_matmul(&masked_softmax(&scores, set)?, &side.events.encoded));
        Tensor::cat(&pooled.collect::<Result<Vec<_>>>()?, 2)
    }

    /// How well candidates `[B, C, d]` match each set: the logarithm of the mean of `e^score` over its events,
    /// `[B, C, 3]` or `[B, C, 1]`; 0 for a side without events.
    pub fn matches(&self, candidates: &Tensor, side: &EncodedSide) -> Result<Tensor> {
        let scores = self.scores(candidates, side)?;
        let matches = self.sets(side).map(|set| masked_log_mean_exp(&scores, set));
        Tensor::cat(&matches.collect::<Result<Vec<_>>>()?, 2)
    }

    /// `[B, C, L]`.
    fn scores(&self, candidates: &Tensor, side: &EncodedSide) -> Result<Tensor> {
        batch_matmul_transposed(&self.keys(candidates)?, &side.events.encoded)
    }

    /// All real events, the similar, the dissimilar ones; or all only.
    fn sets<'a>(&self, side: &'a EncodedSide) -> impl Iterator<Item = &'a Mask> {
        let sets = [&side.events.real, &side.interests.positive, &side.interests.negative];
        sets.into_iter().take(self.extraction.poolings())
    }
}
