//! Small symmetric systems by Cholesky's factor, and least squares with a small ridge, many at a time.

use candle_core::{Result, Tensor};

/// `(Z Zᵀ + ε I)⁻¹ Z` of every matrix of `z [n, N, d]`, N ≤ d in the hundreds: `[n, N, d]`. Its product with t is what
/// combines the rows of Z to t's projection on them. Rows of zeros get zeros. A constant: no gradient flows to Z.
pub fn ridge_inverse(z: &Tensor, eps: f64) -> Result<Tensor> {
    let (count, rows, d) = z.dims3()?;
    let values = z.detach().flatten_all()?.to_vec1::<f32>()?;
    let mut out = Vec::with_capacity(values.len());
    for z in values.chunks_exact((rows * d).max(1)).take(count) {
        let row = |n: usize| &z[n * d..(n + 1) * d];
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let gram = |i: usize, j: usize| dot(row(i), row(j)) + if i == j { eps } else { 0.0 };
        let mut solved: Vec<f64> = z.iter().map(|&value| f64::from(value)).collect();
        solve_symmetric(rows, gram, &mut solved);
        out.extend(solved.into_iter().map(|value| value as f32));
    }
    Tensor::from_vec(out, (count, rows, d), z.device())
}

/// Solves A X = B for a symmetric, positive definite `A [n, n]`, of which only the part below and on the diagonal is
/// asked for; `b [n, _]`, by rows, becomes X.
pub fn solve_symmetric(n: usize, a: impl Fn(usize, usize) -> f64, b: &mut [f64]) {
    // A = L Lᵀ, L below the diagonal.
    let mut lower = vec![0.0_f64; n * n];
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| lower[i * n + k] * lower[j * n + k]).sum();
            let rest = a(i, j) - known;
            lower[i * n + j] = if i == j { rest.sqrt() } else { rest / lower[j * n + j] };
        }
    }
    // L Y = B, then Lᵀ X = Y.
    let d = (b.len() / n.max(1)).max(1);
    for i in 0..n {
        let (done, rest) = b.split_at_mut(i * d);
        let (current, _) = rest.split_at_mut(d);
        for (k, done) in done.chunks_exact(d).enumerate() {
            let factor = lower[i * n + k];
            current.iter_mut().zip(done).for_each(|(y, done)| *y -= factor * done);
        }
        current.iter_mut().for_each(|y| *y /= lower[i * n + i]);
    }
    for i in (0..n).rev() {
        let (head, done) = b.split_at_mut((i + 1) * d);
        let current = &mut head[i * d..];
        for (k, done) in done.chunks_exact(d).enumerate() {
            let factor = lower[(i + 1 + k) * n + i];
            current.iter_mut().zip(done).for_each(|(x, done)| *x -= factor * done);
        }
        current.iter_mut().for_each(|x| *x /= lower[i * n + i]);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::alike::far;

    #[test]
    fn it_solves_the_normal_equations() -> Result<()> {
        let z = Tensor::randn(0_f32, 1.0, (5, 4, 9), &Device::Cpu)?;
        let eps = 0.1;
        let inverse = ridge_inverse(&z, eps)?;
        let gram = (z.matmul(&z.t()?.contiguous()?)?
            + (Tensor::eye(4, candle_core::DType::F32, &Device::Cpu)? * eps)?.broadcast_left(5)?)?;
        let far = far(&gram.matmul(&inverse)?, &z)?;
        assert!(far < 1e-5, "{far}");
        Ok(())
    }

    #[test]
    fn missing_rows_are_zero_and_leave_the_others_alone() -> Result<()> {
        let row = Tensor::new(&[[[3.0_f32, 4.0], [0.0, 0.0]]], &Device::Cpu)?;
        let inverse = ridge_inverse(&row, 1.0)?.flatten_all()?.to_vec1::<f32>()?;
        let expected = [3.0 / 26.0, 4.0 / 26.0, 0.0, 0.0];
        assert!(inverse.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{inverse:?}");
        Ok(())
    }
}
