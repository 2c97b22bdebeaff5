//! Rows of values a fixed distance apart, padded to whole vectors, and what moves values between such rows.

use crate::nn::vector::vectorized;

/// Rows are padded to a multiple of this many values: a vector of 512 bits.
pub(in crate::nn) const LANES: usize = 16;

/// The distance between rows of so many columns.
pub(crate) const fn padded(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// The distance between rows of so many columns, for products that walk down some of them: with a multiple of a
/// kilobyte between them, they would all compete for a few places of the first-level cache.
pub(super) const fn apart(columns: usize) -> usize {
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

/// Copies rows that are one distance apart to rows that are another distance apart.
pub(in crate::nn) fn copy_rows(to: RowsMut<'_>, from: Rows<'_>, (rows, columns): (usize, usize)) {
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
