//! Rows of tables, and means over rows, with row-wise backward passes.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};

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

/// `table [.., d]`, n ids of its rows → `[n, d]`. Ids are checked on the host: a wrong one would poison a CUDA context.
pub fn gather_rows(table: &Tensor, ids: &[u32], row_zero: RowZero) -> Result<Tensor> {
    gather_rows_as(table, ids, &[ids.len()], row_zero)
}

/// The same as `[leading.., d]`: reshaping it afterwards would be one more operator in the backward pass.
pub fn gather_rows_as(table: &Tensor, ids: &[u32], leading: &[usize], row_zero: RowZero) -> Result<Tensor> {
    let shape = looked_up(table, ids, (leading, 1))?;
    if table.device().is_cpu() {
        return table.contiguous()?.apply_op1(Gather { ids: ids.into(), row_zero, shape });
    }
    let (device, d) = (table.device(), table.dim(D::Minus1)?);
    let rows = table.reshape(((), d))?.index_select(&Tensor::new(ids, device)?, 0)?;
    if row_zero == RowZero::Learns || !ids.contains(&0) {
        return rows.reshape(shape);
    }
    let learns: Vec<f32> = ids.iter().map(|&id| f32::from(u8::from(id != 0))).collect();
    let learns = Tensor::from_vec(learns, (ids.len(), 1), device)?;
    let frozen = rows.detach().broadcast_mul(&(1.0 - &learns)?)?;
    (rows.broadcast_mul(&learns)? + frozen)?.reshape(shape)
}

/// The mean of each group's rows: `table [rows, d]`, ids `[n, group]` → `[n, d]`. Id 0 means "none"; a mean over none
/// is 0, and row 0 gets no gradient.
pub fn mean_rows(table: &Tensor, ids: &[u32], group: usize) -> Result<Tensor> {
    mean_rows_as(table, ids, group, &[ids.len().checked_div(group).unwrap_or(0)])
}

/// The same as `[leading.., d]`.
pub fn mean_rows_as(table: &Tensor, ids: &[u32], group: usize, leading: &[usize]) -> Result<Tensor> {
    let shape = looked_up(table, ids, (leading, group))?;
    if table.device().is_cpu() {
        return table.contiguous()?.apply_op1(Mean { ids: ids.into(), group, shape });
    }
    let (device, d) = (table.device(), table.dim(1)?);
    let groups = ids.len().checked_div(group).unwrap_or(0);
    let weights: Vec<f32> = ids
        .chunks(group.max(1))
        .flat_map(|ids| {
            let count = ids.iter().filter(|&&id| id != 0).count().max(1) as f32;
            ids.iter().map(move |&id| if id == 0 { 0.0 } else { 1.0 / count })
        })
        .collect();
    let weights = Tensor::from_vec(weights, (groups, group, 1), device)?;
    let rows = table.index_select(&Tensor::new(ids, device)?, 0)?.reshape((groups, group, d))?;
    rows.broadcast_mul(&weights)?.sum(1)?.reshape(shape)
}

/// `[leading.., d]`, the shape of what is looked up in `table [.., d]` by groups of ids.
fn looked_up(table: &Tensor, ids: &[u32], (leading, group): (&[usize], usize)) -> Result<Shape> {
    if table.dtype() != DType::F32 {
        bail!("expected an f32 table, got {:?}", table.dtype())
    }
    let d = table.dim(D::Minus1)?;
    let rows = table.elem_count().checked_div(d).unwrap_or(0);
    if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
        bail!("row {id} of a table with {rows} rows")
    }
    if leading.iter().product::<usize>() * group != ids.len() {
        bail!("{} rows, {group} each, as {leading:?}", ids.len())
    }
    Ok([leading, &[d]].concat().into())
}

struct Gather {
    ids: Arc<[u32]>,
    row_zero: RowZero,
    shape: Shape,
}

impl CustomOp1 for Gather {
    fn name(&self) -> &'static str {
        "gather-rows"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (table, d) = (host::floats(storage, layout)?, width(&self.shape));
        let mut out = Vec::with_capacity(self.ids.len() * d);
        for &id in self.ids.iter() {
            out.extend_from_slice(&table[id as usize * d..(id as usize + 1) * d]);
        }
        Ok((CpuStorage::F32(out), self.shape.clone()))
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
    shape: Shape,
}

/// Of rows.
fn width(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(0)
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
        let (table, d) = (host::floats(storage, layout)?, width(&self.shape));
        let mut out = vec![0.0; self.shape.elem_count()];
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
        Ok((CpuStorage::F32(out), self.shape.clone()))
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
