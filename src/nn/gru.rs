//! A gated recurrent unit, in the form of PyTorch and cuDNN: the reset gate acts after the recurrent product.

use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;

use super::{RowZero, add_row, gather_rows, project, tanh};

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
        let inputs = by_position(&self.inputs(x)?)?; // [L, B, 3k]
        let mut h = Tensor::zeros((users, self.recurrent.dim(1)?), x.dtype(), x.device())?;
        let mut states = Vec::with_capacity(length);
        for position in 0..length {
            let Step { update, new } = self.step(&inputs.get(position)?, &h)?;
            h = (&new + (update * (h - &new)?)?)?;
            states.push(h.clone());
        }
        Tensor::stack(&states, 1)
    }

    /// What the positions contribute to the gates, whatever the state: `x [B, L, d]` → `[B, L, 3k]`.
    pub fn inputs(&self, x: &Tensor) -> Result<Tensor> {
        let inputs = project(x, &self.input)?;
        match &self.biases {
            Some((bias, _)) => add_row(&inputs, bias),
            None => Ok(inputs),
        }
    }

    /// DIEN's AUGRU: C recurrences per user over its [`Self::inputs`] `[B, L, 3k]`, each with attention `[B, C, L]` of
    /// its own: `h ← (1 - a z) ∘ h + a z ∘ g`. Here z weighs the *new* state. A position without attention leaves the
    /// state as it is, padding thus too. The states after each position, `[B · C, k]` each; none for L = 0.
    pub fn attended(&self, inputs: &Tensor, attention: &Tensor) -> Result<Vec<Tensor>> {
        let (users, candidates, length) = attention.dims3()?;
        let inputs = by_position(inputs)?; // [L, B, 3k]
        let attention = attention.reshape((users * candidates, length))?.t()?.contiguous()?; // [L, B · C]
        let owners: Vec<u32> = (0..users as u32).flat_map(|user| std::iter::repeat_n(user, candidates)).collect();
        let mut h = Tensor::zeros((users * candidates, self.recurrent.dim(1)?), inputs.dtype(), inputs.device())?;
        let mut states = Vec::with_capacity(length);
        for position in 0..length {
            let input = gather_rows(&inputs.get(position)?, &owners, RowZero::Learns)?; // [B · C, 3k]
            let Step { update, new } = self.step(&input, &h)?;
            let weight = update.broadcast_mul(&attention.get(position)?.unsqueeze(1)?)?;
            h = (&h + (weight * (new - &h)?)?)?;
            states.push(h.clone());
        }
        Ok(states)
    }

    /// From a position's input `[n, 3k]` and the state before it `[n, k]`.
    fn step(&self, input: &Tensor, h: &Tensor) -> Result<Step> {
        let k = self.recurrent.dim(1)?;
        let mut recurrent = project(h, &self.recurrent)?;
        if let Some((_, bias)) = &self.biases {
            recurrent = add_row(&recurrent, bias)?;
        }
        let gates = sigmoid(&(input.narrow(1, 0, 2 * k)? + recurrent.narrow(1, 0, 2 * k)?)?)?; // [n, 2k]
        let (reset, update) = (gates.narrow(1, 0, k)?, gates.narrow(1, k, k)?);
        let new = tanh(&(input.narrow(1, 2 * k, k)? + (reset * recurrent.narrow(1, 2 * k, k)?)?)?)?;
        Ok(Step { update, new })
    }
}

/// z and g.
struct Step {
    update: Tensor,
    new: Tensor,
}

/// `[B, L, n]` → `[L, B, n]`, so that each position's are contiguous.
fn by_position(x: &Tensor) -> Result<Tensor> {
    x.transpose(0, 1)?.contiguous()
}
