//! Query-SeqRec (He et al., CIKM 2022): one sequence of clicked items and issued queries by time, read by causal
//! attention.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    Baseline, Candidates, Network, Objective, Step, dot,
    network::{SMALL, check_attention},
};
use crate::{
    data::{HistoryBatch, HistoryLimits},
    model::{
        BatchPlan, Examples, Extras, HistoryVectors, InputConfig, Losses, ModelError, ParameterList, Substitution,
        TrainingBatch, Weights,
    },
    nn::{
        CausalAttention, Dropout, LayerNorm, Linear, RowZero, cross_entropy, gather_rows, gather_rows_as, newest, relu,
    },
};

/// Query-SeqRec's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuerySeqRecConfig {
    /// Items and queries; d is their width. There are as many positions as recommendations and searches together.
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
    /// Share of a training history's events that are replaced by others; not the last where it is a search.
    #[serde(default = "substituted")]
    pub substituted: f64,
    /// Share of these that are replaced by related ones, by the clicks of training searches.
    #[serde(default = "related")]
    pub related: f64,
    /// `own`: softmax cross-entropy over all items, wherever an item comes next.
    #[serde(default)]
    pub loss: Objective,
}

impl QuerySeqRecConfig {
    /// With the publication's constants, for the items and queries of these inputs. Clicks of searches are no events of
    /// their own, as in the publication.
    pub fn new(inputs: InputConfig) -> Self {
        let inputs = inputs.without_users();
        let limits = HistoryLimits { clicks: 0, ..inputs.limits };
        Self {
            inputs: InputConfig { limits, ..inputs },
            num_blocks: two(),
            num_heads: two(),
            layer_norm_eps: layer_norm_eps(),
            substituted: substituted(),
            related: related(),
            loss: Objective::default(),
        }
    }
}

fn two() -> usize {
    2
}

fn layer_norm_eps() -> f64 {
    1e-8
}

fn substituted() -> f64 {
    0.25
}

fn related() -> f64 {
    0.2
}

impl Baseline for QuerySeqRecConfig {
    type Network = QuerySeqRec;

    const KIND: &'static str = "query-seqrec";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn check(&self) -> std::result::Result<(), ModelError> {
        check_attention(self.inputs.item_dim(), self.num_heads, self.num_blocks)?;
        if self.inputs.limits.searches == 0 || self.inputs.query_features.is_none_or(|q| q.search_source.is_none()) {
            let message = "query-seqrec reads searches: max_src_history must not be 0, and query_features needs \
                           search_source";
            return Err(ModelError::Config(message.into()));
        }
        for (name, share) in [("substituted", self.substituted), ("related", self.related)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(ModelError::Config(format!("{name} is {share}; it is a share, from 0 to 1")));
            }
        }
        Ok(())
    }

    fn parameters(&self, list: &mut ParameterList) {
        let (d, limits) = (self.inputs.item_dim(), self.inputs.limits);
        list.add("type_emb.weight".into(), &[2, d], SMALL);
        list.add("pos_emb.weight".into(), &[limits.recommendations + limits.searches, d], SMALL);
        for n in 0..self.num_blocks {
            list.norm(&format!("attention_layernorms.{n}"), d);
            for part in ["linear_layers.0", "linear_layers.1", "linear_layers.2", "output_linear"] {
                list.linear(&format!("attention_layers.{n}.{part}"), d, d);
            }
            list.norm(&format!("forward_layernorms.{n}"), d);
            for part in ["conv1", "conv2"] {
                list.linear(&format!("forward_layers.{n}.{part}"), d, d);
            }
        }
        list.norm("last_layernorm", d);
    }

    fn batch_plan(&self) -> BatchPlan {
        let examples = match self.loss {
            Objective::Bce => Examples::Clicks,
            Objective::Own => Examples::Sequences,
        };
        let extras = match self.substituted {
            0.0 => Extras::None,
            share => Extras::Substitutes(Substitution { share, related: self.related }),
        };
        BatchPlan { examples, extras, ..BatchPlan::default() }
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<QuerySeqRec, ModelError> {
        let eps = self.layer_norm_eps;
        let block = |n: usize| {
            let part = |name: &str| weights.linear(&format!("attention_layers.{n}.{name}"));
            Ok::<_, ModelError>(Block {
                query_norm: weights.layer_norm(&format!("attention_layernorms.{n}"), eps)?,
                attention: CausalAttention {
                    query: part("linear_layers.0")?,
                    key: part("linear_layers.1")?,
                    value: part("linear_layers.2")?,
                    output: part("output_linear")?,
                    heads: self.num_heads,
                },
                norm: weights.layer_norm(&format!("forward_layernorms.{n}"), eps)?,
                dense_1: weights.linear(&format!("forward_layers.{n}.conv1"))?,
                dense_2: weights.linear(&format!("forward_layers.{n}.conv2"))?,
            })
        };
        Ok(QuerySeqRec {
            positions: weights.get("pos_emb.weight")?,
            types: weights.get("type_emb.weight")?,
            blocks: (0..self.num_blocks).map(block).collect::<std::result::Result<_, _>>()?,
            norm: weights.layer_norm("last_layernorm", eps)?,
            loss: self.loss,
        })
    }
}

/// Query-SeqRec over given tensors.
#[derive(Debug, Clone)]
pub struct QuerySeqRec {
    positions: Tensor,
    types: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    loss: Objective,
}

#[derive(Debug, Clone)]
struct Block {
    query_norm: LayerNorm,
    attention: CausalAttention,
    norm: LayerNorm,
    dense_1: Linear,
    dense_2: Linear,
}

/// What a block makes of a sequence; only real positions mean something.
#[derive(Debug, Clone)]
pub struct MixedStates {
    /// `[B, H, L, L]`.
    pub attention: Tensor,
    /// `[B, L, d]`: the attention's output.
    pub attended: Tensor,
    /// `[B, L, d]`: its layer norm.
    pub normalised: Tensor,
    /// `[B, L, d]`: the block's output.
    pub output: Tensor,
}

/// A sequence's states `[B, L, d]`.
#[derive(Debug, Clone)]
pub struct Mixed {
    /// Tokens with positions and types.
    pub embedded: Tensor,
    /// By block.
    pub blocks: Vec<MixedStates>,
    /// After the last layer norm.
    pub output: Tensor,
}

impl QuerySeqRec {
    /// `tokens [B, L, d]`, padded on the right; `types [B, L]` are 1 for queries.
    pub fn forward(&self, tokens: &Tensor, types: &[u32], dropout: &mut Dropout) -> Result<Mixed> {
        let (users, length, _) = tokens.dims3()?;
        let types = gather_rows_as(&self.types, types, &[users, length], RowZero::Learns)?;
        let positions = self.positions.narrow(0, 0, length)?; // [L, d]
        let embedded = (tokens + types)?.broadcast_add(&positions)?;
        let mut h = dropout.apply(&embedded)?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (attended, attention) = block.attention.attend(&block.query_norm.forward(&h)?, &h, dropout)?;
            // The input is not added again: so it is in the publication's code.
            let normalised = block.norm.forward(&attended)?;
            let hidden = relu(&dropout.apply(&block.dense_1.forward(&normalised)?)?)?;
            let out = dropout.apply(&block.dense_2.forward(&hidden)?)?;
            h = ((&normalised * 2.0)? + out)?;
            blocks.push(MixedStates { attention, attended, normalised, output: h.clone() });
        }
        Ok(Mixed { embedded, blocks, output: self.norm.forward(&h)? })
    }

    /// Every position's state `[B, L, d]`, and the sequences behind them.
    fn states(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<(Tensor, Sequences)> {
        let sequences = Sequences::of(history.batch());
        let searches = (history.queries()? + history.sources()?)?; // [B, Ls, d]
        let events = Tensor::cat(&[history.items()?, searches], 1)?; // [B, Lr + Ls, d]
        let leading = [events.dim(0)?, sequences.length];
        let tokens = gather_rows_as(&events, &sequences.events, &leading, RowZero::Learns)?;
        Ok((self.forward(&tokens, &sequences.types, dropout)?.output, sequences))
    }

    /// Softmax cross-entropy over `items [I, d]` of the item rows that follow given places of `states [B, L, d]`.
    pub fn next_item_loss(states: &Tensor, items: &Tensor, places: &[u32], next: &[u32]) -> Result<Tensor> {
        let states = gather_rows(states, places, RowZero::Learns)?;
        cross_entropy(&states.matmul(&items.t()?)?, next)
    }
}

impl Network for QuerySeqRec {
    type Users = Tensor;

    fn encode(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        let (states, sequences) = self.states(history, dropout)?;
        newest(&states, &sequences.lengths)
    }

    fn logits(&self, users: &Tensor, candidates: &Candidates<'_>, _: &mut Dropout) -> Result<Tensor> {
        dot(users, &candidates.vectors)
    }

    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        if self.loss == Objective::Bce {
            return step.binary_cross_entropy(dropout);
        }
        let history = step.history();
        let (states, sequences) = self.states(&history, dropout)?;
        let TrainingBatch { original_items, positives, .. } = step.batch();
        let clicked = if original_items.is_empty() { &history.batch().rec_items } else { original_items };
        let (places, next) = sequences.followed_by_items(history.batch(), clicked, positives);
        let loss = Self::next_item_loss(&states, &step.all_items(dropout)?, &places, &next)?;
        Ok(Losses { total: loss.clone(), parts: vec![("next_item", loss)] })
    }
}

/// Both histories of each user as one, by time, padded on the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// Padded length L.
    pub length: usize,
    /// Real events per user `[B]`.
    pub lengths: Vec<usize>,
    /// `[B, L]`: where each event is among the rows of recommendations and searches side by side, `[B, Lr + Ls]`.
    pub events: Vec<u32>,
    /// `[B, L]`: 1 for searches, else 0.
    pub types: Vec<u32>,
}

impl Sequences {
    /// A search stands before the first recommendation that is later than it.
    pub fn of(batch: &HistoryBatch) -> Self {
        let lengths: Vec<usize> = batch.rec_lengths.iter().zip(&batch.src_lengths).map(|(r, s)| r + s).collect();
        let length = lengths.iter().copied().max().unwrap_or(0).max(1);
        let (mut events, mut types) = (vec![], vec![]);
        for user in 0..batch.users() {
            let first = user * (batch.rec_len + batch.src_len);
            let places = &batch.src_places[user * batch.src_len..][..batch.src_lengths[user]];
            let mut searches = places.iter().enumerate().peekable();
            let recommendations = batch.rec_lengths[user];
            for item in 0..=recommendations {
                let last = item == recommendations;
                while let Some((search, _)) = searches.next_if(|&(_, &place)| last || place as usize <= item) {
                    events.push((first + batch.rec_len + search) as u32);
                    types.push(1);
                }
                if !last {
                    events.push((first + item) as u32);
                    types.push(0);
                }
            }
            events.resize((user + 1) * length, first as u32);
            types.resize((user + 1) * length, 0);
        }
        Self { length, lengths, events, types }
    }

    /// The places after which an item comes, and its row, from all `clicked [B, Lr]` in the history and the `last`,
    /// after it.
    fn followed_by_items(&self, batch: &HistoryBatch, clicked: &[u32], last: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let (mut places, mut next) = (vec![], vec![]);
        for (user, &length) in self.lengths.iter().enumerate() {
            let first = user * self.length;
            for place in first..first + length {
                let item = if place + 1 == first + length {
                    Some(last[user])
                } else {
                    let at = self.events[place + 1] as usize - user * (batch.rec_len + batch.src_len);
                    clicked[user * batch.rec_len..][..batch.rec_len].get(at).copied()
                };
                if let Some(item) = item {
                    places.push(place as u32);
                    next.push(item);
                }
            }
        }
        (places, next)
    }
}
