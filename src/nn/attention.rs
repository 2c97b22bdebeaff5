//! Multi-head self-attention, exactly as `torch.nn.MultiheadAttention` with padded keys masked.

use candle_core::{Result, Tensor};

use super::{Linear, Mask, fused_attention::FusedAttention, masked_softmax};

/// Packed query, key and value projections, heads, output projection.
#[derive(Debug, Clone)]
pub struct MultiHeadAttention {
    pub(super) in_proj: Linear,
    pub(super) out_proj: Linear,
    pub(super) heads: usize,
}

impl MultiHeadAttention {
    /// `in_proj` d → 3d, `out_proj` d → d; d is divisible by `heads`.
    pub fn new(in_proj: Linear, out_proj: Linear, heads: usize) -> Self {
        Self { in_proj, out_proj, heads }
    }

    /// `x [B, L, d]` → `[B, L, d]`. Entry b attends to its first `lengths[b]` positions; where that is 0, to nothing,
    /// which gives the bias of the output projection rather than NaN.
    pub fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let qkv = self.in_proj.forward(x)?; // [B, L, 3d]
        let context = if x.device().is_cpu() {
            qkv.contiguous()?.apply_op1(FusedAttention::new(self.heads, lengths))?
        } else {
            self.composed(&qkv, lengths)?
        };
        self.out_proj.forward(&context)
    }

    /// The same from candle's own operators, for devices without a fused kernel.
    pub(super) fn composed(&self, qkv: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (batch, length, width) = qkv.dims3()?;
        let (d, heads) = (width / 3, self.heads);
        // [B, L, 3, H, d/H] -> [3, B, H, L, d/H]
        let parts = qkv.reshape((batch, length, 3, heads, d / heads))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let part = |n: usize| parts.narrow(0, n, 1)?.squeeze(0)?.contiguous();
        let scale = 1.0 / ((d / heads) as f64).sqrt();
        let scores = (part(0)? * scale)?.matmul(&part(1)?.t()?)?; // [B, H, L, L]
        let weights = masked_softmax(&scores, &Mask::prefixes(lengths, length))?;
        let context = weights.matmul(&part(2)?)?; // [B, H, L, d/H]
        context.permute((0, 2, 1, 3))?.contiguous()?.reshape((batch, length, d))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::alike::assert_alike;

    /// With heads narrower and wider than a vector, entries without keys, and more keys than are transposed together.
    #[test]
    fn fused_equals_composed_with_gradients() -> Result<()> {
        let device = &Device::Cpu;
        for (d, heads, lengths) in [(8, 2, [5, 0, 3]), (32, 2, [19, 17, 20]), (20, 1, [1, 9, 8])] {
            let linear = |out, n| -> Result<Linear> {
                Ok(Linear::new(Tensor::randn(0f32, 0.5, (out, n), device)?, Tensor::randn(0f32, 0.5, out, device)?))
            };
            let attention = MultiHeadAttention::new(linear(3 * d, d)?, linear(d, d)?, heads);
            let qkv = Var::randn(0f32, 1f32, (3, 20, 3 * d), device)?;
            let fused = qkv.apply_op1(FusedAttention::new(heads, &lengths))?;
            assert_alike(&fused, &attention.composed(&qkv, &lengths)?, &[&qkv])?;
        }
        Ok(())
    }
}
