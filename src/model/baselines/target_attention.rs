//! What DIN and DIEN share: every candidate is compared with every event of its user.

use candle_core::{Result, Tensor};

use crate::nn::{Linear, RowZero, add_row, gather_rows, project};

/// The real (candidate, event) pairs of B users with C candidates and up to L events each, one after the other and
/// without padding: a batch's mean and variance are theirs alone, and short histories cost little.
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

/// The first layer over `[e; x; e - x; e ∘ x]` of pairs of a candidate e and an event x. It is linear, so that the
/// event's share is computed once per event, the candidate's once per candidate, and only the product's per pair.
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
        let of = |rows: &Tensor, indices: &[u32]| gather_rows(rows, indices, RowZero::Learns);
        let candidate_shares = project(candidates, &(self.columns(0)? + self.columns(2)?)?)?; // [B, C, h]
        let products = (of(events, &pairs.events)? * of(candidates, &pairs.candidates)?)?; // [P, d]
        let shares = (of(shares, &pairs.events)? + of(&candidate_shares, &pairs.candidates)?)?;
        project(&products, &self.columns(3)?)? + shares
    }
}

/// Pairs that one user's candidates are scored for at a time: 8 MB per tensor of 64 numbers a pair.
const PAIRS_AT_ONCE: usize = 1 << 15;

/// Scores one user's candidates `[1, C, d]`, each compared with `events`, in slices: thousands of candidates with long
/// histories would take gigabytes at once. Batches of users, which training has, stay whole: their statistics are one.
pub(super) fn in_slices(
    candidates: &Tensor,
    events: usize,
    score: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    slices(candidates, (PAIRS_AT_ONCE / events.max(1)).max(1), score)
}

fn slices(candidates: &Tensor, most: usize, mut score: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (users, count, _) = candidates.dims3()?;
    if users > 1 || count <= most {
        return score(candidates);
    }
    let starts = (0..count).step_by(most);
    let logits = starts.map(|start| score(&candidates.narrow(1, start, most.min(count - start))?));
    Tensor::cat(&logits.collect::<Result<Vec<_>>>()?, 1)
}

/// A user's part of `[B, L, k]` without padding and the others' memory: `[1, n, k]`. Tensors have positions: n is at
/// least 1.
pub(super) fn of_user(x: &Tensor, user: usize, length: usize) -> Result<Tensor> {
    x.narrow(0, user, 1)?.narrow(1, 0, length.max(1))?.force_contiguous()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn slices_are_put_together_in_order() -> Result<()> {
        let candidates = Tensor::arange(0_f32, 14.0, &Device::Cpu)?.reshape((1, 7, 2))?;
        for most in [1, 3, 7, 9] {
            let mut calls = 0;
            let sums = slices(&candidates, most, |slice| {
                calls += 1;
                assert!(slice.dim(1)? <= most);
                slice.sum(2)
            })?;
            assert_eq!(sums.to_vec2::<f32>()?, [[1.0, 5.0, 9.0, 13.0, 17.0, 21.0, 25.0]]);
            assert_eq!(calls, 7_usize.div_ceil(most));
        }
        Ok(())
    }

    #[test]
    fn pairs_leave_padding_out_and_find_their_places() -> Result<()> {
        let pairs = Pairs::new(&[2, 0, 1], 2, 2);
        assert_eq!((&pairs.events[..], &pairs.candidates[..]), (&[0, 1, 0, 1, 4, 4][..], &[0, 0, 1, 1, 4, 5][..]));
        let values = Tensor::arange(1_f32, 7.0, &Device::Cpu)?.reshape((6, 1))?;
        let placed = pairs.place(&values)?.to_vec3::<f32>()?;
        assert_eq!(placed, [[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[5.0, 0.0], [6.0, 0.0]]]);
        // Without any real pair there is one that has no place.
        let nothing = Pairs::new(&[0], 1, 1);
        assert_eq!(
            nothing.place(&Tensor::ones((1, 1), candle_core::DType::F32, &Device::Cpu)?)?.to_vec3::<f32>()?,
            [[[0.0]]]
        );
        Ok(())
    }
}
