//! Users with the items that they clicked, ready to be attended to.

use candle_core::{Result, Tensor};

use super::{Aggregator, Neighbours};
use crate::{
    model::baselines::Users,
    nn::{RowZero, gather_rows, real_positions},
};

/// D users and their newest clicks, padded to m. Everything that doesn't depend on a pair is computed.
#[derive(Debug, Clone)]
pub struct Neighbourhoods {
    /// `[D, n]`: the users themselves.
    pub nodes: Tensor,
    /// `[D, m, E]`.
    keys: Tensor,
    /// `[D, m, E]`.
    values: Tensor,
    /// `[D, E]`.
    linear: Tensor,
    /// `[D]`.
    lengths: Vec<usize>,
}

impl Neighbourhoods {
    /// Users `[D, n]`, their clicks' queries `[D, m, q]` and items `[D, m, n]`, newest first; of each user the first
    /// `lengths[d]` are real.
    pub fn new(
        aggregator: &Aggregator,
        nodes: Tensor,
        queries: &Tensor,
        items: &Tensor,
        lengths: Vec<usize>,
    ) -> Result<Self> {
        let (users, length, width) = items.dims3()?;
        let own = nodes.unsqueeze(1)?.broadcast_as((users, length, width))?;
        let values = Tensor::cat(&[&own, queries, items], 2)?; // [D, m, E]
        let real = real_positions(&lengths, length, nodes.device())?; // [D, m, 1]
        let sums = (&nodes + items.broadcast_mul(&real)?.sum(1)?)?; // [D, n]
        let (keys, linear) = (aggregator.keys(&values)?, aggregator.linear(&sums, &lengths)?);
        Ok(Self { nodes, keys, values, linear, lengths })
    }

    /// How many users there are.
    pub fn users(&self) -> usize {
        self.lengths.len()
    }

    /// As attention reads them.
    pub fn neighbours(&self) -> Neighbours<'_> {
        Neighbours { keys: &self.keys, values: &self.values, lengths: &self.lengths, linear: &self.linear }
    }

    /// Some of them, as often as they are named.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        let (users, length, width) = self.keys.dims3()?;
        let edges = |x: &Tensor| {
            let flat = x.reshape((users, length * width))?;
            gather_rows(&flat, rows, RowZero::Learns)?.reshape((rows.len(), length, width))
        };
        Ok(Self {
            nodes: gather_rows(&self.nodes, rows, RowZero::Learns)?,
            keys: edges(&self.keys)?,
            values: edges(&self.values)?,
            linear: gather_rows(&self.linear, rows, RowZero::Learns)?,
            lengths: rows.iter().map(|&row| self.lengths[row as usize]).collect(),
        })
    }

    /// Side by side.
    pub(super) fn cat(parts: &[Self]) -> Result<Self> {
        let all = |tensor: fn(&Self) -> &Tensor| Tensor::cat(&parts.iter().map(tensor).collect::<Vec<_>>(), 0);
        Ok(Self {
            nodes: all(|part| &part.nodes)?,
            keys: all(|part| &part.keys)?,
            values: all(|part| &part.values)?,
            linear: all(|part| &part.linear)?,
            lengths: parts.iter().flat_map(|part| &part.lengths).copied().collect(),
        })
    }
}

/// The users who clicked the items of P pairs before.
#[derive(Debug)]
pub struct Hops {
    /// The users.
    pub users: Neighbourhoods,
    /// Per pair, which of them; `None` where nobody had clicked the item yet.
    pub of_pair: Vec<Option<u32>>,
    /// `[P, q]`: the queries of their clicks.
    pub queries: Tensor,
}

/// Users that are asked for, with their own clicks.
#[derive(Debug, Clone)]
pub struct GraphUsers {
    /// B of them.
    pub(super) neighbourhoods: Neighbourhoods,
    /// When each is asked for.
    pub(super) as_of: Vec<Option<i64>>,
}

impl Users for GraphUsers {
    fn user(&self, n: usize) -> Result<Self> {
        let Neighbourhoods { nodes, keys, values, linear, lengths } = &self.neighbourhoods;
        // Attention wants at least one slot, real or not.
        let length = lengths[n].max(1);
        let neighbourhoods = Neighbourhoods {
            // Not `copy`, which would take the others' memory along.
            nodes: nodes.narrow(0, n, 1)?.force_contiguous()?,
            keys: keys.narrow(0, n, 1)?.narrow(1, 0, length)?.force_contiguous()?,
            values: values.narrow(0, n, 1)?.narrow(1, 0, length)?.force_contiguous()?,
            linear: linear.narrow(0, n, 1)?.force_contiguous()?,
            lengths: vec![lengths[n]],
        };
        Ok(Self { neighbourhoods, as_of: vec![self.as_of[n]] })
    }

    fn bytes(&self) -> usize {
        let Neighbourhoods { nodes, keys, values, linear, lengths } = &self.neighbourhoods;
        let tensors: usize = [nodes, keys, values, linear].into_iter().map(Users::bytes).sum();
        tensors + lengths.len() * size_of::<usize>() + self.as_of.len() * size_of::<Option<i64>>()
    }
}
