//! The left-hand side of a product, by rows or by columns: what the kernel reads a value at a time.

use super::Rows;

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
pub(in crate::nn) struct Transposed<'a>(pub(in crate::nn) Rows<'a>);

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
