//! Many small matrix products: candle calls its matrix product once per batch entry, which costs more than the product.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{
    host,
    vector::{self, vectorized},
};

/// Whether the right-hand side is given transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    Plain,
    Transposed,
}

/// `a [B, m, k] · b [B, k, n]` → `[B, m, n]`.
pub fn batch_matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() { apply(a, b, Right::Plain) } else { a.contiguous()?.matmul(&b.contiguous()?) }
}

/// `a [B, m, k] · bᵀ` with `b [B, n, k]` → `[B, m, n]`.
pub fn batch_matmul_transposed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() { apply(a, b, Right::Transposed) } else { a.contiguous()?.matmul(&b.contiguous()?.t()?) }
}

fn apply(a: &Tensor, b: &Tensor, right: Right) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, BatchMatmul { right })
}

struct BatchMatmul {
    right: Right,
}

impl BatchMatmul {
    fn sizes(&self, a: &[usize], b: &[usize]) -> Result<(usize, usize, usize, usize)> {
        match (a, b, self.right) {
            (&[batch, m, k], &[batch_b, k_b, n], Right::Plain) if batch == batch_b && k == k_b => Ok((batch, m, k, n)),
            (&[batch, m, k], &[batch_b, n, k_b], Right::Transposed) if batch == batch_b && k == k_b => {
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
        let mut out = vec![0.0; batch * m * n];
        host::for_chunks(&mut out, m * n, k, |entry, c| {
            let (a, b) = (&a[entry * m * k..(entry + 1) * m * k], &b[entry * k * n..(entry + 1) * k * n]);
            let mut scratch = vec![];
            vectorized(
                #[inline(always)]
                || {
                    let b = match self.right {
                        Right::Plain => b,
                        Right::Transposed => {
                            scratch.resize(k * n, 0.0);
                            vector::transpose(&mut scratch, b, k);
                            &scratch
                        }
                    };
                    vector::multiply_add(c, a, (k, 1), b, n);
                },
            )
        });
        Ok((CpuStorage::F32(out), (batch, m, n).into()))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (batch, m, k, n) = self.sizes(a.dims(), b.dims())?;
        let g = g.contiguous()?;
        let ((a_storage, la), (b_storage, lb)) = (a.storage_and_layout(), b.storage_and_layout());
        let (g_storage, lg) = g.storage_and_layout();
        let (av, bv) = (host::stored(&a_storage, la)?, host::stored(&b_storage, lb)?);
        let gv = host::stored(&g_storage, lg)?;
        let mut da = vec![0.0; batch * m * k];
        host::for_chunks(&mut da, m * k, n, |entry, da| {
            let (b, g) = (&bv[entry * k * n..(entry + 1) * k * n], &gv[entry * m * n..(entry + 1) * m * n]);
            let mut scratch = vec![];
            vectorized(
                #[inline(always)]
                || {
                    // da [m, k] = g [m, n] · bᵀ, which needs b as [n, k]
                    let b = match self.right {
                        Right::Transposed => b,
                        Right::Plain => {
                            scratch.resize(k * n, 0.0);
                            vector::transpose(&mut scratch, b, n);
                            &scratch
                        }
                    };
                    vector::multiply_add(da, g, (n, 1), b, k);
                },
            )
        });
        let mut db = vec![0.0; batch * k * n];
        host::for_chunks(&mut db, k * n, m, |entry, db| {
            let (a, g) = (&av[entry * m * k..(entry + 1) * m * k], &gv[entry * m * n..(entry + 1) * m * n]);
            vectorized(
                #[inline(always)]
                || match self.right {
                    // db [k, n] = aᵀ · g
                    Right::Plain => vector::multiply_add(db, a, (1, k), g, n),
                    // db [n, k] = gᵀ · a
                    Right::Transposed => vector::multiply_add(db, g, (1, n), a, k),
                },
            )
        });
        Ok((Some(Tensor::from_vec(da, a.shape(), a.device())?), Some(Tensor::from_vec(db, b.shape(), b.device())?)))
    }
}
