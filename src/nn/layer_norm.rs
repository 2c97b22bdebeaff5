//! Layer normalisation with a backward pass (candle-nn's fused one has none).

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor, bail};

use super::{
    Dropout,
    dropout::masked,
    host,
    vector::{self, vectorized},
};

/// `y = (x - mean) / sqrt(variance + eps) · weight + bias` over the last dimension; the variance is the biased one.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl LayerNorm {
    /// `weight` and `bias` are `[d]`.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// `[.., d]` → `[.., d]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() {
            let op = Normalize { eps: self.eps as f32, mask: None };
            return x.contiguous()?.apply_op2(&self.parameters()?, op);
        }
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normal = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        normal.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }

    /// Of x plus `added` after dropout, both `[.., d]`: as one operator on the CPU, since adding costs as much memory
    /// traffic as normalising.
    pub fn after_residual(&self, x: &Tensor, added: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        if x.device().is_cpu() {
            let op = Normalize { eps: self.eps as f32, mask: dropout.mask(added.elem_count()) };
            return x.contiguous()?.apply_op3(&added.contiguous()?, &self.parameters()?, op);
        }
        self.forward(&(x + dropout.apply(added)?)?)
    }

    /// `[2d]`: an operator has three arguments.
    fn parameters(&self) -> Result<Tensor> {
        Tensor::cat(&[&self.weight, &self.bias], 0)
    }
}

/// Mean and reciprocal deviation of a row.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = vector::sum_by(row, |x| x) / n;
    let variance = vector::sum_by(row, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// In place.
#[inline(always)]
pub(super) fn normalize_row(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let (mean, scale) = moments(row, eps);
    for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
        *x = ((*x - mean) * scale).mul_add(*w, *b);
    }
}

/// Of x, or of x and what is added to it, and the parameters.
struct Normalize {
    eps: f32,
    /// The dropout's factors of what is added.
    mask: Option<Vec<f32>>,
}

impl Normalize {
    /// Width of rows.
    fn width(shape: &[usize], parameters: &[f32]) -> Result<usize> {
        match shape.last() {
            Some(&d) if d > 0 && 2 * d == parameters.len() => Ok(d),
            _ => bail!("layer norm of {shape:?} with {} parameters", parameters.len()),
        }
    }

    /// Adds to the values from `start` on.
    #[inline(always)]
    fn add(&self, values: &mut [f32], start: usize, added: Option<&[f32]>) {
        let Some(added) = added else { return };
        let added = values.iter_mut().zip(&added[start..]);
        match &self.mask {
            None => added.for_each(|(x, y)| *x += y),
            Some(mask) => added.zip(&mask[start..]).for_each(|((x, y), mask)| *x += y * mask),
        }
    }

    fn forward(&self, shape: &Shape, x: &[f32], added: Option<&[f32]>, parameters: &[f32]) -> Result<CpuStorage> {
        let d = Self::width(shape.dims(), parameters)?;
        let (weight, bias) = parameters.split_at(d);
        let chunk = host::rows_per_chunk(x.len() / d, d) * d;
        let (out, _) = host::change_and(x, chunk, 4, |number, out| {
            vectorized(
                #[inline(always)]
                || {
                    self.add(out, number * chunk, added);
                    for row in out.chunks_exact_mut(d) {
                        normalize_row(row, weight, bias, self.eps);
                    }
                },
            )
        });
        Ok(CpuStorage::F32(out))
    }

    /// Gradients of the sum and of the parameters.
    fn backward(
        &self,
        x: &Tensor,
        added: Option<&[f32]>,
        parameters: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let gradient = gradient.contiguous()?;
        let (p, g) = (host::values(parameters)?, host::values(&gradient)?);
        let d = Self::width(x.dims(), &p)?;
        let weight = &p[..d];
        let x_values = host::values(x)?;
        let chunk = host::rows_per_chunk(x_values.len() / d, d) * d;
        // dx = scale · (gw − mean(gw) − x̂ · mean(gw ∘ x̂)) with gw = g ∘ w
        let (dx, sums) = host::change_and(&x_values, chunk, 8, |number, dx| {
            let start = number * chunk;
            let mut sums = vec![0.0; 2 * d];
            let (dw, db) = sums.split_at_mut(d);
            vectorized(
                #[inline(always)]
                || {
                    self.add(dx, start, added);
                    for (row, g) in dx.chunks_exact_mut(d).zip(g[start..].chunks_exact(d)) {
                        let (mean, scale) = moments(row, self.eps);
                        row.iter_mut().for_each(|x| *x = (*x - mean) * scale);
                        for (((x, g), dw), db) in row.iter().zip(g).zip(dw.iter_mut()).zip(db.iter_mut()) {
                            *dw = g.mul_add(*x, *dw);
                            *db += g;
                        }
                        let sum = vector::dot(g, weight) / d as f32;
                        let product = vector::dot3(g, weight, row) / d as f32;
                        for ((x, g), w) in row.iter_mut().zip(g).zip(weight) {
                            *x = scale * (g * w - sum - *x * product);
                        }
                    }
                },
            );
            sums
        });
        let mut total = vec![0.0; 2 * d];
        for sums in sums {
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
        let device = x.device();
        Ok((Tensor::from_vec(dx, x.shape(), device)?, Tensor::from_vec(total, 2 * d, device)?))
    }
}

impl CustomOp2 for Normalize {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        parameters: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, parameters) = (host::floats(x, x_layout)?, host::floats(parameters, layout)?);
        Ok((self.forward(x_layout.shape(), x, None, parameters)?, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        parameters: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dp) = self.backward(x, None, parameters, gradient)?;
        Ok((Some(dx), Some(dp)))
    }
}

impl CustomOp3 for Normalize {
    fn name(&self) -> &'static str {
        "residual-layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        added: &CpuStorage,
        added_layout: &Layout,
        parameters: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if x_layout.shape() != added_layout.shape() {
            bail!("{:?} added to {:?}", added_layout.shape(), x_layout.shape());
        }
        let (x, added) = (host::floats(x, x_layout)?, host::floats(added, added_layout)?);
        let out = self.forward(x_layout.shape(), x, Some(added), host::floats(parameters, layout)?)?;
        Ok((out, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        added: &Tensor,
        parameters: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dp) = self.backward(x, Some(&host::values(added)?), parameters, gradient)?;
        let dadded = match &self.mask {
            None => dx.clone(),
            Some(mask) => Tensor::from_vec(masked(&host::values(&dx)?, mask), x.shape(), x.device())?,
        };
        Ok((Some(dx), Some(dadded), Some(dp)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::alike::assert_alike;

    /// Outputs and gradients are those of candle's operators, with and without dropout.
    #[test]
    fn equals_the_composition_with_gradients() -> Result<()> {
        let device = &Device::Cpu;
        let (x, added) = (Var::randn(0f32, 1f32, (3, 50, 20), device)?, Var::randn(0f32, 1f32, (3, 50, 20), device)?);
        let (weight, bias) = (Var::randn(1f32, 0.3, 20, device)?, Var::randn(0f32, 1f32, 20, device)?);
        let norm = LayerNorm::new(weight.as_tensor().clone(), bias.as_tensor().clone(), 1e-5);
        let composed = |sum: Tensor| -> Result<Tensor> {
            let centred = sum.broadcast_sub(&sum.mean_keepdim(2)?)?;
            let deviation = (centred.sqr()?.mean_keepdim(2)? + norm.eps)?.sqrt()?;
            centred.broadcast_div(&deviation)?.broadcast_mul(&weight)?.broadcast_add(&bias)
        };
        let dropped = Dropout::seeded(0.4, 7).apply(&added)?;
        let pairs = [
            (norm.forward(&x)?, composed(x.as_tensor().clone())?),
            (norm.after_residual(&x, &added, &mut Dropout::off())?, composed((x.as_tensor() + added.as_tensor())?)?),
            (norm.after_residual(&x, &added, &mut Dropout::seeded(0.4, 7))?, composed((x.as_tensor() + dropped)?)?),
        ];
        for (own, composed) in pairs {
            assert_alike(&own, &composed, &[&x, &added, &weight, &bias])?;
        }
        Ok(())
    }
}
