//! The three losses: prediction, query-item alignment (eq. 3-5), contrast of interests (eq. 12).

use candle_core::{Result, Tensor};

use super::{EncodedHistory, EncodedSide};
use crate::{
    data::HistoryBatch,
    nn::{RowZero, batch_matmul, gather_rows, info_nce, project, zero_loss},
};

/// PyTorch's `pairwise_distance` adds it to the difference.
const DISTANCE_EPS: f64 = 1e-6;

/// Query-item alignment: `W [d, d]` for both directions and a temperature.
#[derive(Debug, Clone)]
pub struct Alignment {
    pub(super) w: Tensor,
    pub(super) temperature: Tensor,
}

impl Alignment {
    /// `½ (query→item + item→query)`, each a mean over the batch's (query, clicked item) pairs; 0 without any pair.
    ///
    /// `negative_items [M, d]` and `negative_queries [M, d]` are E and Q of the sampled ones.
    pub fn loss(
        &self,
        batch: &HistoryBatch,
        encoded: &EncodedHistory,
        negative_items: &Tensor,
        negative_queries: &Tensor,
    ) -> Result<Tensor> {
        let (events, items) = pairs(batch, &encoded.items.rows[1]);
        if events.is_empty() {
            return self.zero_loss();
        }
        let queries = gather_rows(&encoded.inputs.queries, &events, RowZero::Learns)?; // [P, d]
        let items = gather_rows(&encoded.items.table, &items, RowZero::Learns)?; // [P, d]
        let from_queries = self.direction(&queries, &items, negative_items)?;
        let from_items = self.direction(&items, &queries, negative_queries)?;
        (from_queries + from_items)? * 0.5
    }

    /// The loss where there is nothing to align.
    pub(super) fn zero_loss(&self) -> Result<Tensor> {
        zero_loss(&(self.w.sum_all()? + &self.temperature)?)
    }

    /// `anchorᵀ W` of `[n, d]`: what is held against the other side.
    pub fn project(&self, anchors: &Tensor) -> Result<Tensor> {
        project(anchors, &self.w.t()?)
    }

    /// InfoNCE of anchors `[P, d]` against their positives `[P, d]` and the batch's negatives `[M, d]`.
    fn direction(&self, anchors: &Tensor, positives: &Tensor, negatives: &Tensor) -> Result<Tensor> {
        let anchors = self.project(anchors)?;
        info_nce(&anchors, positives, negatives, &self.temperature)?.mean_all()
    }
}

/// Every (search event, clicked item) of the batch: event numbers in `[B · Ls]`, rows of the batch's item table.
fn pairs(batch: &HistoryBatch, click_rows: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let per_user = batch.src_len * batch.click_len;
    let mut pairs = (vec![], vec![]);
    for (user, &searches) in batch.src_lengths.iter().enumerate() {
        let slots = user * per_user..user * per_user + searches * batch.click_len;
        let clicks = batch.src_clicks[slots.clone()].iter().zip(&click_rows[slots.clone()]);
        for (slot, (_, &row)) in slots.zip(clicks).filter(|(_, (click, _))| **click != 0) {
            pairs.0.push((slot / batch.click_len) as u32);
            pairs.1.push(row);
        }
    }
    pairs
}

/// Per user: `max(0, |anchor - positive| - |anchor - negative| + margin)` with anchor = a · F and the sets' means
/// → `[B]`; 0 where the side has no events.
pub fn triplet_hinge(side: &EncodedSide, margin: f64) -> Result<Tensor> {
    let interests = &side.interests;
    let (device, length) = (side.events.encoded.device(), interests.positive.length());
    let means: Vec<f32> = (0..interests.positive.groups())
        .flat_map(|user| [interests.positive.row(user), interests.negative.row(user)])
        .flat_map(|set| {
            let count = set.iter().filter(|&&kept| kept).count().max(1) as f32;
            set.iter().map(move |&kept| if kept { 1.0 / count } else { 0.0 })
        })
        .collect();
    let means = Tensor::from_vec(means, (side.events.lengths.len(), 2, length), device)?;
    let weights = Tensor::cat(&[&interests.weights.unsqueeze(1)?, &means], 1)?; // [B, 3, L]
    let points = batch_matmul(&weights, &side.events.encoded)?; // [B, 3, d]
    let point = |n: usize| points.narrow(1, n, 1)?.squeeze(1);
    let distance = |other: &Tensor| ((point(0)? - other)? + DISTANCE_EPS)?.sqr()?.sum(1)?.sqrt();
    let hinge = ((distance(&point(1)?)? - distance(&point(2)?)?)? + margin)?.relu()?;
    let present: Vec<f32> = side.events.lengths.iter().map(|&n| f32::from(u8::from(n > 0))).collect();
    hinge * Tensor::from_vec(present, side.events.lengths.len(), device)?
}
