//! SASRec (Kang and McAuley, ICDM 2018) in the form of S³-Rec's code: causal self-attention, layer norm after each
//! residual, as in BERT.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    Baseline, Candidates, Network, Objective, Step, dot,
    feed_forward::FeedForward,
    network::{SMALL, check_attention},
};
use crate::{
    data::HistoryBatch,
    model::{BatchPlan, Examples, HistoryVectors, InputConfig, Losses, ModelError, ParameterList, Weights},
    nn::{CausalAttention, Dropout, LayerNorm, RowZero, gather_rows_as, newest, real_positions, softplus},
};

/// SASRec's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SasRecConfig {
    /// Items; d is their width, `max_rec_history` the number of positions.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// Transformer blocks.
    #[serde(default = "two")]
    pub num_blocks: usize,
    /// Attention heads; divides d.
    #[serde(default = "two")]
    pub num_heads: usize,
    /// Layer norm's epsilon.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Which side positions are counted from.
    #[serde(default)]
    pub positions: PositionSide,
    /// `own`: every position predicts the next item, against one sampled item.
    #[serde(default)]
    pub loss: Objective,
}

/// Which side positions are counted from: a model serves with the side that it was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionSide {
    /// Histories are padded on the left: the newest event is always at the last position.
    #[default]
    Left,
    /// On the right: the oldest kept event is always at the first.
    Right,
}

impl SasRecConfig {
    /// With the publication's constants, for the items of these inputs.
    pub fn new(inputs: InputConfig) -> Self {
        Self {
            inputs: inputs.without_users().without_searches(),
            num_blocks: two(),
            num_heads: two(),
            layer_norm_eps: layer_norm_eps(),
            positions: PositionSide::default(),
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

impl Baseline for SasRecConfig {
    type Network = SasRec;

    const KIND: &'static str = "sasrec";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn check(&self) -> std::result::Result<(), ModelError> {
        check_attention(self.inputs.item_dim(), self.num_heads, self.num_blocks)
    }

    fn parameters(&self, list: &mut ParameterList) {
        let d = self.inputs.item_dim();
        list.add("position_embeddings.weight".into(), &[self.inputs.limits.recommendations, d], SMALL);
        list.norm("LayerNorm", d);
        for block in 0..self.num_blocks {
            let layer = format!("item_encoder.layer.{block}");
            for part in ["query", "key", "value", "dense"] {
                list.linear_from(&format!("{layer}.attention.{part}"), d, d, SMALL);
            }
            list.norm(&format!("{layer}.attention.LayerNorm"), d);
            FeedForward::parameters(list, &format!("{layer}.intermediate"), d);
        }
    }

    fn batch_plan(&self) -> BatchPlan {
        let examples = match self.loss {
            Objective::Bce => Examples::Clicks,
            Objective::Own => Examples::Sequences,
        };
        BatchPlan { examples, ..BatchPlan::default() }
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<SasRec, ModelError> {
        let eps = self.layer_norm_eps;
        let block = |n: usize| {
            let layer = format!("item_encoder.layer.{n}");
            let part = |name: &str| weights.linear(&format!("{layer}.attention.{name}"));
            Ok::<_, ModelError>(Block {
                attention: CausalAttention {
                    query: part("query")?,
                    key: part("key")?,
                    value: part("value")?,
                    output: part("dense")?,
                    heads: self.num_heads,
                },
                norm: weights.layer_norm(&format!("{layer}.attention.LayerNorm"), eps)?,
                feed_forward: FeedForward::new(weights, &format!("{layer}.intermediate"), eps)?,
            })
        };
        Ok(SasRec {
            positions: weights.get("position_embeddings.weight")?,
            side: self.positions,
            norm: weights.layer_norm("LayerNorm", eps)?,
            blocks: (0..self.num_blocks).map(block).collect::<std::result::Result<_, _>>()?,
            loss: self.loss,
        })
    }
}

/// SASRec over given tensors.
#[derive(Debug, Clone)]
pub struct SasRec {
    positions: Tensor,
    side: PositionSide,
    norm: LayerNorm,
    blocks: Vec<Block>,
    loss: Objective,
}

#[derive(Debug, Clone)]
struct Block {
    attention: CausalAttention,
    norm: LayerNorm,
    feed_forward: FeedForward,
}

/// What a block makes of a sequence; only real positions mean something.
#[derive(Debug, Clone)]
pub struct BlockStates {
    /// `[B, H, L, L]`.
    pub attention: Tensor,
    /// `[B, L, d]`: after the attention's layer norm.
    pub attended: Tensor,
    /// `[B, L, d]`: the block's output.
    pub output: Tensor,
}

impl SasRec {
    /// `x [B, L, d]` with `lengths` real positions on the left, whatever side positions are counted from: the embedding
    /// layer's output, then every block's.
    pub fn forward(&self, x: &Tensor, lengths: &[usize], dropout: &mut Dropout) -> Result<(Tensor, Vec<BlockStates>)> {
        let (users, length, _) = x.dims3()?;
        let most = self.positions.dim(0)?;
        let rows: Vec<u32> = lengths
            .iter()
            .flat_map(|&n| {
                let first = match self.side {
                    PositionSide::Left => most - n,
                    PositionSide::Right => 0,
                };
                // Padding has any position: nothing attends to it.
                (0..length).map(move |at| (first + at).min(most - 1) as u32)
            })
            .collect();
        let positions = gather_rows_as(&self.positions, &rows, &[users, length], RowZero::Learns)?;
        let embedded = self.norm.forward(&(x + positions)?)?;
        let mut h = dropout.apply(&embedded)?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (out, attention) = block.attention.forward(&h, dropout)?;
            let attended = block.norm.after_residual(&h, &out, dropout)?;
            h = block.feed_forward.forward(&attended, dropout)?;
            blocks.push(BlockStates { attention, attended, output: h.clone() });
        }
        Ok((embedded, blocks))
    }

    /// The state of every position `[B, L, d]`.
    fn states(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        let (embedded, mut blocks) = self.forward(&history.items()?, &history.batch().rec_lengths, dropout)?;
        Ok(blocks.pop().map_or(embedded, |block| block.output))
    }

    /// Every real position's state h `[B, L, d]` against the next item and a sampled one `[B, L, d]`:
    /// `-log σ(h · next) - log(1 - σ(h · sampled))`, the mean over real positions.
    pub fn next_item_loss(states: &Tensor, next: &Tensor, sampled: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let real = real_positions(lengths, states.dim(1)?, states.device())?.squeeze(2)?; // [B, L]
        let logit = |items: &Tensor| (states * items)?.sum(2); // [B, L]
        let losses = (softplus(&logit(next)?.neg()?)? + softplus(&logit(sampled)?)?)?;
        (losses * real)?.sum_all()? / lengths.iter().sum::<usize>().max(1) as f64
    }
}

impl Network for SasRec {
    type Users = Tensor;

    fn encode(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        newest(&self.states(history, dropout)?, &history.batch().rec_lengths)
    }

    fn logits(&self, users: &Tensor, candidates: &Candidates<'_>, _: &mut Dropout) -> Result<Tensor> {
        dot(users, &candidates.vectors)
    }

    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        if self.loss == Objective::Bce {
            return step.binary_cross_entropy(dropout);
        }
        let (batch, history) = (step.batch(), step.history());
        let states = self.states(&history, dropout)?;
        let HistoryBatch { rec_items, rec_len, rec_lengths: lengths, .. } = history.batch();
        let mut next = Vec::with_capacity(rec_items.len());
        for (items, (&n, &last)) in rec_items.chunks(*rec_len).zip(lengths.iter().zip(&batch.positives)) {
            let start = next.len();
            next.extend_from_slice(items.get(1..n).unwrap_or_default());
            next.extend((n > 0).then_some(last));
            next.resize(start + items.len(), 0);
        }
        let items = |rows: &[u32], dropout: &mut Dropout| step.further_items(rows, dropout)?.reshape(states.shape());
        let (next, sampled) = (items(&next, dropout)?, items(&batch.negatives, dropout)?);
        let loss = Self::next_item_loss(&states, &next, &sampled, lengths)?;
        Ok(Losses { total: loss.clone(), parts: vec![("next_item", loss)] })
    }
}
