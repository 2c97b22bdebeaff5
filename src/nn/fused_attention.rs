//! The core of self-attention as one operator: scores, softmax and weighted sum per batch entry and head, in cache.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{
    host,
    product::{Right, Rows, RowsMut, Transposed, copy_rows, multiply},
    scratch::with_scratch,
    softmax::exponentials,
    vector::{self, vectorized},
};

/// `qkv [B, L, 3d]` → `[B, L, d]`; keys beyond `lengths[b]` are never looked at.
pub(super) struct FusedAttention {
    heads: usize,
    lengths: Arc<[usize]>,
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

    /// Keys that an entry has.
    fn keys(&self, entry: usize, length: usize) -> usize {
        self.lengths[entry].min(length)
    }

    /// A head's attention `[L, n]` from its parts of the packed projection: scaled queries `[L, w]`, keys `[n, w]`.
    fn weights(&self, q: &[f32], k: Rows<'_>, weights: &mut [f32], (w, n): (usize, usize)) {
        multiply((q.len() / w, w, n), Rows { values: q, stride: w }, Right::Transposed(k), weights);
        vectorized(
            #[inline(always)]
            || {
                for row in weights.chunks_exact_mut(n) {
                    let (_, sum) = exponentials(row);
                    let factor = 1.0 / sum;
                    row.iter_mut().for_each(|x| *x *= factor);
                }
            },
        );
    }
}

/// Rows of a head: `part` of the packed projection is 0 for queries, 1 for keys, 2 for values.
fn head(qkv: &[f32], d: usize, (part, first): (usize, usize)) -> Rows<'_> {
    Rows { values: &qkv[part * d + first..], stride: 3 * d }
}

/// `to [rows, w] = scale · from`.
fn scaled(to: &mut [f32], from: Rows<'_>, w: usize, scale: f32) {
    for (row, to) in to.chunks_exact_mut(w).enumerate() {
        to.iter_mut().zip(&from.values[row * from.stride..]).for_each(|(to, from)| *to = from * scale);
    }
}

impl CustomOp1 for FusedAttention {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (length, d) = self.sizes(layout.dims())?;
        let (qkv, w) = (host::floats(storage, layout)?, d / self.heads);
        let scale = self.scale(d);
        let out = host::make(self.lengths.len() * length * d, length * d, 4 * length, |entry, out| {
            let n = self.keys(entry, length);
            if n == 0 {
                return out.fill(0.0);
            }
            let qkv = &qkv[entry * length * 3 * d..][..length * 3 * d];
            with_scratch([length * w, length * n, length * w], |[q, weights, context]| {
                for first in (0..d).step_by(w) {
                    let part = |part: usize| head(qkv, d, (part, first));
                    scaled(q, part(0), w, scale);
                    self.weights(q, part(1), weights, (w, n));
                    multiply((length, n, w), Rows { values: weights, stride: n }, Right::Plain(part(2)), context);
                    let to = RowsMut { values: &mut out[first..], stride: d };
                    copy_rows(to, Rows { values: context, stride: w }, (length, w));
                }
            });
        });
        Ok((CpuStorage::F32(out), (self.lengths.len(), length, d).into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (length, d) = self.sizes(qkv.dims())?;
        let (w, scale) = (d / self.heads, self.scale(d));
        let gradient = gradient.contiguous()?;
        let (x, g) = (host::values(qkv)?, host::values(&gradient)?);
        let out = host::make(x.len(), length * 3 * d, 8 * length, |entry, out| {
            let n = self.keys(entry, length);
            out.fill(0.0);
            if n == 0 {
                return;
            }
            let x = &x[entry * length * 3 * d..][..length * 3 * d];
            let g = &g[entry * length * d..][..length * d];
            let sizes = [length * w, length * n, length * n, length * w, n * w, n * w];
            with_scratch(sizes, |[q, weights, ds, dq, dk, dv]| {
                for first in (0..d).step_by(w) {
                    let part = |part: usize| head(x, d, (part, first));
                    let g = Rows { values: &g[first..], stride: d };
                    scaled(q, part(0), w, scale);
                    self.weights(q, part(1), weights, (w, n));
                    let by_key = |values| Transposed(Rows { values, stride: n });
                    multiply((n, length, w), by_key(weights), Right::Plain(g), dv);
                    // Gradient of the weights, then of the scores, in place.
                    multiply((length, w, n), g, Right::Transposed(part(2)), ds);
                    vectorized(
                        #[inline(always)]
                        || {
                            for (ds, p) in ds.chunks_exact_mut(n).zip(weights.chunks_exact(n)) {
                                let mean = vector::dot(ds, p);
                                ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - mean));
                            }
                        },
                    );
                    multiply((length, n, w), Rows { values: ds, stride: n }, Right::Plain(part(1)), dq);
                    dq.iter_mut().for_each(|dq| *dq *= scale);
                    // q carries the scale already.
                    let q = Rows { values: q, stride: w };
                    multiply((n, length, w), by_key(ds), Right::Plain(q), dk);
                    for (part, (values, rows)) in [(&*dq, length), (&*dk, n), (&*dv, n)].into_iter().enumerate() {
                        let to = RowsMut { values: &mut out[part * d + first..], stride: 3 * d };
                        copy_rows(to, Rows { values, stride: w }, (rows, w));
                    }
                }
            });
        });
        Ok(Some(Tensor::from_vec(out, qkv.shape(), qkv.device())?))
    }
}
