//! Affine maps.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{
    affine::{IDENTITY, affine},
    host, leaky_relu,
    vector::vectorized,
};

/// `y = x Wᵀ + b`, as `torch.nn.Linear` stores it.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// `weight [out, in]`, `bias [out]`.
    pub fn new(weight: Tensor, bias: Tensor) -> Self {
        Self { weight, bias }
    }

    /// `[.., in]` → `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_leaky(x, IDENTITY)
    }

    /// The same, then [`leaky_relu`].
    pub fn forward_leaky(&self, x: &Tensor, slope: f32) -> Result<Tensor> {
        if x.device().is_cpu() {
            return affine(x, &self.weight, Some(&self.bias), slope);
        }
        let out = add_row(&project(x, &self.weight)?, &self.bias)?;
        if slope == IDENTITY { Ok(out) } else { leaky_relu(&out, slope) }
    }

    /// `[out, in]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[out]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }
}

/// `x Wᵀ` as one matrix product, whatever the leading dimensions: `x [.., in]`, `weight [out, in]` → `[.., out]`.
pub fn project(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        return affine(x, weight, None, IDENTITY);
    }
    let mut shape = x.dims().to_vec();
    let width = shape.pop().unwrap_or(1);
    shape.push(weight.dim(0)?);
    // Some columns of a larger weight are no matrix to cuBLAS.
    x.reshape(((), width))?.matmul(&weight.contiguous()?.t()?)?.reshape(shape)
}

/// Adds `row [d]` to every row of `x [.., d]`, or `row [L, d]` to every matrix of `x [.., L, d]`. Its backward is a
/// column sum; candle's goes element by element.
pub fn add_row(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op2(&row.contiguous()?, AddRow) } else { x.broadcast_add(row) }
}

struct AddRow;

impl CustomOp2 for AddRow {
    fn name(&self) -> &'static str {
        "add-row"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        row: &CpuStorage,
        row_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, row) = (host::floats(x, x_layout)?, host::floats(row, row_layout)?);
        let chunk = host::rows_per_chunk(x.len() / row.len().max(1), row.len()) * row.len();
        let out = host::make(x.len(), chunk, 1, |number, out| {
            let x = &x[number * chunk..];
            vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(row.len()).zip(x.chunks_exact(row.len())) {
                        out.iter_mut().zip(x).zip(row).for_each(|((out, x), row)| *out = x + row);
                    }
                },
            )
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, row: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let mut sums = vec![0.0_f32; row.elem_count()];
        {
            let (storage, layout) = g.storage_and_layout();
            let values = host::stored(&storage, layout)?;
            vectorized(
                #[inline(always)]
                || {
                    for values in values.chunks_exact(sums.len()) {
                        sums.iter_mut().zip(values).for_each(|(sum, g)| *sum += g);
                    }
                },
            );
        }
        let sums = Tensor::from_vec(sums, row.shape(), row.device())?;
        Ok((Some(g), Some(sums)))
    }
}
