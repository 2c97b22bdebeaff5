//! Batch normalisation over the rows of a matrix.

use candle_core::{Result, Tensor, Var};

use super::Dropout;

/// How far one batch moves the running statistics, as in PyTorch.
const MOMENTUM: f64 = 0.1;

/// `(x - mean) / √(variance + ε) ∘ weight + bias` per column. Training takes mean and variance from the batch, and lets
/// the running statistics follow; whatever answers takes those. Callers leave padding out of the rows.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// `[c]`.
    pub weight: Tensor,
    /// `[c]`.
    pub bias: Tensor,
    /// `[c]`, a variable in training.
    pub running_mean: Tensor,
    /// `[c]`, likewise.
    pub running_variance: Tensor,
    /// ε.
    pub eps: f64,
}

impl BatchNorm {
    /// `x [n, c]` → `[n, c]`, n > 0.
    pub fn forward(&self, x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
        let (mean, variance) = if dropout.is_training() {
            let mean = x.mean(0)?;
            let variance = x.broadcast_sub(&mean)?.sqr()?.mean(0)?;
            self.follow(&mean.detach(), &variance.detach(), x.dim(0)?)?;
            (mean, variance)
        } else {
            (self.running_mean.detach(), self.running_variance.detach())
        };
        let normal = x.broadcast_sub(&mean)?.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        normal.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }

    /// Moves the running statistics towards those of a batch of n rows; its variance becomes the unbiased one.
    pub(super) fn follow(&self, mean: &Tensor, variance: &Tensor, n: usize) -> Result<()> {
        let unbiased = (variance * (n as f64 / n.saturating_sub(1).max(1) as f64))?;
        for (running, batch) in [(&self.running_mean, mean), (&self.running_variance, &unbiased)] {
            let moved = ((running.detach() * (1.0 - MOMENTUM))? + (batch * MOMENTUM)?)?;
            Var::from_tensor(running)?.set(&moved)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn training_normalises_and_the_statistics_follow() -> Result<()> {
        let constant = |value: f32| Tensor::full(value, 2, &Device::Cpu);
        let (mean, variance) = (Var::from_tensor(&constant(0.0)?)?, Var::from_tensor(&constant(1.0)?)?);
        let norm = BatchNorm {
            weight: constant(2.0)?,
            bias: constant(1.0)?,
            running_mean: mean.as_tensor().clone(),
            running_variance: variance.as_tensor().clone(),
            eps: 0.0,
        };
        let x = Tensor::new(&[[1.0_f32, 0.0], [3.0, 4.0]], &Device::Cpu)?;
        let close = |a: &Tensor, b: &[f32]| -> Result<bool> {
            Ok(a.flatten_all()?.to_vec1::<f32>()?.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6))
        };
        assert!(close(&norm.forward(&x, &Dropout::seeded(0.0, 1))?, &[-1.0, -1.0, 3.0, 3.0])?);
        // Batch means 2, 2; unbiased variances 2, 8.
        assert!(close(mean.as_tensor(), &[0.2, 0.2])?);
        assert!(close(variance.as_tensor(), &[0.9 + 0.2, 0.9 + 0.8])?);
        let before = mean.as_tensor().to_vec1::<f32>()?;
        let expected = |x: f32, variance: f32| (x - 0.2) / variance.sqrt() * 2.0 + 1.0;
        let expected = [expected(1.0, 1.1), expected(0.0, 1.7), expected(3.0, 1.1), expected(4.0, 1.7)];
        assert!(close(&norm.forward(&x, &Dropout::off())?, &expected)?);
        assert_eq!(mean.as_tensor().to_vec1::<f32>()?, before, "answering changes nothing");
        Ok(())
    }
}
