//! Dropout with masks from a seeded generator, so that a run repeats and resumes exactly.

use candle_core::{Result, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
        let Some(rng) = self.rng.as_mut().filter(|_| self.rate > 0.0) else { return Ok(x.clone()) };
        let scale = 1.0 / (1.0 - self.rate);
        let threshold = (f64::from(self.rate) * f64::from(u32::MAX)) as u32;
        let mask: Vec<f32> =
            (0..x.elem_count()).map(|_| if rng.random::<u32>() < threshold { 0.0 } else { scale }).collect();
        x * Tensor::from_vec(mask, x.shape(), x.device())?
    }
}
