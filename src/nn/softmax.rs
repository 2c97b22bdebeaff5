//! Softmax over the last dimension with masked positions, differentiable.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{
    host,
    vector::{self, vectorized},
};

/// Which positions of each group of rows take part in a softmax: `[groups, length]`, in host memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    length: usize,
    kept: Arc<[bool]>,
}

impl Mask {
    /// From `[groups, length]` flags.
    ///
    /// # Panics
    /// If `kept` is no multiple of `length`.
    pub fn new(kept: Vec<bool>, length: usize) -> Self {
        assert!(length > 0 && kept.len().is_multiple_of(length), "a mask has whole rows");
        Self { length, kept: kept.into() }
    }

    /// Keeps the first `lengths[g]` of `length` positions in group g.
    pub fn prefixes(lengths: &[usize], length: usize) -> Self {
        let kept = lengths.iter().flat_map(|&kept| (0..length).map(move |position| position < kept)).collect();
        Self::new(kept, length)
    }

    /// Positions per group.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.kept.len() / self.length
    }

    /// A group's flags.
    pub fn row(&self, group: usize) -> &[bool] {
        &self.kept[group * self.length..(group + 1) * self.length]
    }

    /// How many positions of a group are kept.
    pub fn count(&self, group: usize) -> usize {
        self.row(group).iter().filter(|&&kept| kept).count()
    }

    /// `[groups, length]`: 1 where kept, else 0.
    pub fn tensor(&self, device: &candle_core::Device) -> Result<Tensor> {
        let values: Vec<f32> = self.kept.iter().map(|&kept| f32::from(u8::from(kept))).collect();
        Tensor::from_vec(values, (self.groups(), self.length), device)
    }
}

/// Softmax of `x [groups, .., length]` over its last dimension, among the positions that `mask [groups, length]` keeps.
/// Other positions get 0; a row without any kept position is all 0.
pub fn masked_softmax(x: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (groups, length) = (x.dim(0)?, x.dim(candle_core::D::Minus1)?);
    if (groups, length) != (mask.groups(), mask.length) {
        bail!("softmax of {:?} with a mask of {} x {}", x.shape(), mask.groups(), mask.length)
    }
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1(MaskedSoftmax { mask: mask.clone() });
    }
    composed_softmax(x, mask)
}

/// The same by tensor operations, for devices without a fused kernel.
fn composed_softmax(x: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (_, exp) = masked_exponentials(x, mask)?;
    // An empty row's sum is 0. A tiny divisor would keep the row 0, too, but not its gradient, which divides by the
    // square.
    let empty = (0..mask.groups()).map(|group| if mask.count(group) == 0 { 1.0_f32 } else { 0.0 }).collect::<Vec<_>>();
    let mut shape = vec![1; x.rank()];
    shape[0] = mask.groups();
    let empty = Tensor::from_vec(empty, shape, x.device())?;
    exp.broadcast_div(&exp.sum_keepdim(candle_core::D::Minus1)?.broadcast_add(&empty)?)
}

/// Of the kept positions, by tensor operations: the maximum of each row, a constant to the gradient, and `e^(x -
/// maximum)`, 0 elsewhere.
fn masked_exponentials(x: &Tensor, mask: &Mask) -> Result<(Tensor, Tensor)> {
    let mut shape = vec![1; x.rank()];
    (shape[0], shape[x.rank() - 1]) = (mask.groups(), mask.length);
    let kept = mask.tensor(x.device())?.reshape(shape)?;
    let x = x.broadcast_mul(&kept)?.broadcast_add(&((&kept - 1.0)? * 1e12)?)?;
    let max = x.max_keepdim(candle_core::D::Minus1)?.detach();
    let exp = x.broadcast_sub(&max)?.exp()?.broadcast_mul(&kept)?;
    Ok((max, exp))
}

/// The logarithm of the mean of `e^x` over the kept positions of each row: `x [groups, rows, length]` →
/// `[groups, rows, 1]`. A row without any kept position gets 0.
pub fn masked_log_mean_exp(x: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (groups, _, length) = x.dims3()?;
    if (groups, length) != (mask.groups(), mask.length) {
        bail!("logarithm of means of {:?} with a mask of {} x {}", x.shape(), mask.groups(), mask.length)
    }
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1(MaskedLogMeanExp { mask: mask.clone() });
    }
    composed_log_mean_exp(x, mask)
}

/// The same by tensor operations.
fn composed_log_mean_exp(x: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (groups, rows, _) = x.dims3()?;
    let (max, exp) = masked_exponentials(x, mask)?;
    let counts: Vec<f32> = (0..groups).map(|group| mask.count(group) as f32).collect();
    let present: Vec<f32> = counts.iter().map(|count| count.min(1.0)).collect();
    let per_group = |values: Vec<f32>| Tensor::from_vec(values, (groups, 1, 1), x.device());
    let mean = exp.sum_keepdim(candle_core::D::Minus1)?.broadcast_div(&per_group(counts)?.maximum(1.0)?)?;
    let present = per_group(present)?.broadcast_as((groups, rows, 1))?;
    // An empty row's mean is 0; the logarithm of the smallest normal number is finite, and then dropped.
    (mean.maximum(f64::from(f32::MIN_POSITIVE))?.log()? + max)? * present
}

struct MaskedLogMeanExp {
    mask: Mask,
}

impl CustomOp1 for MaskedLogMeanExp {
    fn name(&self) -> &'static str {
        "masked-log-mean-exp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, dims, length) = (host::floats(storage, layout)?, layout.dims(), self.mask.length);
        let rows = dims[1];
        let out = host::make(dims[0] * rows, rows, 8 * length, |group, out| {
            let kept = self.mask.row(group);
            let count = self.mask.count(group);
            if count == 0 {
                return out.fill(0.0);
            }
            vectorized(
                #[inline(always)]
                || {
                    let mut row = vec![0.0; length];
                    for (x, out) in x[group * rows * length..].chunks_exact(length).zip(out) {
                        row.copy_from_slice(x);
                        row.iter_mut().zip(kept).for_each(|(x, &kept)| *x = if kept { *x } else { f32::NEG_INFINITY });
                        let (max, sum) = exponentials(&mut row);
                        *out = max + (sum / count as f32).ln();
                    }
                },
            );
        });
        Ok((CpuStorage::F32(out), (dims[0], rows, 1).into()))
    }

    /// dx = softmax(x) · g
    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (x_values, g, length) = (host::values(x)?, host::values(&gradient)?, self.mask.length);
        let rows = x.dim(1)?;
        let (out, _) = host::change_and(&x_values, rows * length, 8, |group, out| {
            let kept = self.mask.row(group);
            vectorized(
                #[inline(always)]
                || {
                    for (row, g) in out.chunks_exact_mut(length).zip(&g[group * rows..]) {
                        softmax_row(row, kept);
                        row.iter_mut().for_each(|p| *p *= g);
                    }
                },
            );
        });
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}

struct MaskedSoftmax {
    mask: Mask,
}

impl MaskedSoftmax {
    /// As many values as `from` has; `body` finds those in what it has to make.
    fn by_group(&self, from: &[f32], body: impl Fn(usize, &[bool], &mut [f32]) + Sync) -> Vec<f32> {
        let per_group = from.len() / self.mask.groups().max(1);
        host::change_and(from, per_group, 8, |group, out| body(group * per_group, self.mask.row(group), out)).0
    }
}

/// In place, over the kept positions of one row.
#[inline(always)]
pub(super) fn softmax_row(row: &mut [f32], kept: &[bool]) {
    let mut max = f32::NEG_INFINITY;
    for (x, &kept) in row.iter().zip(kept) {
        max = if kept && *x > max { *x } else { max };
    }
    for (x, &kept) in row.iter_mut().zip(kept) {
        let e = vector::exp(*x - max);
        *x = if kept { e } else { 0.0 };
    }
    let sum = vector::sum_by(row, |x| x);
    let factor = if sum > 0.0 { 1.0 / sum } else { 0.0 };
    row.iter_mut().for_each(|x| *x *= factor);
}

/// Leaves `e^(x - max)` of a row and returns the maximum and the sum.
#[inline(always)]
pub(crate) fn exponentials(row: &mut [f32]) -> (f32, f32) {
    let max = vector::max(row);
    for x in row.iter_mut() {
        *x = vector::exp(*x - max);
    }
    (max, vector::sum_by(row, |x| x))
}

/// In place; nothing of nothing.
pub(crate) fn softmax(row: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            let (_, sum) = exponentials(row);
            let factor = 1.0 / sum;
            row.iter_mut().for_each(|x| *x *= factor);
        },
    );
}

impl CustomOp1 for MaskedSoftmax {
    fn name(&self) -> &'static str {
        "masked-softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.by_group(host::floats(storage, layout)?, |_, kept, rows| {
            vectorized(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact_mut(kept.len()) {
                        softmax_row(row, kept);
                    }
                },
            )
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// dx = p ∘ (g − Σ p g)
    fn bwd(&self, _: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (p, g) = (host::values(result)?, host::values(&gradient)?);
        let out = self.by_group(&p, |offset, kept, rows| {
            vectorized(
                #[inline(always)]
                || {
                    let g = &g[offset..offset + rows.len()];
                    for (p, g) in rows.chunks_exact_mut(kept.len()).zip(g.chunks_exact(kept.len())) {
                        let mean = vector::dot(p, g);
                        p.iter_mut().zip(g).for_each(|(p, g)| *p *= g - mean);
                    }
                },
            )
        });
        Ok(Some(Tensor::from_vec(out, result.shape(), result.device())?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::alike::assert_alike;

    /// On a CPU the composed ones run nowhere else: a GPU has nothing else.
    #[test]
    fn fused_equals_composed_with_gradients() -> Result<()> {
        let x = Var::randn(0f32, 3f32, (3, 2, 5), &Device::Cpu)?;
        // Some, none and one of the positions.
        let kept =
            [true, false, true, true, false, false, false, false, false, false, false, false, true, false, false];
        let mask = Mask::new(kept.to_vec(), 5);
        assert_alike(&masked_softmax(&x, &mask)?, &composed_softmax(&x, &mask)?, &[&x])?;
        assert_alike(&masked_log_mean_exp(&x, &mask)?, &composed_log_mean_exp(&x, &mask)?, &[&x])
    }
}
