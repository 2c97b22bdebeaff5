//! Many small matrix products: candle calls its matrix product once per batch entry, which costs more than the product.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{
    host,
    product::{Right, Rows, Transposed, multiply},
};

/// Whether the right-hand side is given transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Transposed,
}

impl Form {
    /// Values `[k, n]`, or `[n, k]` of which the transposed is meant.
    fn of(self, values: &[f32], (k, n): (usize, usize)) -> Right<'_> {
        match self {
            Self::Plain => Right::Plain(Rows { values, stride: n }),
            Self::Transposed => Right::Transposed(Rows { values, stride: k }),
        }
    }

    /// What the same values are, transposed.
    fn other(self) -> Self {
        match self {
            Self::Plain => Self::Transposed,
            Self::Transposed => Self::Plain,
        }
    }
}

/// `a [B, m, k] · b [B, k, n]` → `[B, m, n]`.
pub fn batch_matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() { apply(a, b, Form::Plain) } else { a.contiguous()?.matmul(&b.contiguous()?) }
}

/// `a [B, m, k] · bᵀ` with `b [B, n, k]` → `[B, m, n]`.
pub fn batch_matmul_transposed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() { apply(a, b, Form::Transposed) } else { a.contiguous()?.matmul(&b.contiguous()?.t()?) }
}

fn apply(a: &Tensor, b: &Tensor, right: Form) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, BatchMatmul { right })
}

struct BatchMatmul {
    right: Form,
}

impl BatchMatmul {
    fn sizes(&self, a: &[usize], b: &[usize]) -> Result<(usize, usize, usize, usize)> {
        match (a, b, self.right) {
            (&[batch, m, k], &[batch_b, k_b, n], Form::Plain) if batch == batch_b && k == k_b => Ok((batch, m, k, n)),
            (&[batch, m, k], &[batch_b, n, k_b], Form::Transposed) if batch == batch_b && k == k_b => {
                Ok((batch, m, k, n))
            }
            _ => bail!("batched product of {a:?} and {b:?} ({:?})", self.right),
        }
    }
}

impl CustomOp2 for BatchMatmul {
    fn name(&self) -> &'static str {
        "batch-matmul"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, m, k, n) = self.sizes(la.dims(), lb.dims())?;
        let (a, b) = (host::floats(a, la)?, host::floats(b, lb)?);
        let out = host::make(batch * m * n, m * n, k, |entry, c| {
            let (a, b) = (&a[entry * m * k..][..m * k], &b[entry * k * n..][..k * n]);
            multiply((m, k, n), Rows { values: a, stride: k }, self.right.of(b, (k, n)), c);
        });
        Ok((CpuStorage::F32(out), (batch, m, n).into()))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (batch, m, k, n) = self.sizes(a.dims(), b.dims())?;
        let g = g.contiguous()?;
        let (av, bv, gv) = (host::values(a)?, host::values(b)?, host::values(&g)?);
        let da = host::make(batch * m * k, m * k, n, |entry, da| {
            let (b, g) = (&bv[entry * k * n..][..k * n], &gv[entry * m * n..][..m * n]);
            // da [m, k] = g [m, n] · bᵀ
            multiply((m, n, k), Rows { values: g, stride: n }, self.right.other().of(b, (n, k)), da);
        });
        let db = host::make(batch * k * n, k * n, m, |entry, db| {
            let (a, g) = (&av[entry * m * k..][..m * k], &gv[entry * m * n..][..m * n]);
            let (a, g) = (Rows { values: a, stride: k }, Rows { values: g, stride: n });
            match self.right {
                // db [k, n] = aᵀ · g
                Form::Plain => multiply((k, m, n), Transposed(a), Right::Plain(g), db),
                // db [n, k] = gᵀ · a
                Form::Transposed => multiply((n, m, k), Transposed(g), Right::Plain(a), db),
            }
        });
        Ok((Some(Tensor::from_vec(da, a.shape(), a.device())?), Some(Tensor::from_vec(db, b.shape(), b.device())?)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::alike::assert_alike;

    #[test]
    fn equals_candle_with_gradients() -> Result<()> {
        let device = &Device::Cpu;
        for (m, k, n) in [(1, 1, 1), (5, 20, 48), (15, 50, 64), (9, 33, 17), (16, 16, 16)] {
            let (a, b) = (Var::randn(0f32, 1f32, (3, m, k), device)?, Var::randn(0f32, 1f32, (3, k, n), device)?);
            assert_alike(&batch_matmul(&a, &b)?, &a.matmul(&b)?, &[&a, &b])?;
            let b = Var::randn(0f32, 1f32, (3, n, k), device)?;
            assert_alike(&batch_matmul_transposed(&a, &b)?, &a.matmul(&b.t()?)?, &[&a, &b])?;
        }
        Ok(())
    }
}
