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

    /// Candidates `[B, C, d]` → pooled interests `[B, C, 3d]`: over all real events, the positive and the negative set;
    /// over all events only, `[B, C, d]`, without multi-interest extraction. A side without events gives zeros.
    pub fn forward(&self, candidates: &Tensor, side: &EncodedSide) -> Result<Tensor> {
        Self::pool(&self.attention(&self.scores(candidates, side)?, side)?, side)
    }

    /// The attention of candidates to each set, `[B, C, L]` each, from their scores.
    pub(super) fn attention(&self, scores: &Tensor, side: &EncodedSide) -> Result<Vec<Tensor>> {
        self.sets(side).map(|set| masked_softmax(scores, set)).collect()
    }

    /// Pooled interests from the attention.
    pub(super) fn pool(attention: &[Tensor], side: &EncodedSide) -> Result<Tensor> {
        // All sets' rows in one product, a candidate's next to each other.
        let rows = Tensor::stack(attention, 2)?; // [B, C, 3, L]
        let (users, candidates, sets, length) = rows.dims4()?;
        let pooled = batch_matmul(&rows.reshape((users, candidates * sets, length))?, &side.events.encoded)?;
        pooled.reshape((users, candidates, ()))
    }

    /// The inner products of candidates `[B, C, d]` with their pooled interests, `[B, C, 3]` or `[B, C, 1]`: those with
    /// the events, weighted as the events are.
    pub(super) fn inner_products(attention: &[Tensor], candidates: &Tensor, side: &EncodedSide) -> Result<Tensor> {
        let with_events = batch_matmul_transposed(candidates, &side.events.encoded)?; // [B, C, L]
        let products = attention.iter().map(|attention| (attention * &with_events)?.sum_keepdim(2));
        Tensor::cat(&products.collect::<Result<Vec<_>>>()?, 2)
    }

    /// How well candidates match each set, from their scores: the logarithm of the mean of `e^score` over its events,
    /// `[B, C, 3]` or `[B, C, 1]`; 0 for a side without events.
    pub(super) fn matches(&self, scores: &Tensor, side: &EncodedSide) -> Result<Tensor> {
        let matches = self.sets(side).map(|set| masked_log_mean_exp(scores, set));
        Tensor::cat(&matches.collect::<Result<Vec<_>>>()?, 2)
    }

    /// By which candidates `[B, C, d]` attend to events: `[B, C, L]`.
    pub(super) fn scores(&self, candidates: &Tensor, side: &EncodedSide) -> Result<Tensor> {
        batch_matmul_transposed(&self.keys(candidates)?, &side.events.encoded)
    }

    /// All real events, the similar, the dissimilar ones; or all only.
    fn sets<'a>(&self, side: &'a EncodedSide) -> impl Iterator<Item = &'a Mask> {
        let sets = [&side.events.real, &side.interests.positive, &side.interests.negative];
        sets.into_iter().take(self.extraction.poolings())
    }
}
