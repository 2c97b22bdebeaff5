//! Users with the items that they clicked, ready to be attended to.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Aggregator, Neighbours};
use crate::{
    model::baselines::Users,
    nn::{Mask, RowZero, batch_matmul, gather_rows, gather_rows_as},
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
    /// `[D]`; like the tensors, clones share it.
    lengths: Arc<[usize]>,
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
        let (users, length, _) = items.dims3()?;
        let owners: Vec<u32> = (0..users as u32).flat_map(|user| std::iter::repeat_n(user, length)).collect();
        let own = gather_rows_as(&nodes, &owners, &[users, length], RowZero::Learns)?;
        let values = Tensor::cat(&[&own, queries, items], 2)?; // [D, m, E]
        let real = Mask::prefixes(&lengths, length).tensor(nodes.device())?.unsqueeze(1)?; // [D, 1, m]
        let sums = (&nodes + batch_matmul(&real, items)?.squeeze(1)?)?; // [D, n]
        let (keys, linear) = (aggregator.keys(&values)?, aggregator.linear(&sums, &lengths)?);
        Ok(Self { nodes, keys, values, linear, lengths: lengths.into() })
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

    /// Side by side, padded to the longest.
    pub(super) fn cat(parts: &[Self]) -> Result<Self> {
        let lengths = parts.iter().map(|part| part.keys.dim(1)).collect::<Result<Vec<_>>>()?;
        let length = lengths.iter().copied().max().unwrap_or(0);
        let users = |tensor: fn(&Self) -> &Tensor| Tensor::cat(&parts.iter().map(tensor).collect::<Vec<_>>(), 0);
        let edges = |tensor: fn(&Self) -> &Tensor| {
            let padded = parts.iter().map(tensor).zip(&lengths).map(|(x, &n)| x.pad_with_zeros(1, 0, length - n));
            Tensor::cat(&padded.collect::<Result<Vec<_>>>()?, 0)
        };
        Ok(Self {
            nodes: users(|part| &part.nodes)?,
            keys: edges(|part| &part.keys)?,
            values: edges(|part| &part.values)?,
            linear: users(|part| &part.linear)?,
            lengths: parts.iter().flat_map(|part| &*part.lengths).copied().collect(),
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
            lengths: Arc::from([lengths[n]]),
        };
        Ok(Self { neighbourhoods, as_of: vec![self.as_of[n]] })
    }

    fn bytes(&self) -> usize {
        let Neighbourhoods { nodes, keys, values, linear, lengths } = &self.neighbourhoods;
        let tensors: usize = [nodes, keys, values, linear].into_iter().map(Users::bytes).sum();
        tensors + lengths.len() * size_of::<usize>() + self.as_of.len() * size_of::<Option<i64>>()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn neighbourhoods(lengths: &[usize], slots: usize) -> Result<Neighbourhoods> {
        let random = |shape: &[usize]| Tensor::randn(0_f32, 1.0, shape, &Device::Cpu);
        let users = lengths.len();
        Ok(Neighbourhoods {
            nodes: random(&[users, 2])?,
            keys: random(&[users, slots, 3])?,
            values: random(&[users, slots, 3])?,
            linear: random(&[users, 3])?,
            lengths: lengths.into(),
        })
    }

    #[test]
    fn slices_of_different_lengths_become_one() -> Result<()> {
        let parts = [neighbourhoods(&[2, 0], 2)?, neighbourhoods(&[4], 4)?];
        let all = Neighbourhoods::cat(&parts)?;
        assert_eq!((all.keys.dims(), &all.lengths[..]), (&[3, 4, 3][..], &[2, 0, 4][..]));
        let picked = all.select(&[2, 0])?;
        assert_eq!(*picked.lengths, [4, 2]);
        assert_eq!(picked.keys.get(0)?.to_vec2::<f32>()?, parts[1].keys.get(0)?.to_vec2::<f32>()?);
        assert_eq!(picked.values.get(1)?.to_vec2::<f32>()?[..2], parts[0].values.get(0)?.to_vec2::<f32>()?[..]);
        Ok(())
    }

    /// The engine's cache counts what a state occupies: nothing of the other users is kept along.
    #[test]
    fn a_user_is_without_the_others() -> Result<()> {
        let users = GraphUsers { neighbourhoods: neighbourhoods(&[4, 1, 0], 4)?, as_of: vec![None, Some(3), None] };
        let user = users.user(1)?;
        assert_eq!((user.neighbourhoods.keys.dims(), user.as_of), (&[1, 1, 3][..], vec![Some(3)]));
        for tensor in [&user.neighbourhoods.keys, &user.neighbourhoods.nodes] {
            let (storage, _) = tensor.storage_and_layout();
            let candle_core::Storage::Cpu(candle_core::CpuStorage::F32(values)) = &*storage else {
                panic!("on the CPU")
            };
            assert_eq!(values.len(), tensor.elem_count());
        }
        assert_eq!(users.user(2)?.neighbourhoods.keys.dims(), [1, 1, 3], "attention wants a slot");
        Ok(())
    }
}
