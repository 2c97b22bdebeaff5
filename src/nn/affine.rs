//! `x Wᵀ + b`, with a LeakyReLU behind it, as one operator on the CPU. Of candle's own it takes five, and its backward pass allocates and adds up a gradient
//! for each, which takes as long as the products.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{
    activation::leaky_relu_gradient,
    host,
    product::{LANES, Matrix, Product, Rows, RowsMut, Start, Transposed, padded},
    scratch::with_scratch,
    vector::vectorized,
};

/// Rows of x that go through a product together: they, the weights and the result fit the second-level cache.
const TILE: usize = 64;

/// Columns of a gradient that go through a product together: with as many rows as a tile they fit the first-level cache.
const COLUMNS: usize = 112;

/// The slope of no LeakyReLU at all.
pub(super) const IDENTITY: f32 = 1.0;

/// `x [.., in]`, `weight [out, in]`, `bias [out]` → `[.., out]`, all in host memory; what is negative of it times `slope`.
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
        let out = product(
            x,
            &transposed,
            bias.as_ref(),
            #[inline(always)]
            |out| {
                if self.slope != IDENTITY {
                    out.iter_mut().for_each(|x| *x = if *x > 0.0 { *x } else { *x * self.slope });
                }
            },
        );
        let mut shape = x_layout.dims().to_vec();
        *shape.last_mut().expect("it has inputs") = outputs;
        Ok((CpuStorage::F32(out), shape.into()))
    }

    /// Gradients of x, the weight and the bias.
    fn backward(&self, x: &Tensor, weight: &Tensor, out: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 3]> {
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
                let dx = product(&g, &Matrix::of((outputs, inputs), &w_values), None, |_| {});
                Some(Tensor::from_vec(dx, x.shape(), device)?)
            }
        };
        let (dw, db) = sums_over_rows(&g, &x_values, widths);
        Ok([dx, Some(Tensor::from_vec(dw, weight.shape(), device)?), Some(Tensor::from_vec(db, outputs, device)?)])
    }
}

/// `start + x w` for x of as many columns as w has rows, without padding. `finish` gets what is done while it is in the cache.
pub(super) fn product(x: &[f32], w: &Matrix, start: Option<&Matrix>, finish: impl Fn(&mut [f32]) + Sync) -> Vec<f32> {
    let (inner, columns) = (w.rows(), w.columns());
    let start = start.map_or(Start::Zero, |row| Start::Row(row.padded_row(0)));
    let mut out = vec![0.0; x.len() / inner * columns];
    host::for_chunks(&mut out, TILE * columns, inner, |tile, out| {
        let rows = out.len() / columns;
        let a = Rows { values: &x[tile * TILE * inner..], stride: inner };
        let shape = (rows, inner, columns);
        if columns.is_multiple_of(LANES) {
            Product { shape, a, b: w.view(), start, c: RowsMut { values: out, stride: columns } }.run();
            return finish(out);
        }
        let stride = padded(columns);
        with_scratch([rows * stride], |[c]| {
            Product { shape, a, b: w.view(), start, c: RowsMut { values: c, stride } }.run();
            for (out, c) in out.chunks_exact_mut(columns).zip(c.chunks_exact(stride)) {
                out.copy_from_slice(&c[..columns]);
            }
        });
        finish(out);
    });
    out
}

/// `gᵀ x [out, in]` and the column sums of `g [rows, out]`.
pub(super) fn sums_over_rows(g: &[f32], x: &[f32], Widths { inputs, outputs }: Widths) -> (Vec<f32>, Vec<f32>) {
    let stride = padded(inputs);
    // Each thread sums some outputs' rows, over all rows of x in their order: the result doesn't depend on the threads.
    let share = outputs.div_ceil(rayon::current_num_threads()).next_multiple_of(8);
    // A row's last value is the bias's.
    let width = inputs + 1;
    let mut sums = vec![0.0; outputs * width];
    host::for_chunks(&mut sums, share * width, x.len() / inputs, |chunk, sums| {
        let (first, rows) = (chunk * share, sums.len() / width);
        with_scratch([rows * stride, rows, TILE * stride, TILE * COLUMNS], |[dw, db, padding, columns]| {
            dw.fill(0.0);
            db.fill(0.0);
            padding.fill(0.0);
            for (g, x) in g.chunks(TILE * outputs).zip(x.chunks(TILE * inputs)) {
                let b = if inputs.is_multiple_of(LANES) {
                    x
                } else {
                    for (padded, x) in padding.chunks_exact_mut(stride).zip(x.chunks_exact(inputs)) {
                        padded[..inputs].copy_from_slice(x);
                    }
                    &*padding
                };
                let (b, inner) = (Rows { values: b, stride }, g.len() / outputs);
                let parts = dw.chunks_mut(COLUMNS * stride).zip(db.chunks_mut(COLUMNS));
                for ((dw, db), first) in parts.zip((first..).step_by(COLUMNS)) {
                    for (columns, g) in columns.chunks_exact_mut(COLUMNS).zip(g.chunks_exact(outputs)) {
                        columns[..db.len()].copy_from_slice(&g[first..first + db.len()]);
                    }
                    let a = Transposed(Rows { values: columns, stride: COLUMNS });
                    let (shape, c) = ((db.len(), inner, inputs), RowsMut { values: dw, stride });
                    Product { shape, a, b, start: Start::Present, c }.run();
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
            for ((sums, dw), db) in sums.chunks_exact_mut(width).zip(dw.chunks_exact(stride)).zip(db) {
                sums[..inputs].copy_from_slice(&dw[..inputs]);
                sums[inputs] = *db;
            }
        });
    });
    let dw = sums.chunks_exact(width).flat_map(|row| &row[..inputs]).copied().collect();
    (dw, sums.chunks_exact(width).map(|row| row[inputs]).collect())
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
        _: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, out, gradient).map(|[x, weight, bias]| (x, weight, bias))
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
        self.backward(x, weight, out, gradient).map(|[x, weight, _]| (x, weight))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::leaky_relu;

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
            let loss_weights = random(&[leading, &[outputs]].concat())?;
            let flat = x.reshape(((), inputs))?;
            let plain = flat.matmul(&weight.t()?)?.reshape(loss_weights.shape())?;
            let pairs = [
                (affine(&x, &weight, Some(&bias), IDENTITY)?, plain.broadcast_add(&bias)?),
                (affine(&x, &weight, Some(&bias), 0.1)?, leaky_relu(&plain.broadcast_add(&bias)?, 0.1)?),
                (affine(&x, &weight, None, IDENTITY)?, plain.clone()),
            ];
            for (own, composed) in pairs {
                let results = [own, composed].map(|out| -> Result<_> {
                    let gradients = (&out * loss_weights.as_tensor())?.sum_all()?.backward()?;
                    let of = |var: &Var| gradients.get(var).map(|gradient| gradient.flatten_all()?.to_vec1::<f32>());
                    let all = [of(&x), of(&weight), of(&bias), Some(out.flatten_all()?.to_vec1())];
                    all.into_iter().flatten().collect::<Result<Vec<Vec<f32>>>>()
                });
                let [own, composed] = results;
                for (own, composed) in own?.iter().flatten().zip(composed?.iter().flatten()) {
                    assert!((own - composed).abs() < 1e-3 * composed.abs().max(0.1), "{own} {composed}");
                }
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
