//! Dice, DIN's activation: a gate between a value and its multiple, placed by where the values of the batch lie.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use candle_nn::ops::sigmoid;

use super::{
    BatchNorm, Dropout, host,
    vector::{self, vectorized},
};

/// `s ∘ x + (1 - s) ∘ α ∘ x` with `s = σ(BN(x))`, per column.
#[derive(Debug, Clone)]
pub struct Dice {
    /// BN.
    pub norm: BatchNorm,
    /// α `[c]`.
    pub alpha: Tensor,
}

impl Dice {
    /// `x [n, c]` → `[n, c]`, n > 0; no row is padding.
    pub fn forward(&self, x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return self.composed(x, dropout);
        }
        let norm = &self.norm;
        let x = x.contiguous()?;
        let (rows, c) = x.dims2()?;
        let (mean, variance) = if dropout.is_training() {
            let (mean, variance) = moments(&x)?;
            let row = |values: &[f32]| Tensor::new(values, x.device());
            norm.follow(&row(&mean)?, &row(&variance)?, rows)?;
            (mean, variance)
        } else {
            (norm.running_mean.to_vec1()?, norm.running_variance.to_vec1()?)
        };
        let scale: Vec<f32> =
            variance.iter().map(|&variance| (1.0 / (f64::from(variance) + norm.eps).sqrt()) as f32).collect();
        let parameters = Tensor::cat(&[&norm.weight, &norm.bias, &self.alpha], 0)?.reshape((3, c))?;
        let statistics = if dropout.is_training() { Statistics::OfTheBatch } else { Statistics::Constant };
        x.apply_op2(&parameters, FusedDice { mean: mean.into(), scale: scale.into(), statistics })
    }

    /// The same from candle's own operators, for devices without a fused kernel.
    fn composed(&self, x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
        let kept = (sigmoid(&self.norm.forward(x, dropout)?)? * x)?;
        &kept + (x - &kept)?.broadcast_mul(&self.alpha)?
    }
}

/// Mean and (biased) variance of the columns.
fn moments(x: &Tensor) -> Result<(Vec<f32>, Vec<f32>)> {
    let (rows, c) = x.dims2()?;
    let (storage, layout) = x.storage_and_layout();
    let values = host::stored(&storage, layout)?;
    let (mut mean, mut variance) = (vec![0.0_f64; c], vec![0.0_f64; c]);
    for row in values.chunks_exact(c) {
        mean.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    mean.iter_mut().for_each(|mean| *mean /= rows as f64);
    for row in values.chunks_exact(c) {
        variance.iter_mut().zip(&mean).zip(row).for_each(|((sum, mean), &x)| *sum += (f64::from(x) - mean).powi(2));
    }
    variance.iter_mut().for_each(|variance| *variance /= rows as f64);
    let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
    Ok((narrow(mean), narrow(variance)))
}

/// Whether mean and variance depend on x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statistics {
    OfTheBatch,
    Constant,
}

/// x and `[weight; bias; α]`.
struct FusedDice {
    mean: Arc<[f32]>,
    /// 1 / √(variance + ε).
    scale: Arc<[f32]>,
    statistics: Statistics,
}

/// The columns' constants, c of each.
#[derive(Clone, Copy)]
struct Columns<'a> {
    mean: &'a [f32],
    scale: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    alpha: &'a [f32],
}

impl<'a> Columns<'a> {
    /// Lets the compiler see that the lengths are one: then loops over columns need no checks.
    #[inline(always)]
    fn of(op: &'a FusedDice, parameters: &'a [f32]) -> Self {
        let c = op.mean.len();
        let [weight, bias, alpha] = [0, 1, 2].map(|n| &parameters[n * c..][..c]);
        Self { mean: &op.mean[..c], scale: &op.scale[..c], weight, bias, alpha }
    }

    /// The normalised value, and the gate.
    #[inline(always)]
    fn gate(self, k: usize, x: f32) -> (f32, f32) {
        let normal = (x - self.mean[k]) * self.scale[k];
        (normal, 1.0 / (1.0 + vector::exp(-normal.mul_add(self.weight[k], self.bias[k]))))
    }
}

impl CustomOp2 for FusedDice {
    fn name(&self) -> &'static str {
        "dice"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        p: &CpuStorage,
        p_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, c) = (host::floats(x, x_layout)?, self.mean.len());
        let parameters = host::floats(p, p_layout)?;
        let chunk = host::rows_per_chunk(x.len() / c, c) * c;
        let (out, _) = host::change_and(x, chunk, 16, |_, out| {
            vectorized(
                #[inline(always)]
                || {
                    let columns = Columns::of(self, parameters);
                    for row in out.chunks_exact_mut(c) {
                        for (k, x) in row.iter_mut().enumerate() {
                            let (_, gate) = columns.gate(k, *x);
                            *x *= columns.alpha[k] + (1.0 - columns.alpha[k]) * gate;
                        }
                    }
                },
            )
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, p: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gradient, p) = (gradient.contiguous()?, p.contiguous()?);
        let ((x_storage, lx), (p_storage, lp)) = (x.storage_and_layout(), p.storage_and_layout());
        let (g_storage, lg) = gradient.storage_and_layout();
        let (values, g) = (host::stored(&x_storage, lx)?, host::stored(&g_storage, lg)?);
        let (c, parameters) = (self.mean.len(), host::stored(&p_storage, lp)?);
        // Of weight, bias and α. With z = BN(x): dz = g x (1 - α) s (1 - s).
        let mut sums = vec![0.0_f32; 3 * c];
        let (weight_sums, rest) = sums.split_at_mut(c);
        let (bias_sums, alpha_sums) = rest.split_at_mut(c);
        vectorized(
            #[inline(always)]
            || {
                let columns = Columns::of(self, parameters);
                for (row, g) in values.chunks_exact(c).zip(g.chunks_exact(c)) {
                    for k in 0..c {
                        let (normal, gate) = columns.gate(k, row[k]);
                        let gx = g[k] * row[k];
                        let dz = gx * (1.0 - columns.alpha[k]) * gate * (1.0 - gate);
                        weight_sums[k] += dz * normal;
                        bias_sums[k] += dz;
                        alpha_sums[k] += gx * (1.0 - gate);
                    }
                }
            },
        );
        // Through the batch's mean and variance every row reaches every other.
        let share = match self.statistics {
            Statistics::OfTheBatch => 1.0 / (values.len() / c) as f32,
            Statistics::Constant => 0.0,
        };
        let chunk = host::rows_per_chunk(values.len() / c, c) * c;
        let (out, _) = host::change_and(values, chunk, 24, |number, out| {
            let g = &g[number * chunk..];
            vectorized(
                #[inline(always)]
                || {
                    let columns = Columns::of(self, parameters);
                    for (row, g) in out.chunks_exact_mut(c).zip(g.chunks_exact(c)) {
                        for k in 0..c {
                            let (x, g, alpha) = (row[k], g[k], columns.alpha[k]);
                            let (normal, gate) = columns.gate(k, x);
                            let dz = g * x * (1.0 - alpha) * gate * (1.0 - gate);
                            let common = (bias_sums[k] + normal * weight_sums[k]) * share;
                            row[k] = g * (alpha + (1.0 - alpha) * gate)
                                + columns.scale[k] * columns.weight[k] * (dz - common);
                        }
                    }
                },
            )
        });
        let out = Tensor::from_vec(out, x.shape(), x.device())?;
        Ok((Some(out), Some(Tensor::from_vec(sums, p.shape(), p.device())?)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::alike::far;

    #[test]
    fn fused_equals_composed_with_gradients_and_statistics() -> Result<()> {
        let device = Device::Cpu;
        let (rows, c) = (37, 11);
        let x = Var::randn(0.3_f32, 2.0, (rows, c), &device)?;
        let [weight, bias, alpha] = [(); 3].map(|()| Var::randn(0.5_f32, 0.5, c, &device));
        let (weight, bias, alpha) = (weight?, bias?, alpha?);
        let seed = Tensor::randn(0_f32, 1.0, (rows, c), &device)?;
        for dropout in [Dropout::off(), Dropout::seeded(0.0, 1)] {
            let mut results = vec![];
            for fused in [false, true] {
                let mean = Var::from_tensor(&Tensor::full(0.2_f32, c, &device)?)?;
                let variance = Var::from_tensor(&Tensor::full(1.7_f32, c, &device)?)?;
                let norm = BatchNorm {
                    weight: weight.as_tensor().clone(),
                    bias: bias.as_tensor().clone(),
                    running_mean: mean.as_tensor().clone(),
                    running_variance: variance.as_tensor().clone(),
                    eps: 1e-8,
                };
                let dice = Dice { norm, alpha: alpha.as_tensor().clone() };
                let y = if fused { dice.forward(&x, &dropout)? } else { dice.composed(&x, &dropout)? };
                let gradients = (&y * &seed)?.sum_all()?.backward()?;
                let mut values = vec![y, mean.as_detached_tensor(), variance.as_detached_tensor()];
                values.extend([&x, &weight, &bias, &alpha].map(|var| gradients.get(var).expect("a gradient").clone()));
                results.push(values);
            }
            for (n, (composed, fused)) in results[0].iter().zip(&results[1]).enumerate() {
                let far = far(composed, fused)?;
                assert!(far < 2e-5, "{n}: {far}, training {}", dropout.is_training());
            }
        }
        Ok(())
    }
}
