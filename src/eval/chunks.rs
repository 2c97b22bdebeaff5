//! Many users through a model.

use candle_core::Device;
use rayon::prelude::*;

/// Users per call of the model on the CPU: chunks of this size go to the cores in parallel.
const CPU_CHUNK: usize = 64;
/// Users per call of the model on another device, which is filled by one call at a time.
const DEVICE_CHUNK: usize = 1024;

/// Results of chunks in order. On the CPU chunks are spread over the cores: matrices of so few users are too small to
/// be split themselves.
pub(crate) fn in_chunks<T: Sync, R: Send, E: Send>(
    device: &Device,
    users: &[T],
    chunk: impl Fn(&[T]) -> Result<Vec<R>, E> + Send + Sync,
) -> Result<Vec<R>, E> {
    let chunks: Vec<Vec<R>> = match device {
        Device::Cpu => users.par_chunks(CPU_CHUNK).map(chunk).collect::<Result<_, _>>()?,
        _ => users.chunks(DEVICE_CHUNK).map(chunk).collect::<Result<_, _>>()?,
    };
    Ok(chunks.into_iter().flatten().collect())
}
