//! A learned filter over time, applied in the frequency domain.

use std::f64::consts::TAU;

use candle_core::{Result, Tensor};

/// `irfft(rfft(h) ∘ W)` over time, both transforms orthonormal: a circular convolution whose kernel is learned per
/// channel by its spectrum W.
///
/// Histories are short, so that the transforms are products with constant matrices: with C and S the cosines and sines
/// `/ √L`, the spectrum is `C h - i S h`, and the way back is their transposes, inner frequencies counted twice for
/// their mirror images.
#[derive(Debug, Clone)]
pub struct FrequencyFilter {
    /// `[L, 2F]`: Cᵀ, then -Sᵀ.
    forward: Tensor,
    /// `[2F, L]`: C, then -S, inner frequencies twice.
    backward: Tensor,
    /// `[1, F, d, 2]`: W as it is learned. Nothing is computed from it before it is used: training changes it.
    weight: Tensor,
}

impl FrequencyFilter {
    /// How many frequencies a real sequence has.
    pub fn frequencies(length: usize) -> usize {
        length / 2 + 1
    }

    /// `weight [1, F, d, 2]`: real and imaginary parts last.
    pub fn new(weight: &Tensor, length: usize) -> Result<Self> {
        let count = Self::frequencies(length);
        let (mut forward, mut backward) = (vec![0.0_f32; length * 2 * count], vec![0.0_f32; 2 * count * length]);
        for frequency in 0..count {
            let mirrored = frequency > 0 && 2 * frequency != length;
            for time in 0..length {
                // The product modulo L keeps the angle exact.
                let angle = TAU * ((frequency * time) % length) as f64 / length as f64;
                let scale = (length as f64).sqrt().recip();
                for (part, value) in [(0, angle.cos() * scale), (count, -angle.sin() * scale)] {
                    forward[time * 2 * count + part + frequency] = value as f32;
                    backward[(part + frequency) * length + time] = (if mirrored { 2.0 * value } else { value }) as f32;
                }
            }
        }
        let device = weight.device();
        Ok(Self {
            forward: Tensor::from_vec(forward, (length, 2 * count), device)?,
            backward: Tensor::from_vec(backward, (2 * count, length), device)?,
            weight: weight.clone(),
        })
    }

    /// `h [B, L, d]` → `[B, L, d]`.
    pub fn forward(&self, h: &Tensor) -> Result<Tensor> {
        let (users, length, d) = h.dims3()?;
        let count = self.weight.dim(1)?;
        let part = |n: usize| self.weight.squeeze(0)?.narrow(2, n, 1)?.squeeze(2)?.t()?.contiguous(); // [d, F]
        let (weight_real, weight_imaginary) = (part(0)?, part(1)?);
        let by_channel = h.transpose(1, 2)?.contiguous()?.reshape((users * d, length))?;
        let spectrum = by_channel.matmul(&self.forward)?.reshape((users, d, 2 * count))?;
        let (real, imaginary) = (spectrum.narrow(2, 0, count)?, spectrum.narrow(2, count, count)?);
        let filtered_real = (real.broadcast_mul(&weight_real)? - imaginary.broadcast_mul(&weight_imaginary)?)?;
        let filtered_imaginary = (imaginary.broadcast_mul(&weight_real)? + real.broadcast_mul(&weight_imaginary)?)?;
        let filtered = Tensor::cat(&[filtered_real, filtered_imaginary], 2)?.reshape((users * d, 2 * count))?;
        filtered.matmul(&self.backward)?.reshape((users, d, length))?.transpose(1, 2)?.contiguous()
    }
}
