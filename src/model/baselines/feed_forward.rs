//! The feed-forward layer that SASRec's and FMLP-Rec's blocks end with.

use candle_core::{Result, Tensor};

use super::network::SMALL;
use crate::{
    model::{ModelError, ParameterList, Weights},
    nn::{Dropout, LayerNorm, Linear, gelu},
};

/// How much wider the hidden layer is.
const EXPANSION: usize = 4;

/// `LN(h + dropout(W2 gelu(W1 h)))`, d → 4d → d, with the GELU of the error function.
#[derive(Debug, Clone)]
pub(super) struct FeedForward {
    dense_1: Linear,
    dense_2: Linear,
    norm: LayerNorm,
}

impl FeedForward {
    pub fn parameters(list: &mut ParameterList, name: &str, d: usize) {
        list.linear_from(&format!("{name}.dense_1"), EXPANSION * d, d, SMALL);
        list.linear_from(&format!("{name}.dense_2"), d, EXPANSION * d, SMALL);
        list.norm(&format!("{name}.LayerNorm"), d);
    }

    pub fn new(weights: &Weights<'_>, name: &str, eps: f64) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            dense_1: weights.linear(&format!("{name}.dense_1"))?,
            dense_2: weights.linear(&format!("{name}.dense_2"))?,
            norm: weights.layer_norm(&format!("{name}.LayerNorm"), eps)?,
        })
    }

    /// `[B, L, d]` → `[B, L, d]`.
    pub fn forward(&self, h: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        let out = self.dense_2.forward(&gelu(&self.dense_1.forward(h)?)?)?;
        self.norm.after_residual(h, &out, dropout)
    }
}
