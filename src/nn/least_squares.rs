//! Least squares with a small ridge, for many small systems.

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
        // Cholesky: Z Zᵀ + ε I = L Lᵀ, L below the diagonal.
        let mut lower = vec![0.0_f64; rows * rows];
        for i in 0..rows {
            for j in 0..=i {
                let known: f64 = (0..j).map(|k| lower[i * rows + k] * lower[j * rows + k]).sum();
                let rest = dot(row(i), row(j)) - known;
                lower[i * rows + j] = if i == j { (rest + eps).sqrt() } else { rest / lower[j * rows + j] };
            }
        }
        // Column by column: L y = z, Lᵀ w = y.
        let mut solved: Vec<f64> = z.iter().map(|&value| f64::from(value)).collect();
        for i in 0..rows {
            let (done, rest) = solved.split_at_mut(i * d);
            let (current, _) = rest.split_at_mut(d);
            for (k, done) in done.chunks_exact(d).enumerate() {
                let factor = lower[i * rows + k];
                current.iter_mut().zip(done).for_each(|(y, done)| *y -= factor * done);
            }
            current.iter_mut().for_each(|y| *y /= lower[i * rows + i]);
        }
        for i in (0..rows).rev() {
            let (head, done) = solved.split_at_mut((i + 1) * d);
            let current = &mut head[i * d..];
            for (k, done) in done.chunks_exact(d).enumerate() {
                let factor = lower[(i + 1 + k) * rows + i];
                current.iter_mut().zip(done).for_each(|(w, done)| *w -= factor * done);
            }
            current.iter_mut().for_each(|w| *w /= lower[i * rows + i]);
        }
        out.extend(solved.into_iter().map(|value| value as f32));
    }
    Tensor::from_vec(out, (count, rows, d), z.device())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn it_solves_the_normal_equations() -> Result<()> {
        let z = Tensor::randn(0_f32, 1.0, (5, 4, 9), &Device::Cpu)?;
        let eps = 0.1;
        let inverse = ridge_inverse(&z, eps)?;
        let gram = (z.matmul(&z.t()?.contiguous()?)?
            + (Tensor::eye(4, candle_core::DType::F32, &Device::Cpu)? * eps)?.broadcast_left(5)?)?;
        let far = (gram.matmul(&inverse)? - z)?.abs()?.max_all()?.to_scalar::<f32>()?;
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
