//! A matrix that owns its padded rows.

use candle_core::{Result, Tensor};

use super::{Rows, RowsMut, padded, rows::apart, transpose};
use crate::nn::values;

/// A matrix with padded rows; the padding is zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct Matrix {
    rows: usize,
    columns: usize,
    stride: usize,
    values: Vec<f32>,
}

impl Matrix {
    pub(crate) fn zeros(rows: usize, columns: usize) -> Self {
        Self::with_stride(rows, columns, padded(columns))
    }

    fn with_stride(rows: usize, columns: usize, stride: usize) -> Self {
        Self { rows, columns, stride, values: vec![0.0; rows * stride] }
    }

    /// The same values.
    pub(crate) fn new(tensor: &Tensor) -> Result<Self> {
        let (rows, columns) = tensor.dims2()?;
        let mut matrix = Self::zeros(rows, columns);
        matrix.fill(&values(tensor)?);
        Ok(matrix)
    }

    /// Of rows and columns without padding; its rows are [`apart`].
    pub(crate) fn of((rows, columns): (usize, usize), values: &[f32]) -> Self {
        let mut matrix = Self::with_stride(rows, columns, apart(columns));
        matrix.fill(values);
        matrix
    }

    fn fill(&mut self, values: &[f32]) {
        for (row, values) in values.chunks_exact(self.columns.max(1)).enumerate() {
            self.row_mut(row).copy_from_slice(values);
        }
    }

    /// The transposed values: a `torch.nn.Linear` weight `[out, in]` becomes `[in, out]`.
    pub(crate) fn transposed(tensor: &Tensor) -> Result<Self> {
        Self::new(&tensor.t()?.contiguous()?)
    }

    /// `[columns, rows]` of `[rows, columns]` without padding; its rows are [`apart`].
    pub(crate) fn transpose_of((rows, columns): (usize, usize), values: &[f32]) -> Self {
        let mut matrix = Self::with_stride(columns, rows, apart(rows));
        transpose(matrix.view_mut(), Rows { values, stride: columns }, (rows, columns));
        matrix
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn view(&self) -> Rows<'_> {
        Rows { values: &self.values, stride: self.stride() }
    }

    pub(crate) fn view_mut(&mut self) -> RowsMut<'_> {
        RowsMut { stride: self.stride(), values: &mut self.values }
    }

    /// All values, padding included.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Without padding.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        let start = row * self.stride();
        &self.values[start..start + self.columns]
    }

    /// With padding.
    pub(crate) fn padded_row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride()..][..self.stride()]
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let start = row * self.stride();
        &mut self.values[start..start + self.columns]
    }

    /// Memory of the values.
    pub(crate) fn bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }

    /// Without padding, on the CPU.
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        let values: Vec<f32> = (0..self.rows).flat_map(|row| self.row(row)).copied().collect();
        Tensor::from_vec(values, (self.rows, self.columns), &candle_core::Device::Cpu)
    }
}
