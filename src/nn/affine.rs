//! `x Wᵀ + b`, with a LeakyReLU behind it, as one operator on the CPU. Of candle's own it takes five, and its backward
//! pass allocates and adds up a gradient for each, which takes as long as the products.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{
    activation::leaky_relu_gradient,
    host,
    product::{Matrix, Product, Rows, RowsMut, Start, Transposed, copy_rows, multiply_from, padded},
    scratch::with_scratch,
    vector::vectorized,
};

/// Rows of x that go through a product together: they, the weights and the result fit the second-level cache.
const TILE: usize = 64;

/// Columns of a gradient that go through a product together: with as many rows as a tile they fit the first-level
/// cache.
const COLUMNS: usize = 112;

/// The slope of no LeakyReLU at all.
pub(super) const IDENTITY: f32 = 1.0;

/// `x [.., in]`, `weight [out, in]`, `bias [out]` → `[.., out]`, all in host memory; what is negative of it times
/// `slope`.
pub(super) fn affine(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, slope: f32) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, Affine { slope }),
        None => x.apply_op2(&weight, Affine { slope }),
    }
}

struct Affine {
    /// Not negative, so that the sign of a result tells that of what it was made from.
    slope: f32,
}

/// Numbers of inputs and outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Widths {
    /// Of `x [.., in]` and `weight [out, in]`.
    pub(super) fn of(x: &[usize], weight: &[usize]) -> Result<Self> {
        match (x.last(), weight) {
            (Some(&inputs), &[outputs, columns]) if inputs == columns && inputs > 0 && outputs > 0 => {
                Ok(Self { inputs, outputs })
            }
            _ => bail!("{x:?} by a linear layer of {weight:?}"),
        }
    }
}

impl Affine {
    fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let Widths { inputs, outputs } = Widths::of(x_layout.dims(), weight_layout.dims())?;
        if let Some(bias) = bias.filter(|bias| bias.len() != outputs) {
            bail!("a bias of {} for {outputs} outputs", bias.len());
        }
        let (x, weight) = (host::floats(x, x_layout)?, host::floats(weight, weight_layout)?);
        let transposed = Matrix::transpose_of((outputs, inputs), weight);
        let bias = bias.map(|bias| Matrix::of((1, outputs), bias));
        let (out, _) = product_and(x, &transposed, bias.as_ref(), |_, out| {
            if self.slope != IDENTITY {
                vectorized(
                    #[inline(always)]
                    || out.iter_mut().for_each(|x| *x = if *x > 0.0 { *x } else { *x * self.slope }),
                );
            }
        });
        let mut shape = x_layout.dims().to_vec();
        *shape.last_mut().expect("it has inputs") = outputs;
        Ok((CpuStorage::F32(out), shape.into()))
    }

    /// Gradients of x, the weight, and a bias where there is one.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let widths @ Widths { inputs, outputs } = Widths::of(x.dims(), weight.dims())?;
        let gradient = match self.slope {
            IDENTITY => gradient.contiguous()?,
            slope => leaky_relu_gradient(out, gradient, slope)?,
        };
        let (x_values, w_values, g) = (host::values(x)?, host::values(weight)?, host::values(&gradient)?);
        let device = x.device();
        let dx = match x.track_op() {
            false => None,
            true => {
                let dx = product(&g, &Matrix::of((outputs, inputs), &w_values));
                Some(Tensor::from_vec(dx, x.shape(), device)?)
            }
        };
        let (dw, db) = SumsOverRows { g: &g, x: &x_values, widths, columns: bias.is_some() }.run();
        let db = bias.map(|_| Tensor::from_vec(db, outputs, device)).transpose()?;
        Ok([dx, Some(Tensor::from_vec(dw, weight.shape(), device)?), db])
    }
}

/// `x w` for x of as many columns as w has rows, without padding.
pub(super) fn product(x: &[f32], w: &Matrix) -> Vec<f32> {
    product_and(x, w, None, |_, _| ()).0
}

/// `start + x w`. `finish` gets the first row of a tile, and the tile while it is in the cache; what it returns, in the
/// order of the tiles.
pub(super) fn product_and<R: Send>(
    x: &[f32],
    w: &Matrix,
    start: Option<&Matrix>,
    finish: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> (Vec<f32>, Vec<R>) {
    let (inner, columns) = (w.rows(), w.columns());
    let start = start.map(|row| row.padded_row(0));
    host::make_and(x.len() / inner * columns, TILE * columns, inner, |tile, out| {
        let (first, rows) = (tile * TILE, out.len() / columns);
        let a = Rows { values: &x[first * inner..], stride: inner };
        multiply_from((rows, inner, columns), a, w.view(), start, out);
        finish(first, out)
    })
}

/// `gᵀ x [out, in]` for `g [rows, out]`.
pub(super) fn sums_over_rows(g: &[f32], x: &[f32], widths: Widths) -> Vec<f32> {
    SumsOverRows { g, x, widths, columns: false }.run().0
}

/// The gradient of a layer's weight, and that of its bias where it has one.
struct SumsOverRows<'a> {
    /// `[rows, out]`.
    g: &'a [f32],
    /// `[rows, in]`.
    x: &'a [f32],
    widths: Widths,
    /// Whether the sums of g's columns are wanted, too.
    columns: bool,
}

impl SumsOverRows<'_> {
    /// `gᵀ x [out, in]`, and `[out]` or nothing.
    fn run(&self) -> (Vec<f32>, Vec<f32>) {
        let Widths { inputs, outputs } = self.widths;
        let stride = padded(inputs);
        // Each thread sums some outputs' rows, over all rows of x in their order: the result doesn't depend on the
        // threads.
        let share = outputs.div_ceil(rayon::current_num_threads()).next_multiple_of(8);
        let (dw, db) = host::make_and(outputs * inputs, share * inputs, self.x.len() / inputs, |chunk, out| {
            let rows = out.len() / inputs;
            let mut db = vec![0.0; if self.columns { rows } else { 0 }];
            if stride == inputs {
                self.add(chunk * share, out, &mut db);
            } else {
                with_scratch([rows * stride], |[dw]| {
                    self.add(chunk * share, dw, &mut db);
                    copy_rows(RowsMut { values: out, stride: inputs }, Rows { values: dw, stride }, (rows, inputs));
                });
            }
            db
        });
        (dw, db.concat())
    }

    /// Of the outputs from `first` on: `dw`, padded, and `db`.
    fn add(&self, first: usize, dw: &mut [f32], db: &mut [f32]) {
        let Widths { inputs, outputs } = self.widths;
        let stride = padded(inputs);
        dw.fill(0.0);
        with_scratch([TILE * stride, TILE * COLUMNS], |[padding, columns]| {
            for (g, x) in self.g.chunks(TILE * outputs).zip(self.x.chunks(TILE * inputs)) {
                let inner = g.len() / outputs;
                let b = if stride == inputs {
                    x
                } else {
                    let to = RowsMut { values: padding, stride };
                    copy_rows(to, Rows { values: x, stride: inputs }, (inner, inputs));
                    &*padding
                };
                let b = Rows { values: b, stride };
                for (part, dw) in dw.chunks_mut(COLUMNS * stride).enumerate() {
                    let (start, width) = (part * COLUMNS, dw.len() / stride);
                    for (columns, g) in columns.chunks_exact_mut(COLUMNS).zip(g.chunks_exact(outputs)) {
                        columns[..width].copy_from_slice(&g[first + start..][..width]);
                    }
                    let a = Transposed(Rows { values: columns, stride: COLUMNS });
                    let (shape, c) = ((width, inner, inputs), RowsMut { values: dw, stride });
                    Product { shape, a, b, start: Start::Present, c }.run();
                    if let Some(db) = db.get_mut(start..start + width) {
                        vectorized(
                            #[inline(always)]
                            || {
                                for columns in columns.chunks_exact(COLUMNS).take(inner) {
                                    db.iter_mut().zip(columns).for_each(|(db, g)| *db += g);
                                }
                            },
                        );
                    }
                }
            }
        });
    }
}

impl CustomOp3 for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), Some(host::floats(bias, bias_layout)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, Some(bias), out, gradient).map(|[x, weight, bias]| (x, weight, bias))
    }
}

impl CustomOp2 for Affine {
    fn name(&self) -> &'static str {
        "project"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, None, out, gradient).map(|[x, weight, _]| (x, weight))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::{alike::assert_alike, leaky_relu};

    /// Outputs and gradients are those of candle's operators, over several tiles and in every remainder.
    #[test]
    fn equals_the_composition_with_gradients() -> Result<()> {
        let device = &Device::Cpu;
        let random = |shape: &[usize]| Var::randn(0f32, 1f32, shape, device);
        for (leading, inputs, outputs) in
            [(&[3, 50][..], 48, 144), (&[1], 1, 1), (&[130], 20, 200), (&[2, 3, 11], 7, 33)]
        {
            let (x, weight) = (random(&[leading, &[inputs]].concat())?, random(&[outputs, inputs])?);
            let bias = random(&[outputs])?;
            let plain = x.reshape(((), inputs))?.matmul(&weight.t()?)?.reshape([leading, &[outputs]].concat())?;
            let biased = plain.broadcast_add(&bias)?;
            let pairs = [
                (affine(&x, &weight, Some(&bias), IDENTITY)?, biased.clone()),
                (affine(&x, &weight, Some(&bias), 0.1)?, leaky_relu(&biased, 0.1)?),
                (affine(&x, &weight, None, IDENTITY)?, plain),
            ];
            for (own, composed) in pairs {
                assert_alike(&own, &composed, &[&x, &weight, &bias])?;
            }
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() -> Result<()> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu);
        assert!(affine(&zeros(&[2, 3])?, &zeros(&[4, 2])?, None, IDENTITY).is_err());
        assert!(affine(&zeros(&[2, 3])?, &zeros(&[4, 3])?, Some(&zeros(&[3])?), IDENTITY).is_err());
        assert_eq!(affine(&zeros(&[0, 3])?, &zeros(&[4, 3])?, None, IDENTITY)?.dims(), [0, 4]);
        Ok(())
    }
}
