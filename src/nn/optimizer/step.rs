//! The step of one parameter: one pass in place on the CPU, tensor operations elsewhere.

use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, Var};
use rayon::prelude::*;

use super::AdamOptions;

/// Values that one task updates: four streams of 128 kB, which stay in a core's second-level cache.
pub(super) const CHUNK: usize = 32 * 1024;

/// What one step multiplies with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Constants {
    l2: f32,
    /// 1 - beta1
    first_rate: f32,
    beta2: f32,
    /// 1 - beta2
    second_rate: f32,
    /// learning rate / (1 - beta1^t)
    step_size: f32,
    /// 1 / sqrt(1 - beta2^t)
    root_scale: f32,
    epsilon: f32,
}

impl Constants {
    pub(super) fn at_step(options: AdamOptions, step: u64) -> Self {
        let AdamOptions { learning_rate, beta1, beta2, epsilon, l2, lazy: _ } = options;
        Self {
            l2: l2 as f32,
            first_rate: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            second_rate: (1.0 - beta2) as f32,
            step_size: (learning_rate / (1.0 - beta1.powf(step as f64))) as f32,
            root_scale: (1.0 / (1.0 - beta2.powf(step as f64)).sqrt()) as f32,
            epsilon: epsilon as f32,
        }
    }
}

/// The step of one parameter in host memory, as an in-place operation on its storage.
pub(super) struct HostStep<'a> {
    pub(super) constants: Constants,
    pub(super) gradient: &'a [f32],
    /// The rows that `gradient` is of; `None` if it is of all values.
    pub(super) rows: Option<&'a [u32]>,
    /// candle hands an operation out by shared reference; the lock is never contended.
    pub(super) moments: Mutex<(&'a mut Vec<f32>, &'a mut Vec<f32>)>,
}

impl InplaceOp1 for HostStep<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("adam: a parameter must be contiguous and of 32-bit floats")
        };
        let weights = &mut values[start..end];
        let mut moments = self.moments.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (first, second) = &mut *moments;
        let arch = pulp::Arch::new();
        if let Some(rows) = self.rows {
            let Some(d) = self.gradient.len().checked_div(rows.len()) else { return Ok(()) };
            arch.dispatch(|| {
                for (&row, gradient) in rows.iter().zip(self.gradient.chunks_exact(d)) {
                    let at = row as usize * d..(row as usize + 1) * d;
                    let moments = (&mut first[at.clone()], &mut second[at.clone()]);
                    update(self.constants, &mut weights[at], gradient, moments);
                }
            });
        } else if weights.len() <= CHUNK {
            arch.dispatch(|| update(self.constants, weights, self.gradient, (first, second)));
        } else {
            let chunks = weights.par_chunks_mut(CHUNK).zip(self.gradient.par_chunks(CHUNK));
            let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
            chunks.zip(moments).for_each(|((weights, gradient), moments)| {
                arch.dispatch(|| update(self.constants, weights, gradient, moments));
            });
        }
        Ok(())
    }
}

/// Algorithm 1 on slices of equal length; inlined into pulp's dispatch so that it is compiled for the CPU's widest
/// vectors.
#[inline(always)]
fn update(c: Constants, weights: &mut [f32], gradient: &[f32], (first, second): (&mut [f32], &mut [f32])) {
    let moments = first.iter_mut().zip(second);
    for ((weight, &gradient), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
        let gradient = gradient + c.l2 * *weight;
        *first += c.first_rate * (gradient - *first);
        *second = c.beta2 * *second + c.second_rate * gradient * gradient;
        *weight -= c.step_size * *first / (second.sqrt() * c.root_scale + c.epsilon);
    }
}

/// The same from tensor operations, for devices without a kernel of our own.
pub(super) fn device_step(
    c: Constants,
    var: &Var,
    gradient: &Tensor,
    (first, second): (&mut Tensor, &mut Tensor),
) -> candle_core::Result<()> {
    let weight = var.as_detached_tensor();
    let gradient = (gradient.detach() + (&weight * f64::from(c.l2))?)?;
    *first = (&*first + ((&gradient - &*first)? * f64::from(c.first_rate))?)?;
    *second = ((&*second * f64::from(c.beta2))? + (gradient.sqr()? * f64::from(c.second_rate))?)?;
    let root = ((second.sqrt()? * f64::from(c.root_scale))? + f64::from(c.epsilon))?;
    var.set(&(weight - ((&*first * f64::from(c.step_size))? / root)?)?)
}
