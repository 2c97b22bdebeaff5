//! The network that DIN and DIEN end with: from a candidate, what the user's history is to it, and the user, to a
//! logit.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    model::{ModelError, ParameterList, Weights},
    nn::{BatchNorm, Dice, Dropout, Linear, add_row, project},
};

/// What comes after a hidden layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// DIN's.
    #[default]
    Dice,
    /// Batch normalisation, then `x · σ(x)`: what RecBole's DIEN has in its place.
    Swish,
}

/// Dice's ε, as in the code that the specification follows.
const DICE_EPS: f64 = 1e-8;
/// PyTorch's default, which RecBole's DIEN has.
const BATCH_NORM_EPS: f64 = 1e-5;

/// Linear layers with an activation between them. The first layer's share of the user is computed once per user.
#[derive(Debug, Clone)]
pub(super) struct PredictionHead {
    layers: Vec<Linear>,
    activations: Vec<Hidden>,
}

#[derive(Debug, Clone)]
enum Hidden {
    Dice(Dice),
    Swish(BatchNorm),
}

impl Hidden {
    fn forward(&self, x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
        match self {
            Self::Dice(dice) => dice.forward(x, dropout),
            Self::Swish(norm) => norm.forward(x, dropout)?.silu(),
        }
    }
}

impl PredictionHead {
    /// `{name}.fc.0`, `{name}.fc.1`, ...: a layer, its activation, and so on; `sizes` end with 1.
    pub fn parameters(
        list: &mut ParameterList,
        name: &str,
        inputs: usize,
        (sizes, activation): (&[usize], Activation),
    ) {
        let mut width = inputs;
        for (n, &size) in sizes.iter().enumerate() {
            list.linear(&format!("{name}.fc.{}", 2 * n), size, width);
            let hidden = format!("{name}.fc.{}", 2 * n + 1);
            if n + 1 < sizes.len() {
                match activation {
                    Activation::Dice => dice_parameters(list, &hidden, size),
                    Activation::Swish => list.batch_norm(&hidden, size),
                }
            }
            width = size;
        }
    }

    pub fn new(
        weights: &Weights<'_>,
        name: &str,
        (sizes, activation): (&[usize], Activation),
    ) -> std::result::Result<Self, ModelError> {
        let hidden = |n: usize| {
            let name = format!("{name}.fc.{}", 2 * n + 1);
            Ok::<_, ModelError>(match activation {
                Activation::Dice => Hidden::Dice(dice(weights, &name)?),
                Activation::Swish => Hidden::Swish(weights.batch_norm(&name, BATCH_NORM_EPS)?),
            })
        };
        let layer = |n: usize| weights.linear(&format!("{name}.fc.{}", 2 * n));
        Ok(Self {
            layers: (0..sizes.len()).map(layer).collect::<std::result::Result<_, _>>()?,
            activations: (0..sizes.len() - 1).map(hidden).collect::<std::result::Result<_, _>>()?,
        })
    }

    /// Refuses sizes that are not those of a head.
    pub fn check(sizes: &[usize]) -> std::result::Result<(), ModelError> {
        if sizes.last() != Some(&1) || sizes.len() < 2 || sizes.contains(&0) {
            let message = format!("mlp is {sizes:?}; it needs at least two layers, the last of size 1");
            return Err(ModelError::Config(message));
        }
        Ok(())
    }

    /// The first layer's share of the users, bias included: `[B, u]` → `[B, h]`; u may be 0.
    pub fn users(&self, users: Option<&Tensor>, count: usize) -> Result<Tensor> {
        let first = &self.layers[0];
        let share = match users {
            Some(users) => {
                let (width, u) = (first.weight().dim(1)?, users.dim(1)?);
                project(users, &first.weight().narrow(1, width - u, u)?)?
            }
            None => Tensor::zeros((count, first.weight().dim(0)?), first.weight().dtype(), first.weight().device())?,
        };
        add_row(&share, first.bias())
    }

    /// What comes before the user `[B, C, p]`, and [`Self::users`] `[B, h]` → logits `[B, C]`.
    pub fn forward(&self, inputs: &Tensor, users: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        let (count, candidates, p) = inputs.dims3()?;
        let weight = self.layers[0].weight().narrow(1, 0, p)?;
        let mut x = project(inputs, &weight)?.broadcast_add(&users.unsqueeze(1)?)?.flatten_to(1)?; // [B · C, h]
        for (activation, layer) in self.activations.iter().zip(&self.layers[1..]) {
            x = layer.forward(&dropout.apply(&activation.forward(&x, dropout)?)?)?;
        }
        x.reshape((count, candidates))
    }
}

/// `{name}.alpha`, zero, and `{name}.bn.*`.
pub(super) fn dice_parameters(list: &mut ParameterList, name: &str, c: usize) {
    list.add(format!("{name}.alpha"), &[c], crate::nn::Initial::Constant(0.0));
    list.batch_norm(&format!("{name}.bn"), c);
}

/// Over [`dice_parameters`].
pub(super) fn dice(weights: &Weights<'_>, name: &str) -> std::result::Result<Dice, ModelError> {
    Ok(Dice {
        norm: weights.batch_norm(&format!("{name}.bn"), DICE_EPS)?,
        alpha: weights.get(&format!("{name}.alpha"))?,
    })
}
