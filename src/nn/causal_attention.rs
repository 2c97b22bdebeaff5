//! Causal multi-head self-attention.

use candle_core::{Result, Tensor};

use super::{Dropout, Linear, Mask, masked_softmax};

/// Added to the scores of positions to come.
const NEVER: f32 = -1e9;

/// Every position attends to itself and to those before it. With padding on the right, real positions thereby never see
/// it; what padded positions hold means nothing.
#[derive(Debug, Clone)]
pub struct CausalAttention {
    /// d → d each.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    /// Of the heads' outputs.
    pub output: Linear,
    /// Divides d.
    pub heads: usize,
}

impl CausalAttention {
    /// `x [B, L, d]` → `[B, L, d]`, and the attention `[B, H, L, L]`. Dropout acts on the attention.
    pub fn forward(&self, x: &Tensor, dropout: &mut Dropout) -> Result<(Tensor, Tensor)> {
        self.attend(x, x, dropout)
    }

    /// The same with queries from another tensor of x's shape.
    pub fn attend(&self, queries: &Tensor, x: &Tensor, dropout: &mut Dropout) -> Result<(Tensor, Tensor)> {
        let (users, length, d) = x.dims3()?;
        let heads = self.heads;
        let split = |x: Tensor| x.reshape((users, length, heads, d / heads))?.transpose(1, 2)?.contiguous();
        let query = (split(self.query.forward(queries)?)? * (1.0 / ((d / heads) as f64).sqrt()))?; // [B, H, L, d/H]
        let (key, value) = (split(self.key.forward(x)?)?, split(self.value.forward(x)?)?);
        let scores = query.matmul(&key.t()?)?; // [B, H, L, L]
        let later: Vec<f32> =
            (0..length).flat_map(|query| (0..length).map(move |key| if key > query { NEVER } else { 0.0 })).collect();
        let later = Tensor::from_vec(later, (length, length), x.device())?;
        let scores = scores.broadcast_add(&later)?.reshape((users, heads * length, length))?;
        let everywhere = Mask::prefixes(&vec![length; users], length);
        let attention = masked_softmax(&scores, &everywhere)?.reshape((users, heads, length, length))?;
        let context = dropout.apply(&attention)?.matmul(&value)?; // [B, H, L, d/H]
        let context = context.transpose(1, 2)?.contiguous()?.reshape((users, length, d))?;
        Ok((self.output.forward(&context)?, attention))
    }
}
