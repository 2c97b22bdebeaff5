//! Access to CPU tensors from own operators, and their parallel loops.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::scratch::with_scratch;

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
/// operations a value takes. What the calls return, in the order of the chunks.
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

/// `len` values that `body(n, chunk)` makes, chunk by chunk; it finds anything there and has to write all. `cost` as in
/// [`map_chunks`].
pub(super) fn make(len: usize, chunk: usize, cost: usize, body: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    make_and(len, chunk, cost, body).0
}

/// The same, and what the calls return, in the order of the chunks.
pub(super) fn make_and<R: Send>(
    len: usize,
    chunk: usize,
    cost: usize,
    body: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> (Vec<f32>, Vec<R>) {
    if rayon::current_num_threads() > 1 {
        let mut values = vec![0.0; len];
        let results = map_chunks(&mut values, chunk, cost, body);
        return (values, results);
    }
    // A chunk is made in memory that is in the cache, and goes to where it stays once: clearing that first, or copying
    // an operator's argument there, would be one more way through all of it.
    let chunk = chunk.clamp(1, len.max(1));
    let mut values = Vec::with_capacity(len);
    let results = with_scratch([chunk], |[scratch]| {
        let mut results = Vec::with_capacity(len.div_ceil(chunk));
        while values.len() < len {
            let made = &mut scratch[..chunk.min(len - values.len())];
            results.push(body(results.len(), made));
            values.extend_from_slice(made);
        }
        results
    });
    (values, results)
}

/// The same for a result that begins as a copy of `values`: `body` finds that in what it has to make.
pub(super) fn change_and<R: Send>(
    values: &[f32],
    chunk: usize,
    cost: usize,
    body: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> (Vec<f32>, Vec<R>) {
    make_and(values.len(), chunk, cost, |number, out| {
        out.copy_from_slice(&values[number * chunk..][..out.len()]);
        body(number, out)
    })
}

/// How many rows to handle together, so that a piece of work is neither tiny nor larger than a share of a thread.
pub(super) fn rows_per_chunk(rows: usize, row: usize) -> usize {
    let wanted = (1 << 12) / row.max(1);
    wanted.clamp(1, rows.max(1))
}
