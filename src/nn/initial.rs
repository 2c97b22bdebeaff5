//! Initial values from a seed.

use candle_core::{Device, Result, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a tensor is initialised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// All the same.
    Constant(f32),
    /// Normal with deviation √(2 / (fan in + fan out)); for an embedding these are its dimension and its rows. As in
    /// PyTorch, dimensions after the second are a receptive field, which multiplies both.
    XavierNormal,
    /// Normal with this deviation.
    Normal(f64),
    /// Uniform within ±√(6 / (fan in + fan out)).
    XavierUniform,
}

impl Initial {
    /// A tensor of this kind. Its values depend on the seed and the name alone, not on other tensors, so that adding a
    /// parameter to a model leaves the others' initial values as they are.
    pub fn tensor(self, name: &str, shape: &[usize], seed: u64) -> Result<Tensor> {
        let count = shape.iter().product();
        let mut key = *blake3::hash(name.as_bytes()).as_bytes();
        key.iter_mut().zip(seed.to_le_bytes()).for_each(|(key, seed)| *key ^= seed);
        let mut rng = ChaCha8Rng::from_seed(key);
        let (fans, field) = shape.split_at(shape.len().min(2));
        let fans = (fans.iter().sum::<usize>() * field.iter().product::<usize>()).max(1) as f64;
        let mut normal = |deviation: f64| -> Vec<f32> {
            let mut values = Vec::with_capacity(count + 1);
            while values.len() < count {
                // Box-Muller; 1 - u lies in (0, 1].
                let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * deviation;
                let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
                values.extend([(radius * cos) as f32, (radius * sin) as f32]);
            }
            values.truncate(count);
            values
        };
        let values = match self {
            Self::Constant(value) => vec![value; count],
            Self::Normal(deviation) => normal(deviation),
            Self::XavierNormal => normal((2.0 / fans).sqrt()),
            Self::XavierUniform => {
                let bound = (6.0 / fans).sqrt();
                (0..count).map(|_| ((2.0 * rng.random::<f64>() - 1.0) * bound) as f32).collect()
            }
        };
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xavier_normal_has_its_deviation_and_repeats() -> Result<()> {
        for (shape, fans) in [(&[300, 100][..], 400.0), (&[1, 150, 150], 151.0 * 150.0)] {
            let values = Initial::XavierNormal.tensor("a", shape, 7)?.flatten_all()?.to_vec1::<f32>()?;
            let variance = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
            assert!((variance / (2.0 / fans) - 1.0).abs() < 0.03, "{shape:?}");
        }
        let values = Initial::XavierNormal.tensor("a", &[300, 100], 7)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(values, Initial::XavierNormal.tensor("a", &[300, 100], 7)?.flatten_all()?.to_vec1::<f32>()?);
        assert_ne!(values, Initial::XavierNormal.tensor("b", &[300, 100], 7)?.flatten_all()?.to_vec1::<f32>()?);
        assert_ne!(values, Initial::XavierNormal.tensor("a", &[300, 100], 8)?.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }
}
