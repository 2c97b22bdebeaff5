//! Element-wise functions, vectorised, with cheap backward passes.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{
    host,
    vector::{self, vectorized},
};

/// Values handled together.
const CHUNK: usize = 1 << 12;

/// max(x, 0).
pub fn relu(x: &Tensor) -> Result<Tensor> {
    leaky_relu(x, 0.0)
}

/// x where positive, else `slope · x`.
pub fn leaky_relu(x: &Tensor, slope: f32) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1(LeakyRelu { slope });
    }
    let negative = (x.neg()?.relu()? * f64::from(slope))?;
    x.relu()? - negative
}

/// Hyperbolic tangent.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Tanh) } else { x.tanh() }
}

/// 1 / (1 + e^-x); no backward on the CPU: training takes its loss from logits.
pub fn sigmoid(x: &mut [f32]) {
    host::for_chunks(x, CHUNK, 4, |_, x| {
        vectorized(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x = 1.0 / (1.0 + vector::exp(-*x))),
        )
    });
}

struct LeakyRelu {
    slope: f32,
}

impl CustomOp1 for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky-relu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = host::floats(storage, layout)?.to_vec();
        host::for_chunks(&mut out, CHUNK, 1, |_, out| {
            vectorized(
                #[inline(always)]
                || out.iter_mut().for_each(|x| *x = if *x > 0.0 { *x } else { *x * self.slope }),
            )
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient_by(x, gradient, |x, g| if x > 0.0 { g } else { g * self.slope })
    }
}

struct Tanh;

impl CustomOp1 for Tanh {
    fn name(&self) -> &'static str {
        "tanh"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = host::floats(storage, layout)?.to_vec();
        host::for_chunks(&mut out, CHUNK, 8, |_, out| {
            vectorized(
                #[inline(always)]
                || out.iter_mut().for_each(|x| *x = vector::tanh(*x)),
            )
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient_by(result, gradient, |t, g| g * (1.0 - t * t))
    }
}

fn gradient_by(x: &Tensor, gradient: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Result<Option<Tensor>> {
    let gradient = gradient.contiguous()?;
    let ((x_storage, x_layout), (g, g_layout)) = (x.storage_and_layout(), gradient.storage_and_layout());
    let (values, mut out) = (host::stored(&x_storage, x_layout)?, host::stored(&g, g_layout)?.to_vec());
    host::for_chunks(&mut out, CHUNK, 1, |chunk, out| {
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(&values[chunk * CHUNK..]).for_each(|(g, &x)| *g = f(x, *g)),
        )
    });
    Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
}
