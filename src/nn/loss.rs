//! Losses over logits.

use candle_core::{D, DType, Result, Tensor};

use super::{RowZero, gather_rows};

/// Binary cross-entropy, the mean over `logits [B, 1 + N]` whose first column is the clicked item. Computed from
/// logits: equal to the release's on probabilities, without its loss of digits near 0 and 1.
pub fn binary_cross_entropy(logits: &Tensor) -> Result<Tensor> {
    // -log σ(z) = softplus(-z) for clicks, softplus(z) for the others
    let clicked = logits.narrow(1, 0, 1)?;
    (softplus(logits)?.sum_all()? - clicked.sum_all()?)? / logits.elem_count() as f64
}

/// 0, with gradients of 0 for everything that `sum`, a scalar, was made from, so that the optimizer misses none: a loss
/// that weighs nothing, or that finds nothing in a batch.
pub fn zero_loss(sum: &Tensor) -> Result<Tensor> {
    // A tensor: candle's factor 0 would leave the gradients out.
    sum * Tensor::zeros((), DType::F32, sum.device())?
}

/// `log(1 + e^x)`, without overflow.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + ((x.abs()?.neg()?.exp()? + 1.0)?.log())?
}

/// Where `(row, column)` of a matrix `[rows, columns]` are in it as one column.
///
/// # Errors
/// If it has more elements than a `u32` counts: the places would be wrong ones.
pub fn flat_places(places: impl Iterator<Item = (usize, u32)>, (rows, columns): (usize, usize)) -> Result<Vec<u32>> {
    if u32::try_from(rows * columns).is_err() {
        candle_core::bail!("{rows} x {columns} scores are more than 2^32: make the batches smaller");
    }
    Ok(places.map(|(row, column)| (row * columns) as u32 + column).collect())
}

/// Softmax cross-entropy of `logits [B, I]`, of which `labels[b]` is right: the mean over B.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    // One column, so that a gather of rows finds the labels' logits.
    let places = flat_places(labels.iter().copied().enumerate(), (rows, classes))?;
    let right = gather_rows(&logits.reshape((rows * classes, 1))?, &places, RowZero::Learns)?.mean_all()?;
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let sums = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()?;
    (sums + max)?.mean_all()? - right
}
