//! InfoNCE over tanh similarities with a learned temperature, one fused operator from anchors to losses: their
//! similarities to all negatives are the largest matrix of a training step.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};

use super::{
    affine::{Widths, product, product_and, sums_over_rows},
    host,
    product::Matrix,
    project,
    vector::{self, vectorized},
};

/// Per anchor: `-log(e^{t⁺} / (e^{t⁺} + Σ_m e^{t_m}))` with `t = tanh(anchor · other) / temperature` (SESRec eq. 3-4).
///
/// `anchors [P, d]`, `positives [P, d]`, `negatives [M, d]`, `temperature` is a scalar → `[P]`.
pub fn info_nce(anchors: &Tensor, positives: &Tensor, negatives: &Tensor, temperature: &Tensor) -> Result<Tensor> {
    let positives = (anchors * positives)?.sum(1)?; // [P]
    if !anchors.device().is_cpu() {
        return composed(anchors, &positives, negatives, temperature);
    }
    // An operator has three arguments.
    let positives = Tensor::cat(&[&positives, &temperature.reshape(1)?], 0)?;
    anchors.contiguous()?.apply_op3(&negatives.contiguous()?, &positives, InfoNce::default())
}

/// The same from candle's own operators, for devices without the fused one.
fn composed(anchors: &Tensor, positives: &Tensor, negatives: &Tensor, temperature: &Tensor) -> Result<Tensor> {
    let similarities = Tensor::cat(&[&positives.unsqueeze(1)?, &project(anchors, negatives)?], 1)?;
    let logits = similarities.tanh()?.broadcast_div(temperature)?; // [P, 1 + M]
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let sum = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    ((sum.log()? + max)? - logits.narrow(1, 0, 1)?)?.squeeze(1)
}

/// Of anchors `[P, d]`, negatives `[M, d]`, and the positives' similarities with the temperature behind them, `[P +
/// 1]`.
#[derive(Default)]
struct InfoNce {
    /// From the forward to the backward pass.
    kept: Mutex<Option<Rows>>,
}

/// What losses are made of, anchor by anchor.
struct Rows {
    /// tanh of anchors' similarities to negatives, `[P, M]`.
    tanh: Vec<f32>,
    rows: Vec<Row>,
}

/// What an anchor's loss is made of.
#[derive(Clone, Copy)]
struct Row {
    /// tanh of the positive similarity.
    positive: f32,
    /// The largest logit.
    max: f32,
    /// Σ e^(logit - max), the positive's included.
    sum: f32,
}

impl Row {
    /// Of the negatives' tanh and the positive's similarity.
    #[inline(always)]
    fn new(t: &[f32], positive: f32, scale: f32) -> Self {
        let positive = vector::tanh(positive);
        // A temperature that training made negative turns the order round.
        let extreme = if scale >= 0.0 { vector::max(t) } else { t.iter().copied().fold(f32::INFINITY, f32::min) };
        let max = (extreme * scale).max(positive * scale);
        let of_negatives = vector::sum_by(
            t,
            #[inline(always)]
            |t| vector::exp(t.mul_add(scale, -max)),
        );
        Self { positive, max, sum: of_negatives + vector::exp(positive * scale - max) }
    }
}

impl Rows {
    /// Of anchors `[P, d]`, their similarities to the positives `[P]`, and negatives `[M, d]`.
    fn new(anchors: &[f32], positives: &[f32], negatives: &[f32], (widths, scale): (Widths, f32)) -> Self {
        let Widths { inputs, outputs } = widths;
        let negatives = Matrix::transpose_of((outputs, inputs), negatives);
        let (tanh, rows) = product_and(anchors, &negatives, None, |first, tile| {
            let mut rows = Vec::with_capacity(tile.len() / outputs);
            for (t, &positive) in tile.chunks_exact_mut(outputs).zip(&positives[first..]) {
                rows.push(vectorized(
                    #[inline(always)]
                    || {
                        for t in t.iter_mut() {
                            *t = vector::tanh(*t);
                        }
                        Row::new(t, positive, scale)
                    },
                ));
            }
            rows
        });
        Self { tanh, rows: rows.concat() }
    }
}

impl CustomOp3 for InfoNce {
    fn name(&self) -> &'static str {
        "info-nce"
    }

    fn cpu_fwd(
        &self,
        anchors: &CpuStorage,
        anchors_layout: &Layout,
        negatives: &CpuStorage,
        negatives_layout: &Layout,
        positives: &CpuStorage,
        positives_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let widths = Widths::of(anchors_layout.dims(), negatives_layout.dims())?;
        let (anchors, negatives) = (host::floats(anchors, anchors_layout)?, host::floats(negatives, negatives_layout)?);
        let Some((temperature, positives)) = host::floats(positives, positives_layout)?.split_last() else {
            bail!("no temperature");
        };
        let scale = 1.0 / temperature;
        let rows = Rows::new(anchors, positives, negatives, (widths, scale));
        let losses: Vec<f32> = rows.rows.iter().map(|row| row.sum.ln() + row.max - row.positive * scale).collect();
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
        Ok((CpuStorage::F32(losses), positives.len().into()))
    }

    fn bwd(
        &self,
        anchors: &Tensor,
        negatives: &Tensor,
        positives: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let widths @ Widths { inputs, outputs: width } = Widths::of(anchors.dims(), negatives.dims())?;
        let gradient = gradient.contiguous()?;
        let (a, n) = (host::values(anchors)?, host::values(negatives)?);
        let (p, g) = (host::values(positives)?, host::values(&gradient)?);
        let (temperature, p) = p.split_last().expect("checked in the forward pass");
        let scale = 1.0 / temperature;
        // A second backward pass has to compute it again.
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Rows { tanh: mut dz, rows } = kept.unwrap_or_else(|| Rows::new(&a, p, &n, (widths, scale)));
        // Per row: the positive's gradient and Σ dlogit · tanh, of which the temperature's gradient is made.
        let gradients = host::map_chunks(&mut dz, width, 32, |row, dz| {
            // Copies: through references, each would have to be read again after every write.
            let (Row { positive, max, sum }, g) = (rows[row], g[row]);
            vectorized(
                #[inline(always)]
                || {
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
        });
        // logit = tanh · scale with scale = 1 / temperature
        let dtemperature = -scale * scale * gradients.iter().map(|row| row.1).sum::<f32>();
        let dp: Vec<f32> = gradients.into_iter().map(|row| row.0).chain([dtemperature]).collect();
        let da = product(&dz, &Matrix::of((width, inputs), &n));
        let dn = sums_over_rows(&dz, &a, widths);
        let device = anchors.device();
        Ok((
            Some(Tensor::from_vec(da, anchors.shape(), device)?),
            Some(Tensor::from_vec(dn, negatives.shape(), device)?),
            Some(Tensor::from_vec(dp, positives.shape(), device)?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::alike::assert_alike;

    /// Losses and gradients are those of candle's operators, for either sign of the temperature; a second backward pass
    /// gives the same again.
    #[test]
    fn equals_the_composition_with_gradients() -> Result<()> {
        let device = &Device::Cpu;
        for (temperature, negatives) in [(0.3_f32, 37), (-0.7, 16), (0.1, 1)] {
            let random = |rows: usize| Var::randn(0f32, 0.5, (rows, 12), device);
            let (anchors, positives, negatives) = (random(70)?, random(70)?, random(negatives)?);
            let temperature = Var::new(temperature, device)?;
            let variables = [&anchors, &positives, &negatives, &temperature];
            let similarities = (anchors.as_tensor() * positives.as_tensor())?.sum(1)?;
            let expected = composed(&anchors, &similarities, &negatives, &temperature)?;
            let found = info_nce(&anchors, &positives, &negatives, &temperature)?;
            for _ in 0..2 {
                assert_alike(&found, &expected, &variables)?;
            }
        }
        Ok(())
    }
}
