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

/// x Φ(x), with the normal distribution's Φ: the GELU of the error function (Hendrycks and Gimpel, 2016), not its
/// approximation by a hyperbolic tangent.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Gelu) } else { x.gelu_erf() }
}

/// 1 / (1 + e^-x), in place: what makes a score of a logit.
pub fn sigmoid(x: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            for x in x {
                *x = 1.0 / (1.0 + vector::exp(-*x));
            }
        },
    );
}

struct LeakyRelu {
    slope: f32,
}

impl CustomOp1 for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky-relu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        values_by(
            (storage, layout),
            1,
            #[inline(always)]
            |x| if x > 0.0 { x } else { x * self.slope },
        )
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        leaky_relu_gradient(x, gradient, self.slope).map(Some)
    }
}

struct Tanh;

impl CustomOp1 for Tanh {
    fn name(&self) -> &'static str {
        "tanh"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        values_by((storage, layout), 8, vector::tanh)
    }

    fn bwd(&self, _: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient_by(result, gradient, |t, g| g * (1.0 - t * t)).map(Some)
    }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        values_by(
            (storage, layout),
            16,
            #[inline(always)]
            |x| x * vector::normal(x).0,
        )
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient_by(
            x,
            gradient,
            #[inline(always)]
            |x, g| {
                let (below, density) = vector::normal(x);
                g * x.mul_add(density, below)
            },
        )
        .map(Some)
    }
}

/// f of each value; `cost` as in [`host::map_chunks`].
fn values_by(
    (storage, layout): (&CpuStorage, &Layout),
    cost: usize,
    f: impl Fn(f32) -> f32 + Sync,
) -> Result<(CpuStorage, Shape)> {
    let values = host::floats(storage, layout)?;
    let out = host::make(values.len(), CHUNK, cost, |chunk, out| {
        vectorized(
            #[inline(always)]
            || {
                for (out, &x) in out.iter_mut().zip(&values[chunk * CHUNK..]) {
                    *out = f(x);
                }
            },
        )
    });
    Ok((CpuStorage::F32(out), layout.shape().clone()))
}

/// Of a LeakyReLU's input, given that or, with a positive slope, the output.
pub(super) fn leaky_relu_gradient(x: &Tensor, gradient: &Tensor, slope: f32) -> Result<Tensor> {
    gradient_by(
        x,
        gradient,
        #[inline(always)]
        |x, g| if x > 0.0 { g } else { g * slope },
    )
}

fn gradient_by(x: &Tensor, gradient: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Result<Tensor> {
    let gradient = gradient.contiguous()?;
    let (values, g) = (host::values(x)?, host::values(&gradient)?);
    let out = host::make(values.len(), CHUNK, 1, |chunk, out| {
        let (values, g) = (&values[chunk * CHUNK..], &g[chunk * CHUNK..]);
        vectorized(
            #[inline(always)]
            || {
                for ((out, &x), &g) in out.iter_mut().zip(values).zip(g) {
                    *out = f(x, g);
                }
            },
        )
    });
    Tensor::from_vec(out, x.shape(), x.device())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::alike::assert_alike;

    /// Values and gradients of the fused functions, and of candle's own operators.
    #[test]
    fn fused_functions_are_what_they_are_called() -> Result<()> {
        let x = Var::randn(0f32, 2f32, (37, 150), &Device::Cpu)?;
        let pairs = [
            (gelu(&x)?, x.gelu_erf()?),
            (tanh(&x)?, x.tanh()?),
            (leaky_relu(&x, 0.1)?, (x.relu()? - (x.neg()?.relu()? * 0.1)?)?),
        ];
        for (fused, composed) in pairs {
            assert_alike(&fused, &composed, &[&x])?;
        }
        Ok(())
    }
}
