//! One side's interests: attention to its events, pooling over its sets, and what they add to the first prediction
//! layer and to the logit.

use candle_core::{Result, Tensor};

use super::{
    super::{
        Network,
        first_layer::FirstLayer,
        state::{Interests, Sets},
    },
    items::Features,
};
use crate::nn::{Matrix, NEVER, Product, Rows, RowsMut, Start, exponentials, padded, transpose, vector, with_scratch};

/// A side's share of the first layer's weights.
#[derive(Debug)]
pub(super) struct InterestWeights {
    /// 0 is the recommendation side, 1 the search side.
    number: usize,
    /// Of the poolings over all, similar, dissimilar events, below each other, each `[padded(d), h]`.
    by_set: Matrix,
    /// Their sum: where all poolings are one.
    summed: Matrix,
    /// What a match with all, with the similar, with the dissimilar events adds to the logit.
    matching: Option<[f32; 3]>,
    /// Likewise its inner products with the pooled interests.
    inner_products: Option<[f32; 3]>,
}

/// One side: which columns of the scores are which events, and how pooled vectors reach the first layer.
pub(super) struct PreparedSide<'a> {
    encoded: &'a Matrix,
    /// Events of the similar set, or all of them; the dissimilar set begins at a whole vector.
    first: usize,
    /// Events of the dissimilar set; 0 where there is only one.
    second: usize,
    /// `[d, columns]`: encodings as columns.
    transposed: Matrix,
    /// `[columns]`: keeps the padding between the sets out of the softmax.
    bias: Vec<f32>,
    /// `[events, h]`: the events' encodings times the first layer's weights, where that is less work than pooling.
    direct: Option<Matrix>,
}

/// A tile of candidates against a side's events, a row each.
struct AgainstEvents<'a> {
    /// Scores by column; their exponentials are left there.
    scores: &'a mut [f32],
    /// Inner products, likewise; nothing for models that don't need them.
    products: &'a [f32],
}

/// The maximum of the scores of each set, and the sum of `e^(score - maximum)`: each set has its own maximum, so that
/// neither vanishes beside the other.
struct Sums {
    first: (f32, f32),
    second: Option<(f32, f32)>,
}

impl InterestWeights {
    /// Of one side.
    pub(super) fn new(network: &Network, number: usize) -> Result<Self> {
        let first = network.head.layers[0].weight(); // [h, 2·3d | u | d]
        let (columns, d, h) = (FirstLayer::new(&network.config), network.config.hidden_dim, first.dim(0)?);
        let poolings = network.config.interest_extraction.poolings();
        let (mut by_set, mut summed) = (Matrix::zeros(poolings * padded(d), h), Matrix::zeros(d, h));
        for set in 0..poolings {
            let weight = Matrix::transposed(&columns.interest(number, set).of(first)?)?;
            for row in 0..d {
                by_set.row_mut(set * padded(d) + row).copy_from_slice(weight.row(row));
                vector::add_scaled(summed.row_mut(row), weight.row(row), 1.0);
            }
        }
        let own = |weights: &Option<Tensor>| -> Result<Option<[f32; 3]>> {
            let Some(weights) = weights else { return Ok(None) };
            let weights = weights.narrow(0, number * poolings, poolings)?.to_vec1::<f32>()?;
            Ok(Some(std::array::from_fn(|set| weights.get(set).copied().unwrap_or(0.0))))
        };
        let (matching, inner_products) = (own(&network.matching)?, own(&network.inner_products)?);
        Ok(Self { number, by_set, summed, matching, inner_products })
    }

    /// What a user's candidates share of this side.
    pub(super) fn prepare<'a>(
        &self,
        Interests { encoded, sets }: &'a Interests<Matrix>,
        candidates: usize,
    ) -> PreparedSide<'a> {
        let n = encoded.rows();
        let (d, h) = (self.summed.rows(), self.summed.columns());
        let (first, second) = match sets {
            Sets::Undivided => (n, 0),
            Sets::Divided { similar, .. } => (*similar, n - similar),
        };
        let columns = padded(first) + padded(second);
        let (mut transposed, mut bias) = (Matrix::zeros(d, columns), vec![NEVER; columns]);
        for (column, event, count) in [(0, 0, first), (padded(first), first, second)] {
            let to = RowsMut { values: transposed.values_mut().get_mut(column..).unwrap_or_default(), stride: columns };
            transpose(to, encoded.view().rows_from(event), (count, d));
            bias[column..column + count].fill(0.0);
        }
        // Multiply-adds per candidate and once, either way.
        let poolings = if second == 0 { 1 } else { 3 };
        let sets = if second == 0 { 1 } else { 2 };
        let pooling = candidates * (n * d + poolings * d * h);
        let directly = candidates * sets * n * h + sets * n * d * h;
        let direct = (directly < pooling).then(|| self.direct(encoded, first, second));
        PreparedSide { encoded, first, second, transposed, bias, direct }
    }

    /// Adds a side's share to the first layer of each row of features, and to its logit what goes past the layers.
    pub(super) fn add(&self, side: &PreparedSide<'_>, layout: Features, features: &mut [f32], logits: &mut [f32]) {
        let (Features { d, h, .. }, rows) = (layout, logits.len());
        let (stride, width, columns) = (layout.stride(), padded(d), side.bias.len());
        let inner = match (&side.direct, side.second) {
            (Some(direct), _) => direct.rows(),
            (None, 0) => width,
            (None, _) => 3 * width,
        };
        let with_products = if self.inner_products.is_some() { rows } else { 0 };
        with_scratch([rows * columns, rows * inner, with_products * columns], |[scores, pooled, products]| {
            if with_products > 0 {
                Product {
                    shape: (rows, d, columns),
                    a: Rows { values: features, stride },
                    b: side.transposed.view(),
                    start: Start::Zero,
                    c: RowsMut { values: products, stride: columns },
                }
                .run();
            }
            let products = &*products;
            Product {
                shape: (rows, d, columns),
                a: Rows { values: features, stride }.columns_from(layout.keys(self.number)),
                b: side.transposed.view(),
                start: Start::Row(&side.bias),
                c: RowsMut { values: scores, stride: columns },
            }
            .run();
            let right = match &side.direct {
                Some(direct) => {
                    vector::vectorized(
                        #[inline(always)]
                        || {
                            let outputs = pooled.chunks_exact_mut(inner).zip(logits.iter_mut());
                            let inputs = scores.chunks_exact_mut(columns).zip(by_row(products, columns));
                            for ((scores, products), (attention, logit)) in inputs.zip(outputs) {
                                let sums = side.exponentials(scores);
                                *logit += self.matches(side, &sums) + self.products(side, scores, products, &sums);
                                side.attention(scores, &sums, attention);
                            }
                        },
                    );
                    direct
                }
                None => {
                    let pooled = RowsMut { values: pooled, stride: inner };
                    self.pool(side, AgainstEvents { scores, products }, pooled, logits);
                    if side.second == 0 { &self.summed } else { &self.by_set }
                }
            };
            // A single pooling has padded rows, the weights have d.
            let inner_used = if side.direct.is_none() && side.second == 0 { d } else { inner };
            Product {
                shape: (rows, inner_used, h),
                a: Rows { values: pooled, stride: inner },
                b: right.view(),
                start: Start::Present,
                c: RowsMut { values: &mut features[layout.block()..], stride },
            }
            .run();
        });
    }

    /// Scores to pooled encodings: over all, similar, dissimilar events, or only over all.
    fn pool(&self, side: &PreparedSide<'_>, tile: AgainstEvents<'_>, pooled: RowsMut<'_>, logits: &mut [f32]) {
        let AgainstEvents { scores, products } = tile;
        let RowsMut { values: pooled, stride: inner } = pooled;
        let (d, columns) = (self.summed.rows(), side.bias.len());
        let (width, rows) = (padded(d), scores.len() / columns);
        with_scratch([3 * rows], |[factors]| {
            vector::vectorized(
                #[inline(always)]
                || {
                    let outputs = factors.chunks_exact_mut(3).zip(logits.iter_mut());
                    let inputs = scores.chunks_exact_mut(columns).zip(by_row(products, columns));
                    for ((scores, products), (factors, logit)) in inputs.zip(outputs) {
                        let sums = side.exponentials(scores);
                        *logit += self.matches(side, &sums) + self.products(side, scores, products, &sums);
                        factors.copy_from_slice(&sums.factors());
                    }
                },
            );
            let mut pool = |from: usize, events: (usize, usize), to: usize| {
                Product {
                    shape: (rows, events.1, d),
                    a: Rows { values: scores, stride: columns }.columns_from(from),
                    b: side.encoded.view().rows_from(events.0),
                    start: Start::Zero,
                    c: RowsMut { values: &mut pooled[to..], stride: inner },
                }
                .run();
            };
            if side.second == 0 {
                pool(0, (0, side.first), 0);
            } else {
                pool(0, (0, side.first), width);
                pool(padded(side.first), (side.first, side.second), 2 * width);
            }
            vector::vectorized(
                #[inline(always)]
                || {
                    for (pooled, factors) in pooled.chunks_exact_mut(inner).zip(factors.chunks_exact(3)) {
                        let &[positive_factor, negative_factor, share] = factors else { continue };
                        let (all, sets) = pooled.split_at_mut(width);
                        if sets.is_empty() {
                            all.iter_mut().for_each(|x| *x *= positive_factor);
                            continue;
                        }
                        let (positive, negative) = sets.split_at_mut(width);
                        for ((all, positive), negative) in all.iter_mut().zip(positive).zip(negative) {
                            *positive *= positive_factor;
                            *negative *= negative_factor;
                            // The sets partition the events: "all" is their sum weighted by the mass of each.
                            *all = (*positive - *negative).mul_add(share, *negative);
                        }
                    }
                },
            );
        });
    }

    /// What a candidate's inner products with its pooled interests add to its logit: those with the events, weighted by
    /// the `exponentials` of each set.
    #[inline(always)]
    fn products(&self, side: &PreparedSide<'_>, exponentials: &[f32], products: &[f32], sums: &Sums) -> f32 {
        let Some([all, similar, dissimilar]) = self.inner_products else { return 0.0 };
        let [factor, other_factor, share] = sums.factors();
        let begin = padded(side.first);
        let first = factor * vector::dot(&exponentials[..begin], &products[..begin]);
        if sums.second.is_none() {
            return (all + similar + dissimilar) * first;
        }
        let second = other_factor * vector::dot(&exponentials[begin..], &products[begin..]);
        all * (first - second).mul_add(share, second) + similar * first + dissimilar * second
    }

    /// What a candidate's matches with the sets add to its logit.
    #[inline(always)]
    fn matches(&self, side: &PreparedSide<'_>, sums: &Sums) -> f32 {
        let Some([all, similar, dissimilar]) = self.matching else { return 0.0 };
        let log_mean = |(max, sum): (f32, f32), events: usize| max + (sum / events as f32).ln();
        let Some(second) = sums.second else {
            return (all + similar + dissimilar) * log_mean(sums.first, side.first);
        };
        all * log_mean(sums.all(), side.first + side.second)
            + similar * log_mean(sums.first, side.first)
            + dissimilar * log_mean(second, side.second)
    }

    /// Encodings times weights: of the events by themselves where there is one set; else first of all events by the
    /// weights of "all", then of each by those of its set.
    fn direct(&self, encoded: &Matrix, first: usize, second: usize) -> Matrix {
        let (d, h, n) = (self.summed.rows(), self.summed.columns(), first + second);
        let width = padded(d);
        let mut direct = Matrix::zeros(if second == 0 { n } else { 2 * n }, h);
        let stride = direct.stride();
        let mut multiply = |from: usize, rows: usize, weights: Rows<'_>, to: usize| {
            Product {
                shape: (rows, d, h),
                a: encoded.view().rows_from(from),
                b: weights,
                start: Start::Zero,
                c: RowsMut { values: &mut direct.values_mut()[to * stride..], stride },
            }
            .run();
        };
        if second == 0 {
            multiply(0, n, self.summed.view(), 0);
        } else {
            multiply(0, n, self.by_set.view(), 0);
            multiply(0, first, self.by_set.view().rows_from(width), n);
            multiply(first, second, self.by_set.view().rows_from(2 * width), n + first);
        }
        direct
    }
}

impl Sums {
    /// What the sets' exponentials are to be multiplied with to add up to 1, and the similar set's share of the softmax
    /// over all.
    #[inline(always)]
    fn factors(&self) -> [f32; 3] {
        let Some((_, other_sum)) = self.second else { return [1.0 / self.first.1, 0.0, 1.0] };
        let (top, sum) = self.all();
        let mass = self.first.1 * vector::exp(self.first.0 - top);
        [1.0 / self.first.1, 1.0 / other_sum, mass / sum]
    }

    /// Of both sets together.
    #[inline(always)]
    fn all(&self) -> (f32, f32) {
        let (max, sum) = self.first;
        let Some((other_max, other_sum)) = self.second else { return self.first };
        let top = max.max(other_max);
        (top, sum * vector::exp(max - top) + other_sum * vector::exp(other_max - top))
    }
}

impl PreparedSide<'_> {
    /// Leaves each set's exponentials.
    #[inline(always)]
    fn exponentials(&self, scores: &mut [f32]) -> Sums {
        let (first, second) = scores.split_at_mut(padded(self.first));
        Sums { first: exponentials(first), second: (!second.is_empty()).then(|| exponentials(second)) }
    }

    /// Attention weights by row of [`Self::direct`], from exponentials.
    #[inline(always)]
    fn attention(&self, scores: &mut [f32], sums: &Sums, weights: &mut [f32]) {
        let [factor, other_factor, share] = sums.factors();
        let (first, second) = scores.split_at_mut(padded(self.first));
        first.iter_mut().for_each(|x| *x *= factor);
        second.iter_mut().for_each(|x| *x *= other_factor);
        let (first, second) = (&mut first[..self.first], &mut second[..self.second]);
        if second.is_empty() {
            weights.copy_from_slice(first);
            return;
        }
        let (all, sets) = weights.split_at_mut(self.first + self.second);
        let (similar, dissimilar) = sets.split_at_mut(self.first);
        similar.copy_from_slice(first);
        dissimilar.copy_from_slice(second);
        for (all, x) in all.iter_mut().zip(&*similar) {
            *all = x * share;
        }
        for (all, x) in all[self.first..].iter_mut().zip(&*dissimilar) {
            *all = x * (1.0 - share);
        }
    }
}

/// Each candidate's products with the events; nothing for models that don't need them.
#[inline(always)]
fn by_row(products: &[f32], columns: usize) -> impl Iterator<Item = &[f32]> {
    products.chunks_exact(columns).chain(std::iter::repeat(&[][..]))
}
