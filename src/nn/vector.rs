//! Vectorised element-wise mathematics without `unsafe`.
//!
//! candle's `exp` and `tanh` call the C library per element. The functions here are branch-free, so that the compiler
//! vectorises the loops around them; [`vectorized`] compiles such a loop for the widest instructions the machine has.

/// Runs `body` compiled for the best instruction set of this machine (AVX-512, AVX2, NEON, ...).
///
/// The loops in `body` have to be in it or in `#[inline(always)]` functions to profit: a closure that is handed on to
/// `for_each`, `Option::map_or` or `array::map` may be compiled without those instructions, and each `mul_add` in it
/// calls the C library.
#[inline(always)]
pub(crate) fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

/// `e^x` to about 1e-7 relative; x is clamped to [-87, 88], where f32 is still normal.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer, which then sits in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, so that n·ln 2 is subtracted without losing bits.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // (e^r - 1 - r) / r² on |r| ≤ ln 2 / 2, interpolated at Chebyshev nodes.
    let p = 0.001_392_617_6_f32;
    let p = p.mul_add(r, 0.008_363_173);
    let p = p.mul_add(r, 0.041_666_556);
    let p = p.mul_add(r, 0.166_665_77);
    let p = p.mul_add(r, 0.5);
    let mantissa = (r * r).mul_add(p, r) + 1.0;
    let exponent = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127);
    mantissa * f32::from_bits((exponent as u32) << 23)
}

/// `tanh x` to about 1e-7 absolute, and relative near 0.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    // (tanh(x)/x - 1) / x² on |x| ≤ 0.625, interpolated at Chebyshev nodes in x².
    let y = x * x;
    let p = -0.006_096_714_f32;
    let p = p.mul_add(y, 0.020_997_18);
    let p = p.mul_add(y, -0.053_850_91);
    let p = p.mul_add(y, 0.133_327_7);
    let p = p.mul_add(y, -0.333_333_3);
    let near = (x * y).mul_add(p, x);
    let far = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

/// The normal distribution at x: the share below it to 3e-7 absolute (Abramowitz and Stegun, 7.1.26), and the density.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs();
    let e = exp(-0.5 * z * z);
    let t = 1.0 / z.mul_add(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let p = 1.061_405_4_f32;
    let p = p.mul_add(t, -1.453_152_1);
    let p = p.mul_add(t, 1.421_413_8);
    let p = p.mul_add(t, -0.284_496_72);
    let p = p.mul_add(t, 0.254_829_6);
    let tail = 0.5 * p * t * e;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, e * 0.398_942_3)
}

/// Lanes of a reduction: enough for four independent AVX-512 accumulators.
const LANES: usize = 16;

/// Sum of `f(n)` over the values, in lanes that the compiler keeps in registers.
#[inline(always)]
pub(crate) fn sum_by(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] += f(block[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}

/// Σ aₙ·bₙ.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] = a[lane].mul_add(b[lane], lanes[lane]);
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Σ aₙ·bₙ·cₙ.
#[inline(always)]
pub(crate) fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let (c_blocks, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a_blocks.iter().zip(b_blocks).zip(c_blocks) {
        for lane in 0..LANES {
            lanes[lane] = (a[lane] * b[lane]).mul_add(c[lane], lanes[lane]);
        }
    }
    let rest = a_rest.iter().zip(b_rest).zip(c_rest);
    lanes.iter().sum::<f32>() + rest.map(|((a, b), c)| a * b * c).sum::<f32>()
}

/// The largest value, or minus infinity of none.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

/// `to += factor · from`.
#[inline(always)]
pub(crate) fn add_scaled(to: &mut [f32], from: &[f32], factor: f32) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from.mul_add(factor, *to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_tanh_are_as_good_as_f32() {
        for n in -86_000..88_000 {
            let x = n as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "exp({x})");
        }
        for n in -20_000..20_000 {
            let x = n as f32 / 1000.0;
            let exact = f64::from(x).tanh();
            assert!((f64::from(tanh(x)) - exact).abs() <= 2e-7 * exact.abs().max(1e-3), "tanh({x})");
        }
        assert!(exp(-1e12) < 2e-38 && exp(-1e12) >= 0.0);
        assert_eq!(tanh(0.0), 0.0);
        assert_eq!(tanh(1e9), 1.0);
    }

    #[test]
    fn the_normal_distribution() {
        // Φ by Simpson's rule from one thousandth to the next.
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let mut below = 0.5;
        for n in 0..8000 {
            let x = f64::from(n) / 1000.0;
            for (x, below) in [(x, below), (-x, 1.0 - below)] {
                let (share, height) = normal(x as f32);
                assert!((f64::from(share) - below).abs() < 3e-7, "share below {x}: {share}");
                assert!((f64::from(height) - density(x)).abs() < 1e-7, "density at {x}: {height}");
            }
            below += (density(x) + 4.0 * density(x + 0.0005) + density(x + 0.001)) / 6000.0;
        }
        assert!(normal(-1e9).0 < 2e-38 && normal(1e9).0 == 1.0);
    }

    #[test]
    fn sums() {
        let b: Vec<f32> = (0..15).map(|n| (n as f32) - 7.0).collect();
        assert_eq!(dot(&b, &b), b.iter().map(|x| x * x).sum::<f32>());
        assert_eq!(dot3(&b, &b, &b), 0.0);
        assert_eq!(dot3(&[2.0; 19], &[3.0; 19], &[1.5; 19]), 171.0);
        assert_eq!(max(&b), 7.0);
        assert_eq!(sum_by(&b, |x| x), 0.0);
    }
}
