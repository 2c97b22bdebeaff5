//! A Transformer encoder, post-norm, not causal.

use candle_core::{Result, Tensor};

use super::{Dropout, LayerNorm, Linear, MultiHeadAttention};

/// The slope of the feed-forward layer's LeakyReLU.
pub(super) const SLOPE: f32 = 0.01;

/// One block: attention and a feed-forward layer, each with dropout, residual and layer norm.
#[derive(Debug, Clone)]
pub struct EncoderBlock {
    /// Self-attention.
    pub attention: MultiHeadAttention,
    /// After the attention's residual.
    pub attention_norm: LayerNorm,
    /// d → d, before the LeakyReLU.
    pub dense_1: Linear,
    /// d → d, after it.
    pub dense_2: Linear,
    /// After the feed-forward residual.
    pub feed_forward_norm: LayerNorm,
}

impl EncoderBlock {
    /// `x [B, L, d]` → `[B, L, d]`; entry b has `lengths[b]` real positions.
    pub fn forward(&self, x: &Tensor, lengths: &[usize], dropout: &mut Dropout) -> Result<Tensor> {
        let h = self.attention_norm.after_residual(x, &self.attention.forward(x, lengths)?, dropout)?;
        let hidden = self.dense_1.forward_leaky(&h, SLOPE)?;
        self.feed_forward_norm.after_residual(&h, &self.dense_2.forward(&hidden)?, dropout)
    }
}

/// A stack of blocks.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// From the input on.
    pub blocks: Vec<EncoderBlock>,
}

impl Encoder {
    /// `x [B, L, d]` → `[B, L, d]`.
    pub fn forward(&self, x: &Tensor, lengths: &[usize], dropout: &mut Dropout) -> Result<Tensor> {
        self.blocks.iter().try_fold(x.clone(), |x, block| block.forward(&x, lengths, dropout))
    }
}
