//! From a pair's vectors to its logit.

use candle_core::{Result, Tensor};

use crate::{
    model::{ModelError, ParameterList, Weights},
    nn::{BatchNorm, Dice, Dropout, Initial, Linear, add_row, project},
};

/// Keras' epsilon of batch normalisation.
const NORM_EPS: f64 = 1e-3;
/// DeepCTR's, inside Dice.
const DICE_EPS: f64 = 1e-9;

/// Batch normalisation, layers with Dice, and one output.
#[derive(Debug, Clone)]
pub struct Head {
    norm: BatchNorm,
    layers: Vec<(Linear, Dice)>,
    output: Tensor,
    bias: Tensor,
}

impl Head {
    /// From vectors of `width` through hidden layers.
    pub(super) fn parameters(list: &mut ParameterList, name: &str, width: usize, hidden: &[usize]) {
        list.batch_norm(&format!("{name}.norm"), width);
        let mut width = width;
        for (n, &outputs) in hidden.iter().enumerate() {
            list.linear(&format!("{name}.layers.{n}"), outputs, width);
            let dice = format!("{name}.dice.{n}");
            list.add(format!("{dice}.alpha"), &[outputs], Initial::Constant(0.0));
            list.statistic(format!("{dice}.running_mean"), &[outputs], 0.0);
            list.statistic(format!("{dice}.running_var"), &[outputs], 1.0);
            width = outputs;
        }
        list.xavier(format!("{name}.output.weight"), &[1, width]);
        list.add(format!("{name}.output.bias"), &[1], Initial::Constant(0.0));
    }

    pub(super) fn new(weights: &Weights<'_>, name: &str, hidden: usize) -> std::result::Result<Self, ModelError> {
        let layer = |n: usize| {
            let of_dice = |tensor: &str| weights.get(&format!("{name}.dice.{n}.{tensor}"));
            let alpha = of_dice("alpha")?;
            // Its normalisation has no parameters.
            let norm = BatchNorm {
                weight: alpha.ones_like()?.detach(),
                bias: alpha.zeros_like()?.detach(),
                running_mean: of_dice("running_mean")?,
                running_variance: of_dice("running_var")?,
                eps: DICE_EPS,
            };
            Ok::<_, ModelError>((weights.linear(&format!("{name}.layers.{n}"))?, Dice { norm, alpha }))
        };
        Ok(Self {
            norm: weights.batch_norm(&format!("{name}.norm"), NORM_EPS)?,
            layers: (0..hidden).map(layer).collect::<std::result::Result<_, _>>()?,
            output: weights.get(&format!("{name}.output.weight"))?,
            bias: weights.get(&format!("{name}.output.bias"))?,
        })
    }

    /// `[P, width]` → `[P]`.
    pub fn forward(&self, pairs: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        let mut x = self.norm.forward(pairs, dropout)?;
        for (linear, dice) in &self.layers {
            let hidden = dice.forward(&linear.forward(&x)?, dropout)?;
            x = dropout.apply(&hidden)?;
        }
        add_row(&project(&x, &self.output)?, &self.bias)?.squeeze(1)
    }
}
