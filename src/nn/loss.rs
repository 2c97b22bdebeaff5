//! Losses over logits.

use candle_core::{D, Result, Tensor};

use super::{RowZero, gather_rows};

/// Binary cross-entropy, the mean over `logits [B, 1 + N]` whose first column is the clicked item. Computed from logits:
/// equal to the release's on probabilities, without its loss of digits near 0 and 1.
pub fn binary_cross_entropy(logits: &Tensor) -> Result<Tensor> {
    // -log σ(z) = softplus(-z) for clicks, softplus(z) for the others
    let clicked = logits.narrow(1, 0, 1)?;
    (softplus(logits)?.sum_all()? - clicked.sum_all()?)? / logits.elem_count() as f64
}

/// `log(1 + e^x)`, without overflow.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + ((x.abs()?.neg()?.exp()? + 1.0)?.log())?
}

/// Softmax cross-entropy of `logits [B, I]`, of which `labels[b]` is right: the mean over B.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    // One column, so that a gather of rows finds the labels' logits.
    let places: Vec<u32> = labels.iter().enumerate().map(|(row, &label)| (row * classes) as u32 + label).collect();
    let right = gather_rows(&logits.reshape((rows * classes, 1))?, &places, RowZero::Learns)?.mean_all()?;
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let sums = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()?;
    (sums + max)?.mean_all()? - right
}
