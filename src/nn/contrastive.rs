//! InfoNCE over tanh similarities with a learned temperature, one fused operator from logits to losses.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    host,
    vector::{self, vectorized},
};

/// Per row p: `-log(e^{t⁺} / (e^{t⁺} + Σ_m e^{t_m}))` with `t = tanh(z) / temperature` (SESRec eq. 3-4).
///
/// `negatives [P, M]` and `positives [P]` are similarities before the tanh, `temperature` is a scalar → `[P]`.
pub fn info_nce(negatives: &Tensor, positives: &Tensor, temperature: &Tensor) -> Result<Tensor> {
    if negatives.device().is_cpu() {
        return negatives.contiguous()?.apply_op3(&positives.contiguous()?, temperature, InfoNce);
    }
    let positives = positives.unsqueeze(1)?;
    let logits = Tensor::cat(&[&positives, negatives], 1)?.tanh()?.broadcast_div(temperature)?; // [P, 1 + M]
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let sum = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    ((sum.log()? + max)? - logits.narrow(1, 0, 1)?)?.squeeze(1)
}

struct InfoNce;

/// What a row's loss is made of.
struct Row {
    /// tanh of the positive similarity.
    positive: f32,
    /// The largest logit.
    max: f32,
    /// Σ e^(logit - max), the positive's included.
    sum: f32,
}

/// Leaves tanh(z) in `t`.
#[inline(always)]
fn row(t: &mut [f32], positive: f32, scale: f32) -> Row {
    for t in t.iter_mut() {
        *t = vector::tanh(*t);
    }
    let positive = vector::tanh(positive);
    // A temperature that training made negative turns the order round.
    let extreme = if scale >= 0.0 { vector::max(t) } else { t.iter().copied().fold(f32::INFINITY, f32::min) };
    let max = (extreme * scale).max(positive * scale);
    let of_negatives = vector::sum_by(
        t,
        #[inline(always)]
        |t| vector::exp(t.mul_add(scale, -max)),
    );
    let sum = of_negatives + vector::exp(positive * scale - max);
    Row { positive, max, sum }
}

impl CustomOp3 for InfoNce {
    fn name(&self) -> &'static str {
        "info-nce"
    }

    fn cpu_fwd(
        &self,
        negatives: &CpuStorage,
        negatives_layout: &Layout,
        positives: &CpuStorage,
        positives_layout: &Layout,
        temperature: &CpuStorage,
        temperature_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (z, positives) = (host::floats(negatives, negatives_layout)?, host::floats(positives, positives_layout)?);
        let scale = 1.0 / host::floats(temperature, temperature_layout)?[0];
        let width = negatives_layout.dims()[1];
        let mut out = vec![0.0; positives.len()];
        host::for_chunks(&mut out, 8, 32 * width, |chunk, out| {
            let mut t = vec![0.0; width];
            vectorized(
                #[inline(always)]
                || {
                    for (n, out) in out.iter_mut().enumerate() {
                        let p = chunk * 8 + n;
                        t.copy_from_slice(&z[p * width..(p + 1) * width]);
                        let row = row(&mut t, positives[p], scale);
                        *out = row.sum.ln() + row.max - row.positive * scale;
                    }
                },
            )
        });
        Ok((CpuStorage::F32(out), positives.len().into()))
    }

    fn bwd(
        &self,
        negatives: &Tensor,
        positives: &Tensor,
        temperature: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let ((z, lz), (p, lp)) = (negatives.storage_and_layout(), positives.storage_and_layout());
        let ((t, lt), (g, lg)) = (temperature.storage_and_layout(), gradient.storage_and_layout());
        let (z, p, g) = (host::stored(&z, lz)?, host::stored(&p, lp)?, host::stored(&g, lg)?);
        let (scale, width) = (1.0 / host::stored(&t, lt)?[0], negatives.dim(1)?);
        let mut dz = z.to_vec();
        // Per row: the positive's gradient and Σ dlogit · tanh, of which the temperature's gradient is made.
        let rows: Vec<(f32, f32)> = dz
            .par_chunks_mut(width.max(1))
            .zip(p.par_iter().zip(g))
            .with_min_len(4)
            .map(|(dz, (&p, &g))| {
                vectorized(
                    #[inline(always)]
                    || {
                        let Row { positive, max, sum } = row(dz, p, scale);
                        let factor = g / sum;
                        let mut products = [0.0_f32; 16];
                        let (blocks, rest) = dz.as_chunks_mut::<16>();
                        for block in blocks {
                            for (t, product) in block.iter_mut().zip(&mut products) {
                                let dlogit = factor * vector::exp(t.mul_add(scale, -max));
                                *product += dlogit * *t;
                                *t = dlogit * scale * (1.0 - *t * *t);
                            }
                        }
                        for t in rest {
                            let dlogit = factor * vector::exp(t.mul_add(scale, -max));
                            products[0] += dlogit * *t;
                            *t = dlogit * scale * (1.0 - *t * *t);
                        }
                        let dlogit = factor * vector::exp(positive * scale - max) - g;
                        let product = products.iter().sum::<f32>() + dlogit * positive;
                        (dlogit * scale * (1.0 - positive * positive), product)
                    },
                )
            })
            .collect();
        // logit = tanh · scale with scale = 1 / temperature
        let dtemperature = -scale * scale * rows.iter().map(|row| row.1).sum::<f32>();
        let dp: Vec<f32> = rows.into_iter().map(|row| row.0).collect();
        let device = negatives.device();
        Ok((
            Some(Tensor::from_vec(dz, negatives.shape(), device)?),
            Some(Tensor::from_vec(dp, positives.shape(), device)?),
            Some(Tensor::from_vec(vec![dtemperature], temperature.shape(), device)?),
        ))
    }
}
