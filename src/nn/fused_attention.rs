//! The core of self-attention as one operator: scores, softmax and weighted sum per batch entry and head, in cache.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{
    host,
    softmax::exponentials,
    vector::{self, vectorized},
};

/// `qkv [B, L, 3d]` → `[B, L, d]`; keys beyond `lengths[b]` are never looked at.
pub(super) struct FusedAttention {
    heads: usize,
    lengths: Arc<[usize]>,
}

/// One head's matrices, copied out of the packed projection.
struct Head {
    /// Scaled queries `[L, w]`.
    q: Vec<f32>,
    /// Keys `[n, w]`.
    k: Vec<f32>,
    /// Values `[n, w]`.
    v: Vec<f32>,
    /// Attention weights `[L, n]`.
    weights: Vec<f32>,
    /// A transposed matrix.
    scratch: Vec<f32>,
}

impl FusedAttention {
    pub(super) fn new(heads: usize, lengths: &[usize]) -> Self {
        Self { heads, lengths: lengths.into() }
    }

    fn sizes(&self, dims: &[usize]) -> Result<(usize, usize)> {
        match *dims {
            [batch, length, width] if batch == self.lengths.len() && width.is_multiple_of(3 * self.heads) => {
                Ok((length, width / 3))
            }
            _ => bail!("attention with {} heads over {} lengths of {dims:?}", self.heads, self.lengths.len()),
        }
    }

    fn scale(&self, d: usize) -> f32 {
        1.0 / ((d / self.heads) as f32).sqrt()
    }

    /// Copies a head out and computes its weights; `n` keys are real.
    #[inline(always)]
    fn head(&self, qkv: &[f32], d: usize, head: usize, n: usize) -> Head {
        let (w, length) = (d / self.heads, qkv.len() / (3 * d));
        let copy = |part: usize, rows: usize| {
            let start = part * d + head * w;
            let mut out = Vec::with_capacity(rows * w);
            qkv.chunks_exact(3 * d).take(rows).for_each(|row| out.extend_from_slice(&row[start..start + w]));
            out
        };
        let (mut q, k, v) = (copy(0, length), copy(1, n), copy(2, n));
        let scale = self.scale(d);
        q.iter_mut().for_each(|q| *q *= scale);
        let (mut weights, mut scratch) = (vec![0.0; length * n], vec![0.0; n * w]);
        vector::transpose(&mut scratch, &k, w); // [w, n]
        vector::multiply_add(&mut weights, &q, (w, 1), &scratch, n);
        for row in weights.chunks_exact_mut(n) {
            let (_, sum) = exponentials(row);
            let factor = 1.0 / sum;
            row.iter_mut().for_each(|x| *x *= factor);
        }
        Head { q, k, v, weights, scratch }
    }
}

impl CustomOp1 for FusedAttention {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (length, d) = self.sizes(layout.dims())?;
        let (qkv, w) = (host::floats(storage, layout)?, d / self.heads);
        let mut out = vec![0.0; self.lengths.len() * length * d];
        host::for_chunks(&mut out, length * d, 4 * length, |entry, out| {
            let n = self.lengths[entry].min(length);
            if n == 0 {
                return;
            }
            let qkv = &qkv[entry * length * 3 * d..(entry + 1) * length * 3 * d];
            let mut context = vec![0.0; length * w];
            for head in 0..self.heads {
                vectorized(
                    #[inline(always)]
                    || {
                        let Head { v, weights, .. } = self.head(qkv, d, head, n);
                        context.fill(0.0);
                        vector::multiply_add(&mut context, &weights, (n, 1), &v, w);
                        for (out, context) in out.chunks_exact_mut(d).zip(context.chunks_exact(w)) {
                            out[head * w..(head + 1) * w].copy_from_slice(context);
                        }
                    },
                );
            }
        });
        Ok((CpuStorage::F32(out), (self.lengths.len(), length, d).into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (length, d) = self.sizes(qkv.dims())?;
        let (w, scale) = (d / self.heads, self.scale(d));
        let gradient = gradient.contiguous()?;
        let ((x, x_layout), (g, g_layout)) = (qkv.storage_and_layout(), gradient.storage_and_layout());
        let (x, g) = (host::stored(&x, x_layout)?, host::stored(&g, g_layout)?);
        let mut out = vec![0.0; x.len()];
        host::for_chunks(&mut out, length * 3 * d, 8 * length, |entry, out| {
            let n = self.lengths[entry].min(length);
            if n == 0 {
                return;
            }
            let x = &x[entry * length * 3 * d..(entry + 1) * length * 3 * d];
            let g = &g[entry * length * d..(entry + 1) * length * d];
            for head in 0..self.heads {
                vectorized(
                    #[inline(always)]
                    || {
                        let Head { q, k, v, weights, mut scratch } = self.head(x, d, head, n);
                        let mut g_head = Vec::with_capacity(length * w);
                        g.chunks_exact(d).for_each(|row| g_head.extend_from_slice(&row[head * w..(head + 1) * w]));
                        let mut dv = vec![0.0; n * w];
                        vector::multiply_add(&mut dv, &weights, (1, n), &g_head, w);
                        // Gradient of the weights, then of the scores, in place.
                        vector::transpose(&mut scratch, &v, w); // [w, n]
                        let mut ds = vec![0.0; length * n];
                        vector::multiply_add(&mut ds, &g_head, (w, 1), &scratch, n);
                        for (ds, p) in ds.chunks_exact_mut(n).zip(weights.chunks_exact(n)) {
                            let mean = vector::dot(ds, p);
                            ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - mean));
                        }
                        let (mut dq, mut dk) = (vec![0.0; length * w], vec![0.0; n * w]);
                        vector::multiply_add(&mut dq, &ds, (n, 1), &k, w);
                        dq.iter_mut().for_each(|dq| *dq *= scale);
                        // q carries the scale already.
                        vector::multiply_add(&mut dk, &ds, (1, n), &q, w);
                        for (part, values) in [dq, dk, dv].iter().enumerate() {
                            let start = part * d + head * w;
                            for (row, values) in out.chunks_exact_mut(3 * d).zip(values.chunks_exact(w)) {
                                row[start..start + w].copy_from_slice(values);
                            }
                        }
                    },
                );
            }
        });
        Ok(Some(Tensor::from_vec(out, qkv.shape(), qkv.device())?))
    }
}
