//! FMLP-Rec (Zhou et al., WWW 2022): learned filters in the frequency domain in place of attention.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{Baseline, Candidates, Network, Objective, Step, dot, feed_forward::FeedForward, network::SMALL};
use crate::{
    model::{BatchPlan, Examples, HistoryVectors, InputConfig, Losses, ModelError, ParameterList, Weights},
    nn::{Dropout, FrequencyFilter, LayerNorm, add_row, binary_cross_entropy},
};

/// FMLP-Rec's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FmlpConfig {
    /// Items; d is their width, `max_rec_history` the length that every history is padded to.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// Filter blocks.
    #[serde(default = "two")]
    pub num_blocks: usize,
    /// Layer norm's epsilon.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// `own`: one sampled item per click, a user's first click included.
    #[serde(default)]
    pub loss: Objective,
}

impl FmlpConfig {
    /// With the publication's constants, for the items of these inputs.
    pub fn new(inputs: InputConfig) -> Self {
        Self {
            inputs: inputs.without_users().without_searches(),
            num_blocks: two(),
            layer_norm_eps: layer_norm_eps(),
            loss: Objective::default(),
        }
    }
}

fn two() -> usize {
    2
}

fn layer_norm_eps() -> f64 {
    1e-12
}

impl Baseline for FmlpConfig {
    type Network = Fmlp;

    const KIND: &'static str = "fmlp";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn check(&self) -> std::result::Result<(), ModelError> {
        if self.num_blocks == 0 {
            return Err(ModelError::Config("num_blocks must not be 0".into()));
        }
        Ok(())
    }

    fn parameters(&self, list: &mut ParameterList) {
        let (d, length) = (self.inputs.item_dim(), self.inputs.limits.recommendations);
        list.add("position_embeddings.weight".into(), &[length, d], SMALL);
        list.norm("LayerNorm", d);
        for block in 0..self.num_blocks {
            let layer = format!("item_encoder.layer.{block}");
            let shape = [1, FrequencyFilter::frequencies(length), d, 2];
            list.add(format!("{layer}.filterlayer.complex_weight"), &shape, SMALL);
            list.norm(&format!("{layer}.filterlayer.LayerNorm"), d);
            FeedForward::parameters(list, &format!("{layer}.intermediate"), d);
        }
    }

    fn batch_plan(&self) -> BatchPlan {
        let examples = match self.loss {
            Objective::Bce => Examples::Clicks,
            Objective::Own => Examples::Prefixes,
        };
        BatchPlan { examples, ..BatchPlan::default() }
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<Fmlp, ModelError> {
        let (eps, length) = (self.layer_norm_eps, self.inputs.limits.recommendations);
        let block = |n: usize| {
            let layer = format!("item_encoder.layer.{n}");
            let filter = weights.get(&format!("{layer}.filterlayer.complex_weight"))?;
            Ok::<_, ModelError>(Block {
                filter: FrequencyFilter::new(&filter, length)?,
                norm: weights.layer_norm(&format!("{layer}.filterlayer.LayerNorm"), eps)?,
                feed_forward: FeedForward::new(weights, &format!("{layer}.intermediate"), eps)?,
            })
        };
        Ok(Fmlp {
            positions: weights.get("position_embeddings.weight")?,
            norm: weights.layer_norm("LayerNorm", eps)?,
            blocks: (0..self.num_blocks).map(block).collect::<std::result::Result<_, _>>()?,
            loss: self.loss,
        })
    }
}

/// FMLP-Rec over given tensors.
#[derive(Debug, Clone)]
pub struct Fmlp {
    positions: Tensor,
    norm: LayerNorm,
    blocks: Vec<Block>,
    loss: Objective,
}

#[derive(Debug, Clone)]
struct Block {
    filter: FrequencyFilter,
    norm: LayerNorm,
    feed_forward: FeedForward,
}

/// What a block makes of a sequence `[B, L, d]`.
#[derive(Debug, Clone)]
pub struct FilteredStates {
    /// The filter's output.
    pub filtered: Tensor,
    /// After its layer norm.
    pub normalised: Tensor,
    /// The block's output.
    pub output: Tensor,
}

impl Fmlp {
    /// `x [B, L, d]`, padded on the left to the model's length: the embedding layer's output, then every block's. The
    /// padding takes part, as in the release.
    pub fn forward(&self, x: &Tensor, dropout: &mut Dropout) -> Result<(Tensor, Vec<FilteredStates>)> {
        let (users, length, d) = x.dims3()?;
        let with_positions = add_row(&x.reshape((users, length * d))?, &self.positions.flatten_all()?)?;
        let embedded = self.norm.forward(&with_positions.reshape((users, length, d))?)?;
        let mut h = dropout.apply(&embedded)?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let filtered = block.filter.forward(&h)?;
            let normalised = block.norm.after_residual(&h, &filtered, dropout)?;
            h = block.feed_forward.forward(&normalised, dropout)?;
            blocks.push(FilteredStates { filtered, normalised, output: h.clone() });
        }
        Ok((embedded, blocks))
    }

    /// A user's vector is the state of the last position: `[B, L, d]` → `[B, d]`.
    pub fn last(states: &Tensor) -> Result<Tensor> {
        states.narrow(1, states.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()
    }
}

impl Network for Fmlp {
    type Users = Tensor;

    fn encode(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        let x = history.items_on_the_right(self.positions.dim(0)?)?;
        let (embedded, mut blocks) = self.forward(&x, dropout)?;
        Self::last(&blocks.pop().map_or(embedded, |block| block.output))
    }

    fn logits(&self, users: &Tensor, candidates: &Candidates<'_>, _: &mut Dropout) -> Result<Tensor> {
        dot(users, &candidates.vectors)
    }

    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        if self.loss == Objective::Bce {
            return step.binary_cross_entropy(dropout);
        }
        // -log σ(h · clicked) - log(1 - σ(h · sampled)): a sum over the two, where the BCE is their mean.
        let loss = (binary_cross_entropy(&step.logits(dropout)?)? * 2.0)?;
        Ok(Losses { total: loss.clone(), parts: vec![("next_item", loss)] })
    }
}
