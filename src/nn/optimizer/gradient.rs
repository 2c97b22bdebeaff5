//! The gradients of a step: whole or by row, and checked before anything moves.

use candle_core::{CpuStorage, Layout, Storage, Tensor};
use rayon::prelude::*;

use super::{OptimizerError, step::CHUNK};
use crate::nn::{
    Gradients, Parameters,
    row_gradients::{RowGradient, TableGradient},
};

/// One parameter's.
pub(super) enum Gradient<'a> {
    Dense(Tensor),
    /// Collected from lookups.
    Whole(&'a [f32]),
    /// Zero but for these rows, which alone are stepped.
    Rows(&'a RowGradient),
}

impl<'a> Gradient<'a> {
    /// Every parameter's gradient, contiguous and finite, in the parameters' order.
    pub(super) fn of_all(parameters: &Parameters, gradients: &'a Gradients) -> Result<Vec<Self>, OptimizerError> {
        let found: Vec<Self> = parameters
            .iter()
            .map(|(name, var)| match (gradients.dense(var), gradients.looked_up(var)) {
                (Some(dense), None) => Ok(Self::Dense(dense.contiguous()?)),
                (None, Some(TableGradient::Whole(values))) => Ok(Self::Whole(values)),
                (None, Some(TableGradient::Rows(rows))) => Ok(Self::Rows(rows)),
                (Some(dense), Some(looked_up)) => {
                    let mut sum: Vec<f32> = dense.flatten_all()?.to_vec1()?;
                    looked_up.add_to(&mut sum);
                    Ok(Self::Dense(Tensor::from_vec(sum, dense.shape(), dense.device())?))
                }
                (None, None) => Err(OptimizerError::MissingGradient(name.to_owned())),
            })
            .collect::<Result<_, OptimizerError>>()?;
        for ((name, _), gradient) in parameters.iter().zip(&found) {
            let finite = match gradient {
                Self::Dense(gradient) => is_finite(gradient)?,
                Self::Whole(values) => all_finite(values),
                Self::Rows(rows) => all_finite(rows.values()),
            };
            if !finite {
                return Err(OptimizerError::NonFinite(name.to_owned()));
            }
        }
        Ok(found)
    }
}

fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    if !tensor.device().is_cpu() {
        // x * 0 is 0 for every finite x, else NaN; one number crosses to the host.
        return Ok((tensor * 0.0)?.sum_all()?.to_scalar::<f32>()? == 0.0);
    }
    let (storage, layout) = tensor.storage_and_layout();
    Ok(all_finite(host_slice(&storage, layout)?))
}

/// Whether there is no NaN and no infinity among them.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    let arch = pulp::Arch::new();
    // Of the bits without the sign, those of infinities and NaN are the largest: an integer maximum, which vectorises.
    let largest = |chunk: &[f32]| {
        arch.dispatch(|| chunk.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7fff_ffff)))
    };
    values.par_chunks(CHUNK).all(|chunk| largest(chunk) < 0x7f80_0000)
}

/// The values of a tensor in host memory, where they lie.
pub(super) fn host_slice<'a>(storage: &'a Storage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(&values[start..end]),
        _ => {
            candle_core::bail!("optimizer: a gradient must be contiguous, of 32-bit floats, and where its parameter is")
        }
    }
}
