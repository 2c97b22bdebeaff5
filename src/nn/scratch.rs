//! Memory that a thread keeps for its intermediate results.

use std::cell::RefCell;

thread_local! {
    /// Buffers that nobody on this thread uses at the moment.
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(vec![]) };
}

/// Calls `body` with parts of these sizes, whose values are whatever the last user left there. Calls may nest.
pub(crate) fn with_scratch<const N: usize, R>(sizes: [usize; N], body: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    let total = sizes.iter().sum();
    if buffer.len() < total {
        buffer.resize(total, 0.0);
    }
    let mut rest = buffer.as_mut_slice();
    let parts = sizes.map(|size| rest.split_off_mut(..size).expect("the buffer holds all parts"));
    let result = body(parts);
    BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_sizes_and_calls_nest() {
        with_scratch([3, 0, 5], |[a, b, c]| {
            assert_eq!((a.len(), b.len(), c.len()), (3, 0, 5));
            c.fill(1.0);
            with_scratch([100], |[inner]| inner.fill(2.0));
            assert_eq!(c, [1.0; 5]);
        });
    }
}
