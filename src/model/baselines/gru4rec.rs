//! GRU4Rec as Tan et al. (2016) trained it, in RecBole's form: the last state of a GRU, projected to an item's width.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{Baseline, Candidates, Network, Objective, Step, dot};
use crate::{
    model::{HistoryVectors, InputConfig, Losses, ModelError, ParameterList, Weights},
    nn::{Dropout, Gru, Initial, Linear, newest, zero_where_empty},
};

/// GRU4Rec's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gru4RecConfig {
    /// Items; d is their width.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// k, the width of the recurrent state.
    #[serde(default = "hidden_dim")]
    pub hidden_dim: usize,
    /// `own` is softmax cross-entropy over all items.
    #[serde(default)]
    pub loss: Objective,
}

impl Gru4RecConfig {
    /// With RecBole's constants, for the items of these inputs.
    pub fn new(inputs: InputConfig) -> Self {
        let inputs = inputs.without_users().without_searches();
        Self { inputs, hidden_dim: hidden_dim(), loss: Objective::default() }
    }
}

fn hidden_dim() -> usize {
    128
}

impl Baseline for Gru4RecConfig {
    type Network = Gru4Rec;

    const KIND: &'static str = "gru4rec";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn check(&self) -> std::result::Result<(), ModelError> {
        if self.hidden_dim == 0 {
            return Err(ModelError::Config("hidden_dim must not be 0".into()));
        }
        Ok(())
    }

    fn parameters(&self, list: &mut ParameterList) {
        let (d, k) = (self.inputs.item_dim(), self.hidden_dim);
        list.add("gru_layers.weight_ih_l0".into(), &[3 * k, d], Initial::XavierUniform);
        list.add("gru_layers.weight_hh_l0".into(), &[3 * k, k], Initial::XavierUniform);
        list.linear("dense", d, k);
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<Gru4Rec, ModelError> {
        let gru = Gru {
            input: weights.get("gru_layers.weight_ih_l0")?,
            recurrent: weights.get("gru_layers.weight_hh_l0")?,
            biases: None,
        };
        Ok(Gru4Rec { gru, output: weights.linear("dense")?, loss: self.loss })
    }
}

/// GRU4Rec over given tensors.
#[derive(Debug, Clone)]
pub struct Gru4Rec {
    gru: Gru,
    output: Linear,
    loss: Objective,
}

impl Gru4Rec {
    /// `x [B, L, d]` with `lengths` real positions → the states `[B, L, k]` and the users `[B, d]`, zero without
    /// events.
    pub fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<(Tensor, Tensor)> {
        let states = self.gru.forward(x)?;
        let users = zero_where_empty(&self.output.forward(&newest(&states, lengths)?)?, lengths)?;
        Ok((states, users))
    }
}

impl Network for Gru4Rec {
    type Users = Tensor;

    fn encode(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        Ok(self.forward(&dropout.apply(&history.items()?)?, &history.batch().rec_lengths)?.1)
    }

    fn logits(&self, users: &Tensor, candidates: &Candidates<'_>, _: &mut Dropout) -> Result<Tensor> {
        dot(users, &candidates.vectors)
    }

    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        match self.loss {
            Objective::Bce => step.binary_cross_entropy(dropout),
            Objective::Own => step.softmax_over_items(dropout),
        }
    }
}
