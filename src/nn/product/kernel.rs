//! The product itself: a block of the result stays in registers while the inner dimension runs.

use pulp::{Simd, WithSimd};

use super::{Rows, RowsMut, left::Left, padded, rows::LANES};

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
    use candle_core::{DType, Device, Result, Tensor};

    use super::*;
    use crate::nn::{
        alike::far,
        product::{Matrix, Transposed},
    };

    #[test]
    fn equals_a_tensor_product_in_every_remainder() -> Result<()> {
        for (m, k, n) in [(1, 1, 1), (8, 5, 16), (13, 3, 17), (25, 7, 48), (9, 48, 150), (31, 50, 200), (3, 0, 20)] {
            let a = Tensor::randn(0f32, 1f32, (m, k), &Device::Cpu)?;
            let b = Tensor::randn(0f32, 1f32, (k, n), &Device::Cpu)?;
            let row = Tensor::randn(0f32, 1f32, (1, n), &Device::Cpu)?;
            let plain = if k == 0 { Tensor::zeros((m, n), DType::F32, &Device::Cpu)? } else { a.matmul(&b)? };
            let (rows, left, right) = (Matrix::new(&row)?, Matrix::new(&a)?, Matrix::new(&b)?);
            let ways: [fn(Product<'_>); 3] = [|product| product.run(), narrow, scalar];
            for run in ways {
                // What was there before must not matter, in the padding either.
                let mut c = Matrix::zeros(m, n);
                c.values_mut().fill(f32::NAN);
                for (start, expected) in [
                    (Start::Row(rows.padded_row(0)), plain.broadcast_add(&row)?),
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
}
