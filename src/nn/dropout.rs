//! Dropout with masks from a seeded generator, so that a run repeats and resumes exactly.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::host;

/// Zeroes a share of the values and scales up the others, or does nothing when the model is evaluated.
#[derive(Debug, Clone)]
pub struct Dropout {
    rate: f32,
    rng: Option<ChaCha8Rng>,
}

impl Dropout {
    /// Leaves values alone.
    pub fn off() -> Self {
        Self { rate: 0.0, rng: None }
    }

    /// Zeroes each value with probability `rate`; equal seeds give equal masks. The trainer seeds it anew each step.
    pub fn seeded(rate: f32, seed: u64) -> Self {
        Self { rate, rng: Some(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// Whether this is a training step, whatever the rate: batch normalisation has to know.
    pub fn is_training(&self) -> bool {
        self.rng.is_some()
    }

    /// The same kind of step, in which nothing is dropped: for the parts of a model that have no dropout.
    #[must_use]
    pub fn without_rate(&self) -> Self {
        Self { rate: 0.0, rng: self.rng.clone() }
    }

    /// Inverted dropout: kept values are divided by `1 - rate`. Shape in, shape out.
    pub fn apply(&mut self, x: &Tensor) -> Result<Tensor> {
        let Some(mask) = self.mask(x.elem_count()) else { return Ok(x.clone()) };
        if x.device().is_cpu() {
            return x.contiguous()?.apply_op1(Masked { mask });
        }
        x * Tensor::from_vec(mask, x.shape(), x.device())?
    }

    /// What the next so many values are to be multiplied with; `None` leaves them alone.
    pub(super) fn mask(&mut self, count: usize) -> Option<Vec<f32>> {
        let rng = self.rng.as_mut().filter(|_| self.rate > 0.0)?;
        let scale = 1.0 / (1.0 - self.rate);
        let threshold = (f64::from(self.rate) * f64::from(u32::MAX)) as u32;
        Some((0..count).map(|_| if rng.random::<u32>() < threshold { 0.0 } else { scale }).collect())
    }
}

/// The product with a mask.
pub(super) fn masked(values: &[f32], mask: &[f32]) -> Vec<f32> {
    values.iter().zip(mask).map(|(x, mask)| x * mask).collect()
}

/// The product with a constant: candle's would make a gradient of the constant, too.
struct Masked {
    mask: Vec<f32>,
}

impl CustomOp1 for Masked {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(masked(host::floats(storage, layout)?, &self.mask)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let values = masked(&host::values(&gradient)?, &self.mask);
        Ok(Some(Tensor::from_vec(values, x.shape(), x.device())?))
    }
}
