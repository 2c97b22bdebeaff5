//! Interest disentanglement (eq. 8-12): which events of one history the other history explains.

use candle_core::{Result, Tensor};

use super::{CoattentionPadding, EncodedEvents, HistoryInputs, Threshold};
use crate::nn::{Mask, batch_matmul, batch_matmul_transposed, masked_softmax, project, tanh, zero_loss};

/// How events of one history are held against the other's, and where the weights are divided.
#[derive(Debug, Clone)]
pub struct CoAttention {
    pub(super) affinity: Affinity,
    pub(super) padding: CoattentionPadding,
    pub(super) threshold: Threshold,
}

/// By what two events are alike.
#[derive(Debug, Clone)]
pub(super) enum Affinity {
    /// Of encoded events: `W1 [d, d]`, `Wq [1, d]`, `Wd [1, d]`.
    Encoded { w1: Tensor, wq: Tensor, wd: Tensor },
    /// Of embedded items and queries: the alignment's `W [d, d]`.
    Aligned { w: Tensor },
}

/// A side's events weighed and divided.
#[derive(Debug, Clone)]
pub struct Disentangled {
    /// `[B, L]`: a side's weights add up to 1 over its real events.
    pub weights: Tensor,
    /// The similar interests: weight ≥ γ; all real events where there would be none.
    pub positive: Mask,
    /// The dissimilar ones; likewise.
    pub negative: Mask,
}

impl CoAttention {
    /// Both sides' weights and sets, from their encodings or from what was embedded.
    pub(super) fn forward(
        &self,
        inputs: &HistoryInputs,
        rec: &EncodedEvents,
        src: &EncodedEvents,
    ) -> Result<(Disentangled, Disentangled)> {
        let affinity = |left: &Tensor, w: &Tensor, right: &Tensor| {
            tanh(&batch_matmul_transposed(&project(left, &w.t()?)?, right)?) // [B, Lr, Ls]
        };
        let (affinity, from_src, from_rec) = match &self.affinity {
            // M = tanh(F_r W1 F_sᵀ) (eq. 8)
            Affinity::Encoded { w1, wq, wd } => (
                affinity(&rec.encoded, w1, &src.encoded)?,
                self.summands(src, wd)?, // [B, 1, Ls]
                self.summands(rec, wq)?, // [B, 1, Lr]
            ),
            // M = tanh(E_r W Qᵀ), and every real event of the other history counts once.
            Affinity::Aligned { w } => {
                let real = |side: &EncodedEvents| side.real.tensor(w.device())?.unsqueeze(1);
                (affinity(&inputs.rec_items, w, &inputs.queries)?, real(src)?, real(rec)?)
            }
        };
        // a_r = softmax_i(Σ_j M_ij (Wd · F_s,j)), a_s = softmax_j(Σ_i M_ij (Wq · F_r,i)) (eq. 9)
        let rec_logits = batch_matmul_transposed(&from_src, &affinity)?.squeeze(1)?; // [B, Lr]
        let src_logits = batch_matmul(&from_rec, &affinity)?.squeeze(1)?; // [B, Ls]
        Ok((self.disentangle(&rec_logits, rec)?, self.disentangle(&src_logits, src)?))
    }

    /// The contrast where it weighs nothing. No other loss reaches these weights, since the sets are constants to the
    /// gradient.
    pub(super) fn zero_loss(&self) -> Result<Tensor> {
        match &self.affinity {
            Affinity::Encoded { w1, wq, wd } => zero_loss(&((w1.sum_all()? + wq.sum_all()?)? + wd.sum_all()?)?),
            Affinity::Aligned { w } => zero_loss(&w.sum_all()?),
        }
    }

    /// `w · F` per event, zero where the other side's sums don't reach: `[B, 1, L]`.
    fn summands(&self, side: &EncodedEvents, w: &Tensor) -> Result<Tensor> {
        let values = project(&side.encoded, w)?.squeeze(2)?; // [B, L]
        let length = values.dim(1)?;
        let reached = match self.padding {
            CoattentionPadding::Exclude => side.real.clone(),
            // The release's sums run over padding too. A side without any event has no encodings to sum, though.
            CoattentionPadding::Include => {
                let lengths: Vec<usize> = side.lengths.iter().map(|&n| if n == 0 { 0 } else { length }).collect();
                Mask::prefixes(&lengths, length)
            }
        };
        (values * reached.tensor(side.encoded.device())?)?.unsqueeze(1)
    }

    fn disentangle(&self, logits: &Tensor, side: &EncodedEvents) -> Result<Disentangled> {
        let weights = masked_softmax(logits, &side.real)?;
        let length = weights.dim(1)?;
        // The sets are constants to the gradient. A few numbers per user, so the host decides.
        let (mut positive, mut negative) = (vec![], vec![]);
        for (row, &events) in weights.to_vec2::<f32>()?.iter().zip(&side.lengths) {
            let (similar, dissimilar) = self.threshold.divide(&row[..events]);
            positive.extend(similar);
            negative.extend(dissimilar);
            positive.resize(positive.len() + length - events, false);
            negative.resize(positive.len(), false);
        }
        Ok(Disentangled { weights, positive: Mask::new(positive, length), negative: Mask::new(negative, length) })
    }
}

impl Threshold {
    /// Which of the events are similar and which are dissimilar interests, by their weights.
    pub(super) fn divide(self, weights: &[f32]) -> (Vec<bool>, Vec<bool>) {
        let gamma = match self {
            Self::Mean => 1.0 / weights.len().max(1) as f32,
            Self::Constant(value) => value as f32,
            Self::Median => {
                let mut sorted = weights.to_vec();
                sorted.sort_by(f32::total_cmp);
                let middle = sorted.len() / 2;
                match sorted.len() {
                    0 => 0.0,
                    n if n.is_multiple_of(2) => f32::midpoint(sorted[middle - 1], sorted[middle]),
                    _ => sorted[middle],
                }
            }
        };
        let mut similar: Vec<bool> = weights.iter().map(|&weight| weight >= gamma).collect();
        let mut dissimilar: Vec<bool> = similar.iter().map(|similar| !similar).collect();
        for set in [&mut similar, &mut dissimilar] {
            if !set.contains(&true) {
                set.fill(true);
            }
        }
        (similar, dissimilar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_partition_or_fall_back_to_all() {
        let weights = [0.5, 0.3, 0.1, 0.1];
        assert_eq!(Threshold::Mean.divide(&weights).0, [true, true, false, false]);
        assert_eq!(Threshold::Median.divide(&weights).0, [true, true, false, false]);
        assert_eq!(Threshold::Constant(0.4).divide(&weights).1, [false, true, true, true]);
        assert_eq!(Threshold::Constant(0.9).divide(&weights), (vec![true; 4], vec![true; 4]));
        // Uniform weights equal the mean exactly: all are similar, and the fallback makes all dissimilar too.
        for n in 1..200 {
            let uniform = vec![1.0 / n as f32; n];
            assert_eq!(Threshold::Mean.divide(&uniform), (vec![true; n], vec![true; n]));
        }
        assert_eq!(Threshold::Median.divide(&[]), (vec![], vec![]));
    }
}
