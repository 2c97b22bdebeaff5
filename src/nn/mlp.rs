//! A multi-layer perceptron.

use candle_core::{Result, Tensor};

use super::{Dropout, Linear, relu};

/// Linear layers with ReLU and dropout between them, nothing after the last.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// From the input on; not empty.
    pub layers: Vec<Linear>,
}

impl Mlp {
    /// `[.., in]` → `[.., out]`.
    pub fn forward(&self, x: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        self.after_first(&self.layers[0].forward(x)?, dropout)
    }

    /// Continues from the first layer's output, before its ReLU: the ranker sums that from precomputed blocks.
    pub fn after_first(&self, first: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        self.layers[1..].iter().try_fold(first.clone(), |x, layer| layer.forward(&dropout.apply(&relu(&x)?)?))
    }
}
