//! Access to CPU tensors from own operators, and their parallel loops.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// Work items below which a loop stays on the calling thread: handing out work costs about ten microseconds.
const PARALLEL_FROM: usize = 1 << 14;

/// The contiguous values of an operator's argument.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("expected a contiguous tensor, got {:?}", layout.shape()),
    }
}

/// The contiguous values of a tensor on the CPU, from [`candle_core::Tensor::storage_and_layout`].
pub(super) fn stored<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => floats(storage, layout),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// The values of a contiguous tensor of 32-bit floats on the CPU, borrowed.
pub(crate) fn values(tensor: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    let (storage, layout) = tensor.storage_and_layout();
    // Fails for what the range below would not fit.
    stored(&storage, layout)?;
    let (start, end) = layout.contiguous_offsets().unwrap_or_default();
    Ok(Values { storage, range: start..end })
}

/// A guard of a tensor's storage, whose type has no public name, and where the tensor lies in it.
struct Values<G> {
    storage: G,
    range: Range<usize>,
}

impl<G: Deref<Target = Storage>> Deref for Values<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked when it was borrowed"),
        }
    }
}

/// Calls `body(n, chunk)` for consecutive chunks of `values`, in parallel where that pays: `cost` is roughly how many
/// operations a value takes.
pub(super) fn for_chunks(values: &mut [f32], chunk: usize, cost: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    map_chunks(values, chunk, cost, body);
}

/// The same; what the calls return, in the order of the chunks.
pub(super) fn map_chunks<R: Send>(
    values: &mut [f32],
    chunk: usize,
    cost: usize,
    body: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> Vec<R> {
    if chunk == 0 {
        return vec![];
    }
    let alone = values.len().saturating_mul(cost) < PARALLEL_FROM || values.len() <= chunk;
    // With one thread in the pool, that one would do the work while this one waits.
    if alone || rayon::current_num_threads() == 1 {
        values.chunks_mut(chunk).enumerate().map(|(n, chunk)| body(n, chunk)).collect()
    } else {
        values.par_chunks_mut(chunk).enumerate().map(|(n, chunk)| body(n, chunk)).collect()
    }
}

/// How many rows to handle together, so that a piece of work is neither tiny nor larger than a share of a thread.
pub(super) fn rows_per_chunk(rows: usize, row: usize) -> usize {
    let wanted = (1 << 12) / row.max(1);
    wanted.clamp(1, rows.max(1))
}
