//! A linear layer whose weights are ready for the kernel.

use candle_core::Result;

use super::{Matrix, Product, Rows, RowsMut, Start};
use crate::nn::Linear;

/// A [`Linear`] for [`Product`]: `y = x W + b`.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    /// `[in, out]`.
    pub(crate) weight: Matrix,
    /// `[1, out]`.
    pub(crate) bias: Matrix,
}

impl Dense {
    pub(crate) fn new(linear: &Linear) -> Result<Self> {
        let bias = Matrix::new(&linear.bias().unsqueeze(0)?)?;
        Ok(Self { weight: Matrix::transposed(linear.weight())?, bias })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weight.columns()
    }

    /// `x [rows, in]` → `y [rows, out]`.
    pub(crate) fn apply(&self, rows: usize, x: Rows<'_>, y: RowsMut<'_>) {
        let start = Start::Row(self.bias.padded_row(0));
        Product { shape: (rows, self.weight.rows(), self.weight.columns()), a: x, b: self.weight.view(), start, c: y }
            .run();
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::nn::alike::far;

    #[test]
    fn a_linear_layer_on_part_of_wider_rows() -> Result<()> {
        let weight = Tensor::randn(0f32, 1f32, (20, 6), &Device::Cpu)?;
        let linear = Linear::new(weight, Tensor::randn(0f32, 1f32, 20, &Device::Cpu)?);
        let x = Tensor::randn(0f32, 1f32, (5, 9), &Device::Cpu)?;
        let (wide, mut y) = (Matrix::new(&x)?, Matrix::zeros(5, 20));
        Dense::new(&linear)?.apply(5, wide.view().columns_from(3), y.view_mut());
        let expected = linear.forward(&x.narrow(1, 3, 6)?.contiguous()?)?;
        assert!(far(&y.tensor()?, &expected)? < 1e-5);
        assert_eq!(y.view().rows_from(2).values[..20], *y.row(2));
        Ok(())
    }
}
