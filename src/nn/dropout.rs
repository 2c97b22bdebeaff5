//! Dropout with masks from a seeded generator, so that a run repeats and resumes exactly.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::host;

/// Values that are handled together: 16 kB, which stay in a core's first-level cache.
const CHUNK: usize = 4096;

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
        // Sixteen bits decide, since drawing them costs more than what is done with them.
        let threshold = (self.rate * 65_536.0) as u32;
        let mut mask = Vec::with_capacity(count);
        let mut bits = [0; 2 * CHUNK];
        while mask.len() < count {
            let bits = &mut bits[..2 * CHUNK.min(count - mask.len())];
            rng.fill_bytes(bits);
            let bits = bits.as_chunks().0.iter().map(|&pair| u32::from(u16::from_le_bytes(pair)));
            mask.extend(bits.map(|bits| if bits < threshold { 0.0 } else { scale }));
        }
        Some(mask)
    }
}

/// The product with a mask.
pub(super) fn masked(values: &[f32], mask: &[f32]) -> Vec<f32> {
    host::make(values.len(), CHUNK, 1, |chunk, out| {
        let (values, mask) = (&values[chunk * CHUNK..], &mask[chunk * CHUNK..]);
        out.iter_mut().zip(values).zip(mask).for_each(|((out, x), mask)| *out = x * mask);
    })
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
