//! What DIN and DIEN share: every candidate is compared with every event of its user.

use candle_core::{Result, Tensor};

use crate::nn::{Linear, RowZero, add_row, gather_rows, project};

/// The real (candidate, event) pairs of B users with C candidates and up to L events each, one after the other and without
/// padding: a batch's mean and variance are theirs alone, and short histories cost little.
#[derive(Debug)]
pub(super) struct Pairs {
    /// Rows of `[B · L]` events, by pair.
    events: Vec<u32>,
    /// Rows of `[B · C]` candidates, by pair.
    candidates: Vec<u32>,
    /// Of every place of `[B, C, L]`: 1 + its pair, or 0 for padding.
    places: Vec<u32>,
    shape: (usize, usize, usize),
}

impl Pairs {
    pub fn new(lengths: &[usize], candidates: usize, length: usize) -> Self {
        let (mut pairs, users) = (Self::none((lengths.len(), candidates, length)), lengths.len());
        for (candidate, user) in (0..users * candidates).map(|candidate| (candidate, candidate / candidates)) {
            for position in 0..length {
                let real = position < lengths[user];
                if real {
                    pairs.events.push((user * length + position) as u32);
                    pairs.candidates.push(candidate as u32);
                }
                pairs.places.push(if real { pairs.events.len() as u32 } else { 0 });
            }
        }
        if pairs.events.is_empty() {
            // Tensors have rows: a pair that has no place, so that nothing comes of it.
            pairs.events.push(0);
            pairs.candidates.push(0);
        }
        pairs
    }

    fn none(shape: (usize, usize, usize)) -> Self {
        Self { events: vec![], candidates: vec![], places: vec![], shape }
    }

    /// A value per pair `[P, 1]` → `[B, C, L]`, zero at padding.
    pub fn place(&self, values: &Tensor) -> Result<Tensor> {
        let padding = Tensor::zeros((1, 1), values.dtype(), values.device())?;
        gather_rows(&Tensor::cat(&[&padding, values], 0)?, &self.places, RowZero::Learns)?.reshape(self.shape)
    }
}

/// The first layer over `[e; x; e - x; e ∘ x]` of pairs of a candidate e and an event x. It is linear, so that the event's
/// share is computed once per event, the candidate's once per candidate, and only the product's per pair.
#[derive(Debug, Clone)]
pub(super) struct PairLayer {
    linear: Linear,
}

impl PairLayer {
    /// 4d → h.
    pub fn new(linear: Linear) -> Self {
        Self { linear }
    }

    /// The columns that belong to the n-th of the four, `[h, d]`.
    fn columns(&self, n: usize) -> Result<Tensor> {
        let weight = self.linear.weight();
        let d = weight.dim(1)? / 4;
        weight.narrow(1, n * d, d)
    }

    /// The events' share, bias included: `[B, L, d]` → `[B, L, h]`.
    pub fn events(&self, events: &Tensor) -> Result<Tensor> {
        add_row(&project(events, &(self.columns(1)? - self.columns(2)?)?)?, self.linear.bias())
    }

    /// All of it: events `[B, L, d]` and their share, candidates `[B, C, d]` → `[P, h]`.
    pub fn pairs(&self, (events, shares): (&Tensor, &Tensor), candidates: &Tensor, pairs: &Pairs) -> Result<Tensor> {
        let of = |rows: &Tensor, indices: &[u32]| gather_rows(&rows.flatten_to(1)?, indices, RowZero::Learns);
        let candidate_shares = project(candidates, &(self.columns(0)? + self.columns(2)?)?)?; // [B, C, h]
        let products = (of(events, &pairs.events)? * of(candidates, &pairs.candidates)?)?; // [P, d]
        let shares = (of(shares, &pairs.events)? + of(&candidate_shares, &pairs.candidates)?)?;
        project(&products, &self.columns(3)?)? + shares
    }
}

/// A user's part of `[B, L, k]` without padding and the others' memory: `[1, n, k]`. Tensors have positions: n is at least 1.
pub(super) fn of_user(x: &Tensor, user: usize, length: usize) -> Result<Tensor> {
    x.narrow(0, user, 1)?.narrow(1, 0, length.max(1))?.force_contiguous()
}
