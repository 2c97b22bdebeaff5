//! The [`Encoder`] of one user on a CPU, for ranking: no gradients, no dropout, no batch, and no tensors, whose
//! bookkeeping costs more than the arithmetic of a single history.

use candle_core::Result;

use super::{
    Encoder, EncoderBlock,
    encoder::SLOPE,
    host::values,
    layer_norm::{LayerNorm, normalize_row},
    product::{Dense, LANES, Product, Rows, RowsMut, Start, padded, transpose},
    scratch::with_scratch,
    softmax::exponentials,
    vector::{self, vectorized},
};

/// Queries that attend together: their scores stay in the first-level cache.
const QUERIES: usize = 32;

/// The same weights, laid out for products of small matrices.
#[derive(Debug, Clone)]
pub(crate) struct UserEncoder {
    blocks: Vec<Block>,
}

#[derive(Debug, Clone)]
struct Block {
    heads: usize,
    d: usize,
    in_proj: Dense,
    out_proj: Dense,
    attention_norm: Norm,
    dense_1: Dense,
    dense_2: Dense,
    feed_forward_norm: Norm,
}

#[derive(Debug, Clone)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl UserEncoder {
    pub(crate) fn new(encoder: &Encoder) -> Result<Self> {
        Ok(Self { blocks: encoder.blocks.iter().map(Block::new).collect::<Result<_>>()? })
    }

    /// `x [length, d]`, rows padded, in place. Positions from `real` on are no keys.
    pub(crate) fn forward(&self, x: &mut [f32], length: usize, real: usize) {
        self.blocks.iter().for_each(|block| block.forward(x, length, real));
    }
}

impl Block {
    fn new(block: &EncoderBlock) -> Result<Self> {
        let attention = &block.attention;
        let (heads, d) = (attention.heads, attention.out_proj.weight().dim(0)?);
        let mut in_proj = Dense::new(&attention.in_proj)?;
        // Queries come out scaled.
        let scale = 1.0 / ((d / heads) as f32).sqrt();
        for row in 0..d {
            in_proj.weight.row_mut(row)[..d].iter_mut().for_each(|q| *q *= scale);
        }
        in_proj.bias.row_mut(0)[..d].iter_mut().for_each(|q| *q *= scale);
        Ok(Self {
            heads,
            d,
            in_proj,
            out_proj: Dense::new(&attention.out_proj)?,
            attention_norm: Norm::new(&block.attention_norm)?,
            dense_1: Dense::new(&block.dense_1)?,
            dense_2: Dense::new(&block.dense_2)?,
            feed_forward_norm: Norm::new(&block.feed_forward_norm)?,
        })
    }

    fn forward(&self, x: &mut [f32], length: usize, real: usize) {
        let stride = padded(self.d);
        with_scratch([length * stride, length * stride], |[y, hidden]| {
            self.attend(x, y, length, real);
            self.attention_norm.add_and_normalize(x, y, stride);
            self.dense_1.apply(length, Rows { values: x, stride }, RowsMut { values: hidden, stride });
            vectorized(
                #[inline(always)]
                || hidden.iter_mut().for_each(|x| *x = if *x > 0.0 { *x } else { *x * SLOPE }),
            );
            self.dense_2.apply(length, Rows { values: hidden, stride }, RowsMut { values: y, stride });
            self.feed_forward_norm.add_and_normalize(x, y, stride);
        });
    }

    /// Multi-head self-attention of `x` into `y`.
    fn attend(&self, x: &[f32], y: &mut [f32], length: usize, real: usize) {
        let Self { d, heads, .. } = *self;
        let (w, qkv_stride, keys) = (d / heads, padded(3 * d), padded(real));
        // A head's columns begin anywhere, and products write whole vectors: one more of them has to be there.
        let context_stride = padded(d) + LANES;
        let sizes = [length * qkv_stride + LANES, length * context_stride, w * keys, keys, QUERIES * keys];
        with_scratch(sizes, |[qkv, context, transposed, bias, scores]| {
            self.in_proj.apply(
                length,
                Rows { values: x, stride: padded(d) },
                RowsMut { values: qkv, stride: qkv_stride },
            );
            let qkv = Rows { values: qkv, stride: qkv_stride };
            if real == 0 {
                context.fill(0.0);
            }
            bias[..real].fill(0.0);
            bias[real..].fill(NEVER);
            for head in (0..heads).filter(|_| real > 0) {
                let columns = RowsMut { values: &mut *transposed, stride: keys };
                transpose(columns, qkv.columns_from(d + head * w), (real, w));
                let values = qkv.columns_from(2 * d + head * w);
                // What lies beyond a head's columns is written again by the next head.
                for first in (0..length).step_by(QUERIES) {
                    let rows = QUERIES.min(length - first);
                    let scores = &mut scores[..rows * keys];
                    Product {
                        shape: (rows, w, real),
                        a: qkv.rows_from(first).columns_from(head * w),
                        b: Rows { values: transposed, stride: keys },
                        start: Start::Row(bias),
                        c: RowsMut { values: scores, stride: keys },
                    }
                    .run();
                    let mut sums = [0.0; QUERIES];
                    vectorized(
                        #[inline(always)]
                        || {
                            for (row, sum) in scores.chunks_exact_mut(keys).zip(&mut sums) {
                                (_, *sum) = exponentials(row);
                            }
                        },
                    );
                    let context = &mut context[first * context_stride + head * w..];
                    Product {
                        shape: (rows, real, w),
                        a: Rows { values: scores, stride: keys },
                        b: values,
                        start: Start::Zero,
                        c: RowsMut { values: context, stride: context_stride },
                    }
                    .run();
                    for (row, sum) in sums[..rows].iter().enumerate() {
                        let factor = 1.0 / sum;
                        context[row * context_stride..][..w].iter_mut().for_each(|x| *x *= factor);
                    }
                }
            }
            let context = Rows { values: context, stride: context_stride };
            self.out_proj.apply(length, context, RowsMut { values: y, stride: padded(d) });
        });
    }
}

/// Added to the scores of padding: what is left of it after the exponential is far below rounding.
pub(crate) const NEVER: f32 = -1e30;

impl Norm {
    fn new(norm: &LayerNorm) -> Result<Self> {
        let LayerNorm { weight, bias, eps } = norm;
        Ok(Self { weight: values(weight)?.to_vec(), bias: values(bias)?.to_vec(), eps: *eps as f32 })
    }

    /// `x = norm(x + y)`, row by row.
    fn add_and_normalize(&self, x: &mut [f32], y: &[f32], stride: usize) {
        let d = self.weight.len();
        vectorized(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact_mut(stride).zip(y.chunks_exact(stride)) {
                    vector::add_scaled(x, y, 1.0);
                    normalize_row(&mut x[..d], &self.weight, &self.bias, self.eps);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::nn::alike::far;
    use crate::nn::{Dropout, Linear, Matrix, MultiHeadAttention};

    #[test]
    fn equals_the_encoder_of_tensors() -> Result<()> {
        let device = Device::Cpu;
        for (d, heads, length) in [(48, 2, 70), (20, 4, 9), (8, 1, 1)] {
            let random = |shape: &[usize]| Tensor::randn(0f32, 0.5, shape, &device);
            let linear = |out: usize| Ok::<_, candle_core::Error>(Linear::new(random(&[out, d])?, random(&[out])?));
            let norm = || Ok::<_, candle_core::Error>(LayerNorm::new(random(&[d])?, random(&[d])?, 1e-8));
            let block = || {
                Ok::<_, candle_core::Error>(EncoderBlock {
                    attention: MultiHeadAttention::new(linear(3 * d)?, linear(d)?, heads),
                    attention_norm: norm()?,
                    dense_1: linear(d)?,
                    dense_2: linear(d)?,
                    feed_forward_norm: norm()?,
                })
            };
            let encoder = Encoder { blocks: vec![block()?, block()?] };
            let x = random(&[length, d])?;
            for real in [0, length / 2, length] {
                let expected = encoder.forward(&x.unsqueeze(0)?, &[real], &mut Dropout::off())?.squeeze(0)?;
                let mut found = Matrix::new(&x)?;
                UserEncoder::new(&encoder)?.forward(found.values_mut(), length, real);
                let far = far(&found.tensor()?, &expected)?;
                assert!(far < 1e-4, "d {d}, {heads} heads, {real} of {length}: {far}");
            }
        }
        Ok(())
    }
}
