//! STAMP (Liu et al., KDD 2018): the mean of the clicked items and the newest one, joined by an attention without
//! softmax, as in RecBole. Matrices begin as Xavier has them, not with the reference's fixed deviations of 0.05 and
//! 0.002.

use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;
use serde::{Deserialize, Serialize};

use super::{Baseline, Candidates, Network, Objective, Step, dot};
use crate::{
    model::{HistoryVectors, InputConfig, Losses, ModelError, ParameterList, Weights},
    nn::{Dropout, Initial, Linear, add_row, newest, project, real_positions, tanh, zero_where_empty},
};

/// STAMP's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StampConfig {
    /// Items; d is their width.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// `own` is softmax cross-entropy over all items.
    #[serde(default)]
    pub loss: Objective,
}

impl StampConfig {
    /// With the publication's constants, for the items of these inputs.
    pub fn new(inputs: InputConfig) -> Self {
        Self { inputs: inputs.without_users().without_searches(), loss: Objective::default() }
    }
}

impl Baseline for StampConfig {
    type Network = Stamp;

    const KIND: &'static str = "stamp";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn parameters(&self, list: &mut ParameterList) {
        let d = self.inputs.item_dim();
        for name in ["w1", "w2", "w3"] {
            list.xavier(format!("{name}.weight"), &[d, d]);
        }
        list.xavier("w0.weight".into(), &[1, d]);
        list.add("b_a".into(), &[d], Initial::Constant(0.0));
        list.linear("mlp_a", d, d);
        list.linear("mlp_b", d, d);
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<Stamp, ModelError> {
        Ok(Stamp {
            w0: weights.get("w0.weight")?,
            w1: weights.get("w1.weight")?,
            w2: weights.get("w2.weight")?,
            w3: weights.get("w3.weight")?,
            b_a: weights.get("b_a")?,
            a: weights.linear("mlp_a")?,
            b: weights.linear("mlp_b")?,
            loss: self.loss,
        })
    }
}

/// STAMP over given tensors.
#[derive(Debug, Clone)]
pub struct Stamp {
    w0: Tensor,
    w1: Tensor,
    w2: Tensor,
    w3: Tensor,
    b_a: Tensor,
    a: Linear,
    b: Linear,
    loss: Objective,
}

/// A user's vector, and what led to it.
#[derive(Debug, Clone)]
pub struct Memory {
    /// `[B, L]`: the events' attention, not normalised, zero at padding.
    pub attention: Tensor,
    /// `[B, d]`: the mean of the events.
    pub mean: Tensor,
    /// `[B, d]`: the attended events plus the mean.
    pub attended: Tensor,
    /// `[B, d]`: long-term state.
    pub long: Tensor,
    /// `[B, d]`: short-term state.
    pub short: Tensor,
    /// `[B, d]`: their product, zero without events.
    pub user: Tensor,
}

impl Stamp {
    /// `x [B, L, d]` with `lengths` real positions.
    pub fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<Memory> {
        let (users, length, _) = x.dims3()?;
        let real = real_positions(lengths, length, x.device())?; // [B, L, 1]
        let counts: Vec<f32> = lengths.iter().map(|&n| n.max(1) as f32).collect();
        let counts = Tensor::from_vec(counts, (users, 1), x.device())?;
        let mean = x.broadcast_mul(&real)?.sum(1)?.broadcast_div(&counts)?; // [B, d]
        let newest = newest(x, lengths)?; // [B, d]
        let of_user = add_row(&(project(&newest, &self.w2)? + project(&mean, &self.w3)?)?, &self.b_a)?;
        let hidden = sigmoid(&project(x, &self.w1)?.broadcast_add(&of_user.unsqueeze(1)?)?)?; // [B, L, d]
        let attention = (project(&hidden, &self.w0)? * &real)?; // [B, L, 1]
        let attended = (x.broadcast_mul(&attention)?.sum(1)? + &mean)?;
        let (long, short) = (tanh(&self.a.forward(&attended)?)?, tanh(&self.b.forward(&newest)?)?);
        let user = zero_where_empty(&(&long * &short)?, lengths)?;
        Ok(Memory { attention: attention.squeeze(2)?, mean, attended, long, short, user })
    }
}

impl Network for Stamp {
    type Users = Tensor;

    fn encode(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        Ok(self.forward(&dropout.apply(&history.items()?)?, &history.batch().rec_lengths)?.user)
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
