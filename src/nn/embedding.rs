//! Rows of tables, and means over rows, with row-wise backward passes.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use super::{
    host,
    row_gradients::{Destination, Scatter, scattered},
    vector::{self, vectorized},
};

/// What row 0 of a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowZero {
    /// A row like any other.
    Learns,
    /// Padding: it is read, but its gradient is zero.
    Frozen,
}

/// `table [rows, d]`, n ids → `[n, d]`. Ids are checked on the host: a wrong one would poison a CUDA context.
pub fn gather_rows(table: &Tensor, ids: &[u32], row_zero: RowZero) -> Result<Tensor> {
    check(table, ids)?;
    if table.device().is_cpu() {
        return table.contiguous()?.apply_op1(Gather { ids: ids.into(), row_zero });
    }
    let device = table.device();
    let rows = table.index_select(&Tensor::new(ids, device)?, 0)?;
    if row_zero == RowZero::Learns || !ids.contains(&0) {
        return Ok(rows);
    }
    let learns: Vec<f32> = ids.iter().map(|&id| f32::from(u8::from(id != 0))).collect();
    let learns = Tensor::from_vec(learns, (ids.len(), 1), device)?;
    let frozen = rows.detach().broadcast_mul(&(1.0 - &learns)?)?;
    rows.broadcast_mul(&learns)? + frozen
}

/// The mean of each group's rows: `table [rows, d]`, ids `[n, group]` → `[n, d]`. Id 0 means "none"; a mean over none
/// is 0, and row 0 gets no gradient.
pub fn mean_rows(table: &Tensor, ids: &[u32], group: usize) -> Result<Tensor> {
    check(table, ids)?;
    let (groups, d) = (ids.len().checked_div(group).unwrap_or(0), table.dim(1)?);
    if table.device().is_cpu() {
        return table.contiguous()?.apply_op1(Mean { ids: ids.into(), group });
    }
    let device = table.device();
    let weights: Vec<f32> = ids
        .chunks(group.max(1))
        .flat_map(|ids| {
            let count = ids.iter().filter(|&&id| id != 0).count().max(1) as f32;
            ids.iter().map(move |&id| if id == 0 { 0.0 } else { 1.0 / count })
        })
        .collect();
    let weights = Tensor::from_vec(weights, (groups, group, 1), device)?;
    let rows = table.index_select(&Tensor::new(ids, device)?, 0)?.reshape((groups, group, d))?;
    rows.broadcast_mul(&weights)?.sum(1)
}

fn check(table: &Tensor, ids: &[u32]) -> Result<()> {
    let rows = table.dim(0)?;
    if table.dtype() != DType::F32 {
        bail!("expected an f32 table, got {:?}", table.dtype())
    }
    match ids.iter().find(|&&id| id as usize >= rows) {
        Some(id) => bail!("row {id} of a table with {rows} rows"),
        None => Ok(()),
    }
}

struct Gather {
    ids: Arc<[u32]>,
    row_zero: RowZero,
}

impl CustomOp1 for Gather {
    fn name(&self) -> &'static str {
        "gather-rows"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (table, d) = (host::floats(storage, layout)?, layout.dims()[1]);
        let mut out = Vec::with_capacity(self.ids.len() * d);
        for &id in self.ids.iter() {
            out.extend_from_slice(&table[id as usize * d..(id as usize + 1) * d]);
        }
        Ok((CpuStorage::F32(out), (self.ids.len(), d).into()))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        scattered(self, table, gradient)
    }
}

impl Scatter for Gather {
    #[inline(always)]
    fn scatter(&self, values: &[f32], d: usize, destination: &mut impl Destination) {
        for (&id, values) in self.ids.iter().zip(values.chunks_exact(d)) {
            if id != 0 || self.row_zero == RowZero::Learns {
                vector::add_scaled(destination.row(id, d), values, 1.0);
            }
        }
    }
}

struct Mean {
    ids: Arc<[u32]>,
    group: usize,
}

impl Mean {
    /// Calls `body(group, id, 1 / count)` for every id that counts.
    #[inline(always)]
    fn for_each(&self, mut body: impl FnMut(usize, usize, f32)) {
        for (n, ids) in self.ids.chunks(self.group.max(1)).enumerate() {
            let count = ids.iter().filter(|&&id| id != 0).count();
            for &id in ids.iter().filter(|&&id| id != 0) {
                body(n, id as usize, 1.0 / count as f32);
            }
        }
    }
}

impl CustomOp1 for Mean {
    fn name(&self) -> &'static str {
        "mean-rows"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (table, d) = (host::floats(storage, layout)?, layout.dims()[1]);
        let groups = self.ids.len().checked_div(self.group).unwrap_or(0);
        let mut out = vec![0.0; groups * d];
        vectorized(
            #[inline(always)]
            || {
                self.for_each(
                    #[inline(always)]
                    |n, id, weight| {
                        vector::add_scaled(&mut out[n * d..(n + 1) * d], &table[id * d..(id + 1) * d], weight);
                    },
                )
            },
        );
        Ok((CpuStorage::F32(out), (groups, d).into()))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        scattered(self, table, gradient)
    }
}

impl Scatter for Mean {
    #[inline(always)]
    fn scatter(&self, values: &[f32], d: usize, destination: &mut impl Destination) {
        self.for_each(
            #[inline(always)]
            |n, id, weight| vector::add_scaled(destination.row(id as u32, d), &values[n * d..(n + 1) * d], weight),
        );
    }
}
