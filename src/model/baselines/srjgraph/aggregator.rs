//! A node from its neighbours, as the pair that is scored sees it.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::sigmoid;

use crate::{
    model::{ModelError, ParameterList, Weights},
    nn::{
        LayerNorm, Linear, Mask, add_row, batch_matmul, batch_matmul_transposed, leaky_relu, masked_softmax, project,
    },
};

/// Of all leaky ReLUs (Keras' default).
const SLOPE: f32 = 0.3;
/// Keeps a mean over nothing finite.
const MEAN_EPS: f64 = 1e-6;

/// Attention over the edges beside a linear branch over the nodes, joined by a gate. Vectors of an edge (user, query,
/// item) are E wide, those of a node n.
#[derive(Debug, Clone)]
pub struct Aggregator {
    target: Linear,
    query: Linear,
    key: Linear,
    query_norm: LayerNorm,
    key_norm: LayerNorm,
    positions: Tensor,
    feed_forward: Linear,
    norm: LayerNorm,
    linear: Linear,
    gate_linear: Linear,
    gate_attention: Linear,
}

/// Neighbours of G nodes, as attention reads them.
#[derive(Debug, Clone, Copy)]
pub struct Neighbours<'a> {
    /// `[G, m, E]`, from [`Aggregator::keys`].
    pub keys: &'a Tensor,
    /// `[G, m, E]`.
    pub values: &'a Tensor,
    /// Real neighbours per node `[G]`.
    pub lengths: &'a [usize],
    /// `[G, E]`, from [`Aggregator::linear`].
    pub linear: &'a Tensor,
}

/// A node with its neighbours, `[G, C, E]`.
#[derive(Debug, Clone)]
pub struct Aggregate {
    /// The attention branch.
    pub attended: Tensor,
    /// Joined with the linear one.
    pub output: Tensor,
}

/// Sizes of an aggregator.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// n.
    pub node: usize,
    /// E.
    pub edge: usize,
    /// Rows of the table of positions.
    pub positions: usize,
}

impl Aggregator {
    pub(super) fn parameters(list: &mut ParameterList, name: &str, Sizes { node, edge, positions }: Sizes) {
        list.linear(&format!("{name}.target"), edge, 2 * edge);
        for part in ["query", "key", "feed_forward", "gate_linear", "gate_attention"] {
            list.linear(&format!("{name}.{part}"), edge, edge);
        }
        for part in ["query_norm", "key_norm", "norm"] {
            list.norm(&format!("{name}.{part}"), edge);
        }
        list.linear(&format!("{name}.linear"), edge, node);
        list.xavier(format!("{name}.positions.weight"), &[positions, edge]);
    }

    pub(super) fn new(weights: &Weights<'_>, name: &str, eps: f64) -> std::result::Result<Self, ModelError> {
        let linear = |part: &str| weights.linear(&format!("{name}.{part}"));
        let norm = |part: &str| weights.layer_norm(&format!("{name}.{part}"), eps);
        Ok(Self {
            target: linear("target")?,
            query: linear("query")?,
            key: linear("key")?,
            query_norm: norm("query_norm")?,
            key_norm: norm("key_norm")?,
            positions: weights.get(&format!("{name}.positions.weight"))?,
            feed_forward: linear("feed_forward")?,
            norm: norm("norm")?,
            linear: linear("linear")?,
            gate_linear: linear("gate_linear")?,
            gate_attention: linear("gate_attention")?,
        })
    }

    /// Neighbours `[G, m, E]` as keys. Position 0 is the node's own edge, 1 the newest neighbour.
    pub fn keys(&self, values: &Tensor) -> Result<Tensor> {
        let (nodes, slots, edge) = values.dims3()?;
        let keys = self.keys_at(&values.reshape((nodes, slots * edge))?, 1, slots)?;
        keys.reshape((nodes, slots, edge))
    }

    /// Of rows `[r, slots · E]`, whose slots are at positions from `first` on. A position's share, `W p + b`, is one
    /// row for all of them: its gradient is a column sum.
    fn keys_at(&self, rows: &Tensor, first: usize, slots: usize) -> Result<Tensor> {
        let share = self.key.forward(&self.positions.narrow(0, first, slots)?)?; // [slots, E]
        let edges = rows.reshape((rows.elem_count() / share.dim(1)?, ()))?;
        let keys = add_row(&project(&edges, self.key.weight())?.reshape(rows.shape())?, &share.flatten_all()?)?;
        self.key_norm.forward(&keys.reshape(edges.shape())?)
    }

    /// The linear branch: nodes and their neighbours summed `[G, n]`, and how many these are → `[G, E]`.
    pub fn linear(&self, sums: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let shares: Vec<f32> = lengths.iter().map(|&n| (1.0 / ((1 + n) as f64 + MEAN_EPS)) as f32).collect();
        let mean = sums.broadcast_mul(&Tensor::from_vec(shares, (lengths.len(), 1), sums.device())?)?;
        self.linear.forward(&leaky_relu(&mean, SLOPE)?)
    }

    /// G nodes in C pairs each: the pairs' edges `target [G, C, E]`, and those by which the nodes were reached,
    /// `own [G, C, E]`.
    pub fn forward(&self, target: &Tensor, own: &Tensor, neighbours: Neighbours<'_>) -> Result<Aggregate> {
        let (_, pairs, edge) = own.dims3()?;
        let query = self.target.forward(&Tensor::cat(&[target, own], 2)?)?;
        let query = (self.query_norm.forward(&self.query.forward(&query)?)? * (1.0 / (edge as f64).sqrt()))?;
        let own_key = self.keys_at(&own.flatten_to(1)?, 0, 1)?.reshape(own.shape())?;
        let own_score = (&query * own_key)?.sum_keepdim(D::Minus1)?; // [G, C, 1]
        let scores = batch_matmul_transposed(&query, neighbours.keys)?; // [G, C, m]
        let slots: Vec<usize> = neighbours.lengths.iter().map(|&n| n + 1).collect();
        let slots = Mask::prefixes(&slots, scores.dim(2)? + 1);
        let attention = masked_softmax(&Tensor::cat(&[own_score, scores], 2)?, &slots)?; // [G, C, 1 + m]
        let (to_own, to_others) = (attention.narrow(2, 0, 1)?, attention.narrow(2, 1, slots.length() - 1)?);
        let context = (own.broadcast_mul(&to_own)? + batch_matmul(&to_others, neighbours.values)?)?; // [G, C, E]
        let attended = self.norm.forward(&(&context + self.feed_forward.forward(&context)?)?)?;

        let linear = neighbours.linear.unsqueeze(1)?; // [G, 1, E]
        let gate_attention = self.gate_attention.forward(&leaky_relu(&attended, SLOPE)?)?;
        let gate_linear = self.gate_linear.forward(&leaky_relu(&linear, SLOPE)?)?;
        let gate = sigmoid(&gate_attention.broadcast_mul(&gate_linear)?.mean_keepdim(D::Minus1)?)?; // [G, C, 1]
        // g l + (1 - g) a
        let linear = linear.broadcast_as((own.dim(0)?, pairs, edge))?;
        let output = (&attended + (linear - &attended)?.broadcast_mul(&gate)?)?;
        Ok(Aggregate { attended, output })
    }
}
