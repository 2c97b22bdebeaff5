//! Layer normalisation with a backward pass (candle-nn's fused one has none).

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};

use super::{
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
            let op = Normalize { eps: self.eps as f32 };
            return x.contiguous()?.apply_op3(&self.weight.contiguous()?, &self.bias.contiguous()?, op);
        }
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normal = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        normal.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

struct Normalize {
    eps: f32,
}

impl Normalize {
    #[inline(always)]
    fn moments(&self, row: &[f32]) -> (f32, f32) {
        moments(row, self.eps)
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

impl CustomOp3 for Normalize {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut out = host::floats(x, x_layout)?.to_vec();
        let (weight, bias) = (host::floats(weight, weight_layout)?, host::floats(bias, bias_layout)?);
        let d = weight.len();
        let rows = host::rows_per_chunk(out.len() / d.max(1), d);
        host::for_chunks(&mut out, rows * d, 4, |_, rows| {
            vectorized(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact_mut(d) {
                        normalize_row(row, weight, bias, self.eps);
                    }
                },
            )
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let ((xs, x_layout), (gs, g_layout)) = (x.storage_and_layout(), gradient.storage_and_layout());
        let (ws, w_layout) = weight.storage_and_layout();
        let (xs, gs, ws) = (host::stored(&xs, x_layout)?, host::stored(&gs, g_layout)?, host::stored(&ws, w_layout)?);
        let d = ws.len();
        let mut dx = xs.to_vec();
        let rows = host::rows_per_chunk(dx.len() / d.max(1), d);
        // dx = scale · (gw − mean(gw) − x̂ · mean(gw ∘ x̂)) with gw = g ∘ w
        host::for_chunks(&mut dx, rows * d, 8, |chunk, dx| {
            vectorized(
                #[inline(always)]
                || {
                    let gs = &gs[chunk * rows * d..];
                    for (row, g) in dx.chunks_exact_mut(d).zip(gs.chunks_exact(d)) {
                        let (mean, scale) = self.moments(row);
                        let (mut sum, mut product) = (0.0, 0.0);
                        for ((x, g), w) in row.iter_mut().zip(g).zip(ws) {
                            *x = (*x - mean) * scale;
                            sum += g * w;
                            product += g * w * *x;
                        }
                        let (sum, product) = (sum / d as f32, product / d as f32);
                        for ((x, g), w) in row.iter_mut().zip(g).zip(ws) {
                            *x = scale * (g * w - sum - *x * product);
                        }
                    }
                },
            )
        });
        let (mut dw, mut db) = (vec![0.0; d], vec![0.0; d]);
        vectorized(
            #[inline(always)]
            || {
                for (row, g) in xs.chunks_exact(d).zip(gs.chunks_exact(d)) {
                    let (mean, scale) = self.moments(row);
                    for (((x, g), dw), db) in row.iter().zip(g).zip(dw.iter_mut()).zip(db.iter_mut()) {
                        *dw += g * (x - mean) * scale;
                        *db += g;
                    }
                }
            },
        );
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), device)?),
            Some(Tensor::from_vec(dw, d, device)?),
            Some(Tensor::from_vec(db, d, device)?),
        ))
    }
}
