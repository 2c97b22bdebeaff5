//! Products of small matrices in host memory, without packing and without tensors: what ranking on a CPU is made of.
//!
//! Rows are padded with zeros to whole vectors ([`padded`]), so that a block of the result stays in registers while the
//! inner dimension runs, with no remainders. On matrices of 50 to 300 columns that reaches what a packing
//! `1024³` product does (110 GFLOP/s on a core of an EPYC 9004), for tiles that stay in the second-level cache.

use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use super::{Linear, host::values, scratch::with_scratch, vector::vectorized};

/// Rows are padded to a multiple of this many values: a vector of 512 bits.
pub(crate) const LANES: usize = 16;

/// The distance between rows of so many columns.
pub(crate) const fn padded(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// The distance between rows of so many columns, for products that walk down some of them: with a multiple of a
/// kilobyte between them, they would all compete for a few places of the first-level cache.
const fn apart(columns: usize) -> usize {
    let stride = padded(columns);
    if stride.is_multiple_of(256) { stride + LANES } else { stride }
}

/// Rows of values, a fixed distance apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
}

/// Rows to be written.
#[derive(Debug)]
pub(crate) struct RowsMut<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    /// From a column on.
    pub(crate) fn columns_from(self, column: usize) -> Self {
        Self { values: &self.values[column..], stride: self.stride }
    }

    /// From a row on.
    pub(crate) fn rows_from(self, row: usize) -> Self {
        Self { values: &self.values[row * self.stride..], stride: self.stride }
    }
}

/// The left-hand side of a product, m rows and k columns.
pub(crate) trait Left: Copy {
    /// Calls `body(column, values)` for each of k columns with its values in `ROWS` rows from `row` on: by reference,
    /// so that they are loaded and spread over a vector in one instruction.
    fn for_columns<const ROWS: usize>(self, row: usize, k: usize, body: impl FnMut(usize, [&f32; ROWS]));
}

impl Left for Rows<'_> {
    #[inline(always)]
    fn for_columns<const ROWS: usize>(self, row: usize, k: usize, mut body: impl FnMut(usize, [&f32; ROWS])) {
        let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &self.values[(row + r) * self.stride..][..k]);
        for column in 0..k {
            // `rows.map(...)` becomes a call, which is compiled without this machine's instructions.
            let mut values = [&0.0; ROWS];
            for (value, row) in values.iter_mut().zip(&rows) {
                *value = &row[column];
            }
            body(column, values);
        }
    }
}

/// A matrix that is given by its columns: these are its rows, a fixed distance apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transposed<'a>(pub(crate) Rows<'a>);

impl Left for Transposed<'_> {
    #[inline(always)]
    fn for_columns<const ROWS: usize>(self, row: usize, k: usize, mut body: impl FnMut(usize, [&f32; ROWS])) {
        for column in 0..k {
            let values: &[f32; ROWS] =
                self.0.values[column * self.0.stride + row..].first_chunk().expect("as many rows");
            body(column, values.each_ref());
        }
    }
}

/// A matrix as the right-hand side of [`multiply`], rows without padding.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Right<'a> {
    /// `[k, n]`.
    Plain(Rows<'a>),
    /// `[n, k]`, of which the transposed is meant.
    Transposed(Rows<'a>),
}

/// `c [m, n] = a [m, k] · b`, none of them padded: what needs padding is copied for it.
pub(crate) fn multiply((m, k, n): (usize, usize, usize), a: impl Left, b: Right<'_>, c: &mut [f32]) {
    let stride = padded(n);
    let direct = n == stride && matches!(b, Right::Plain(_));
    with_scratch([if direct { 0 } else { k * stride }], |[b_padded]| {
        match b {
            Right::Plain(_) if direct => {}
            Right::Plain(rows) => copy_rows(RowsMut { values: b_padded, stride }, rows, (k, n)),
            Right::Transposed(rows) => transpose(RowsMut { values: b_padded, stride }, rows, (n, k)),
        }
        let b = match b {
            Right::Plain(rows) if direct => rows,
            _ => Rows { values: b_padded, stride },
        };
        multiply_from((m, k, n), a, b, None, c);
    });
}

/// `c [m, n] = start + a [m, k] · b`, where `b` and a starting row are padded and `c` is not.
pub(crate) fn multiply_from(
    shape @ (m, _, n): (usize, usize, usize),
    a: impl Left,
    b: Rows<'_>,
    start: Option<&[f32]>,
    c: &mut [f32],
) {
    let (stride, start) = (padded(n), start.map_or(Start::Zero, Start::Row));
    if n == stride {
        return Product { shape, a, b, start, c: RowsMut { values: c, stride } }.run();
    }
    with_scratch([m * stride], |[wide]| {
        Product { shape, a, b, start, c: RowsMut { values: wide, stride } }.run();
        copy_rows(RowsMut { values: c, stride: n }, Rows { values: wide, stride }, (m, n));
    });
}

/// Copies rows that are one distance apart to rows that are another distance apart.
pub(crate) fn copy_rows(to: RowsMut<'_>, from: Rows<'_>, (rows, columns): (usize, usize)) {
    for row in 0..rows {
        to.values[row * to.stride..][..columns].copy_from_slice(&from.values[row * from.stride..][..columns]);
    }
}

/// `to [columns, rows] = fromᵀ` for `from [rows, columns]`, with zeros up to whole vectors.
pub(crate) fn transpose(to: RowsMut<'_>, from: Rows<'_>, (rows, columns): (usize, usize)) {
    /// Rows and columns that are moved together, so that whole cache lines are written.
    const BLOCK: usize = 8;
    vectorized(
        #[inline(always)]
        || {
            let whole = (rows - rows % BLOCK, columns - columns % BLOCK);
            for row in (0..whole.0).step_by(BLOCK) {
                for column in (0..whole.1).step_by(BLOCK) {
                    let mut columns = [[0.0; BLOCK]; BLOCK];
                    for r in 0..BLOCK {
                        let values = &from.values[(row + r) * from.stride + column..][..BLOCK];
                        for (column, &value) in columns.iter_mut().zip(values) {
                            column[r] = value;
                        }
                    }
                    for (c, values) in columns.iter().enumerate() {
                        to.values[(column + c) * to.stride + row..][..BLOCK].copy_from_slice(values);
                    }
                }
            }
            for row in 0..rows {
                let rest = if row < whole.0 { whole.1..columns } else { 0..columns };
                for column in rest {
                    to.values[column * to.stride + row] = from.values[row * from.stride + column];
                }
            }
            for column in 0..columns {
                to.values[column * to.stride..][rows..padded(rows)].fill(0.0);
            }
        },
    );
}

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
        self.weight.columns
    }

    /// `x [rows, in]` → `y [rows, out]`.
    pub(crate) fn apply(&self, rows: usize, x: Rows<'_>, y: RowsMut<'_>) {
        let start = Start::Row(&self.bias.values);
        Product { shape: (rows, self.weight.rows, self.weight.columns), a: x, b: self.weight.view(), start, c: y }
            .run();
    }
}

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What the result holds.
    Present,
    /// This row, padded, to every row of the result.
    Row(&'a [f32]),
}

/// `c [m, n] = start + a [m, k] · b [k, n]`.
///
/// `b`, `c` and a starting row are read and written up to `padded(n)` columns: beyond n, the result is whatever is
/// there in `b`.
#[derive(Debug)]
pub(crate) struct Product<'a, A = Rows<'a>> {
    /// m, k, n.
    pub(crate) shape: (usize, usize, usize),
    pub(crate) a: A,
    pub(crate) b: Rows<'a>,
    pub(crate) start: Start<'a>,
    pub(crate) c: RowsMut<'a>,
}

impl<A: Left> Product<'_, A> {
    /// Computes it.
    ///
    /// # Panics
    /// If an argument is too small for the shape.
    pub(crate) fn run(self) {
        pulp::Arch::new().dispatch(self);
    }

    /// A block of `ROWS` rows and `VECTORS` vectors of the result, from a row and a column on.
    #[inline(always)]
    fn block<S: Simd, const ROWS: usize, const VECTORS: usize>(&mut self, simd: S, row: usize, column: usize) {
        let (k, width) = (self.shape.1, VECTORS * S::F32_LANES);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        for (r, sums) in sums.iter_mut().enumerate() {
            let start = match self.start {
                Start::Zero => continue,
                Start::Present => &self.c.values[(row + r) * self.c.stride + column..][..width],
                Start::Row(start) => &start[column..column + width],
            };
            sums.copy_from_slice(&S::as_simd_f32s(start).0[..VECTORS]);
        }
        self.a.for_columns::<ROWS>(
            row,
            k,
            #[inline(always)]
            |inner, a| {
                let b = &self.b.values[inner * self.b.stride + column..][..width];
                let (b, _) = S::as_simd_f32s(b);
                let b: [S::f32s; VECTORS] = std::array::from_fn(|v| b[v]);
                for (sums, a) in sums.iter_mut().zip(a) {
                    let a = simd.splat_f32s(*a);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = simd.mul_add_e_f32s(a, b, *sum);
                    }
                }
            },
        );
        for (r, sums) in sums.iter().enumerate() {
            let c = &mut self.c.values[(row + r) * self.c.stride + column..][..width];
            S::as_mut_simd_f32s(c).0.copy_from_slice(sums);
        }
    }

    /// All rows of a strip of `VECTORS` vectors; `ROWS` at a time fill the registers.
    #[inline(always)]
    fn strip<S: Simd, const ROWS: usize, const VECTORS: usize>(&mut self, simd: S, column: usize) {
        let (m, mut row) = (self.shape.0, 0);
        while row + ROWS <= m {
            self.block::<S, ROWS, VECTORS>(simd, row, column);
            row += ROWS;
        }
        while ROWS > 4 && row + 4 <= m {
            self.block::<S, 4, VECTORS>(simd, row, column);
            row += 4;
        }
        while row < m {
            self.block::<S, 1, VECTORS>(simd, row, column);
            row += 1;
        }
    }

    #[inline(always)]
    fn strips<S: Simd, const ROWS: usize>(mut self, simd: S) {
        // To the end of the padding, which may be several of this machine's vectors.
        let mut left = padded(self.shape.2) / S::F32_LANES;
        let mut column = 0;
        while left > 0 {
            // A strip of one vector would load as much as it multiplies.
            let vectors = match left {
                1 => 1,
                2 | 4 => 2,
                _ => 3,
            };
            match vectors {
                1 => self.strip::<S, ROWS, 1>(simd, column),
                2 => self.strip::<S, ROWS, 2>(simd, column),
                _ => self.strip::<S, ROWS, 3>(simd, column),
            }
            column += vectors * S::F32_LANES;
            left -= vectors;
        }
    }
}

impl<A: Left> WithSimd for Product<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // 32 registers of 512 bits hold 8 x 3 sums, 16 smaller ones 4 x 3.
        if S::F32_LANES >= LANES { self.strips::<S, 8>(simd) } else { self.strips::<S, 4>(simd) }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::alike::far;

    #[test]
    fn equals_a_tensor_product_in_every_remainder() -> Result<()> {
        for (m, k, n) in [(1, 1, 1), (8, 5, 16), (13, 3, 17), (25, 7, 48), (9, 48, 150), (31, 50, 200), (3, 0, 20)] {
            let a = Tensor::randn(0f32, 1f32, (m, k), &Device::Cpu)?;
            let b = Tensor::randn(0f32, 1f32, (k, n), &Device::Cpu)?;
            let row = Tensor::randn(0f32, 1f32, (1, n), &Device::Cpu)?;
            let plain =
                if k == 0 { Tensor::zeros((m, n), candle_core::DType::F32, &Device::Cpu)? } else { a.matmul(&b)? };
            let (rows, left, right) = (Matrix::new(&row)?, Matrix::new(&a)?, Matrix::new(&b)?);
            let ways: [fn(Product<'_>); 3] = [|product| product.run(), narrow, scalar];
            for run in ways {
                // What was there before must not matter, in the padding either.
                let mut c = Matrix::zeros(m, n);
                c.values_mut().fill(f32::NAN);
                for (start, expected) in [
                    (Start::Row(&rows.values), plain.broadcast_add(&row)?),
                    (Start::Present, (&plain + &plain)?.broadcast_add(&row)?),
                    (Start::Zero, plain.clone()),
                ] {
                    run(Product { shape: (m, k, n), a: left.view(), b: right.view(), start, c: c.view_mut() });
                    let far = far(&c.tensor()?, &expected)?;
                    assert!(far < 1e-4, "{m} x {k} x {n}, {start:?}: {far}");
                    assert!((0..m).all(|row| c.padded_row(row)[n..].iter().all(|&x| x == 0.0)), "{m} x {k} x {n}");
                }
            }
            let by_columns = Matrix::transposed(&a)?;
            let (a, mut c) = (Transposed(by_columns.view()), Matrix::zeros(m, n));
            Product { shape: (m, k, n), a, b: right.view(), start: Start::Zero, c: c.view_mut() }.run();
            assert!(far(&c.tensor()?, &plain)? < 1e-4, "{m} x {k} x {n}, by columns");
        }
        Ok(())
    }

    /// As on machines without AVX-512, whose vectors are half as wide as the padding.
    fn narrow(product: Product<'_>) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            return Simd::vectorize(simd, product);
        }
        product.run();
    }

    /// As on machines without any vectors.
    fn scalar(product: Product<'_>) {
        Simd::vectorize(pulp::Scalar::new(), product);
    }

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
