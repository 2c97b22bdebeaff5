//! Access to CPU tensors from own operators, and their parallel loops.

use candle_core::{CpuStorage, Layout, Result, Storage, bail};
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

/// Calls `body(n, chunk)` for consecutive chunks of `values`, in parallel where that pays: `cost` is roughly how many
/// operations a value takes.
pub(super) fn for_chunks(values: &mut [f32], chunk: usize, cost: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    if chunk == 0 {
        return;
    }
    if values.len().saturating_mul(cost) < PARALLEL_FROM || values.len() <= chunk {
        values.chunks_mut(chunk).enumerate().for_each(|(n, chunk)| body(n, chunk));
    } else {
        values.par_chunks_mut(chunk).enumerate().for_each(|(n, chunk)| body(n, chunk));
    }
}

/// How many rows to handle together, so that a piece of work is neither tiny nor larger than a share of a thread.
pub(super) fn rows_per_chunk(rows: usize, row: usize) -> usize {
    let wanted = (1 << 12) / row.max(1);
    wanted.clamp(1, rows.max(1))
}
