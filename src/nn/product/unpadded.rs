//! Products of matrices as tensors hold them, without padding: what the kernel needs padded is copied for it.

use super::{Product, Rows, RowsMut, Start, copy_rows, left::Left, padded, transpose};
use crate::nn::scratch::with_scratch;

/// A matrix as the right-hand side of [`multiply`], rows without padding.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) enum Right<'a> {
    /// `[k, n]`.
    Plain(Rows<'a>),
    /// `[n, k]`, of which the transposed is meant.
    Transposed(Rows<'a>),
}

/// `c [m, n] = a [m, k] · b`, none of them padded: what needs padding is copied for it.
pub(in crate::nn) fn multiply((m, k, n): (usize, usize, usize), a: impl Left, b: Right<'_>, c: &mut [f32]) {
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
pub(in crate::nn) fn multiply_from(
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
