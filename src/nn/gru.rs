//! A gated recurrent unit, in the form of PyTorch and cuDNN: the reset gate acts after the recurrent product.

use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;

use super::{add_row, project, tanh};

/// `r = σ(W_r x + U_r h)`, `z = σ(W_z x + U_z h)`, `g = tanh(W_g x + r ∘ (U_g h))`, `h ← (1 - z) ∘ g + z ∘ h`, from
/// h = 0.
#[derive(Debug, Clone)]
pub struct Gru {
    /// `[3k, d]`: W_r, W_z, W_g.
    pub input: Tensor,
    /// `[3k, k]`: U_r, U_z, U_g.
    pub recurrent: Tensor,
    /// `[3k]` each, of the input's and of the recurrent product.
    pub biases: Option<(Tensor, Tensor)>,
}

impl Gru {
    /// `x [B, L, d]` → the state after each position `[B, L, k]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (users, length, _) = x.dims3()?;
        let k = self.recurrent.dim(1)?;
        let mut inputs = project(x, &self.input)?; // [B, L, 3k]
        if let Some((bias, _)) = &self.biases {
            inputs = add_row(&inputs, bias)?;
        }
        // By position, so that each step's are contiguous.
        let inputs = inputs.transpose(0, 1)?.contiguous()?; // [L, B, 3k]
        let mut h = Tensor::zeros((users, k), x.dtype(), x.device())?;
        let mut states = Vec::with_capacity(length);
        for position in 0..length {
            let input = inputs.narrow(0, position, 1)?.squeeze(0)?;
            let mut recurrent = project(&h, &self.recurrent)?;
            if let Some((_, bias)) = &self.biases {
                recurrent = add_row(&recurrent, bias)?;
            }
            let gates = sigmoid(&(input.narrow(1, 0, 2 * k)? + recurrent.narrow(1, 0, 2 * k)?)?)?; // [B, 2k]
            let (reset, update) = (gates.narrow(1, 0, k)?, gates.narrow(1, k, k)?);
            let new = tanh(&(input.narrow(1, 2 * k, k)? + (reset * recurrent.narrow(1, 2 * k, k)?)?)?)?;
            h = (&new + (update * (h - &new)?)?)?;
            states.push(h.clone());
        }
        Tensor::stack(&states, 1)
    }
}
