//! Encoding one user: events to F (Transformer), F to weights and sets (co-attention).

use candle_core::{Result, bail};

use super::{super::Network, items::ItemVectors};
use crate::{
    data::{HistoryLimits, SearchFeatures, UserFeatures},
    domain::EventWeight,
    model::{
        HostEmbeddings,
        sesrec::{
            CoattentionPadding, InterestExtraction, Positions, Threshold,
            co_attention::Affinity,
            counts::Counts,
            first_layer::FirstLayer,
            network::{Side, from_newest},
            state::{EncodedUser, Interests, Sets, SideState},
        },
    },
    nn::{
        Dense, Linear, Matrix, Product, Rows, RowsMut, Start, UserEncoder, padded, softmax, transpose, values, vector,
        with_scratch,
    },
};

/// A user encoded in host memory.
pub(super) type HostUser = EncodedUser<Matrix>;

/// Everything between a user's rows and their state.
#[derive(Debug)]
pub(super) struct Encoder {
    limits: HistoryLimits,
    d: usize,
    extraction: InterestExtraction,
    rec: UserSide,
    src: UserSide,
    co_attention: HostCoAttention,
    /// The user's share of the first prediction layer, with its bias.
    user_block: Dense,
    counts: Counts,
}

/// One side's positions and Transformer.
#[derive(Debug)]
struct UserSide {
    positions: Matrix,
    counted_from: Positions,
    encoder: UserEncoder,
}

/// [`super::super::CoAttention`] of one user.
#[derive(Debug)]
struct HostCoAttention {
    /// `[d, d]`: what events are compared by.
    w: Matrix,
    /// Wq and Wd; nothing where embedded items and queries are compared, which all count once.
    by: Option<[Vec<f32>; 2]>,
    padding: CoattentionPadding,
    threshold: Threshold,
}

/// F of one side: `length` rows, padded ones included, of which the first `real` are events.
#[derive(Clone, Copy)]
struct Encoded<'a> {
    values: &'a [f32],
    length: usize,
    real: usize,
}

impl Encoder {
    pub(super) fn new(network: &Network) -> Result<Self> {
        let first = &network.head.layers[0]; // [h, 2·3d | u | d]
        let co_attention = &network.co_attention;
        Ok(Self {
            limits: network.config.inputs.limits,
            d: network.config.hidden_dim,
            extraction: network.config.interest_extraction,
            rec: UserSide::new(&network.rec)?,
            src: UserSide::new(&network.src)?,
            co_attention: HostCoAttention {
                w: match &co_attention.affinity {
                    Affinity::Encoded { w1, .. } => Matrix::new(w1)?,
                    Affinity::Aligned { w } => Matrix::new(w)?,
                },
                by: match &co_attention.affinity {
                    Affinity::Encoded { wq, wd, .. } => Some([values(wq)?.to_vec(), values(wd)?.to_vec()]),
                    Affinity::Aligned { .. } => None,
                },
                padding: co_attention.padding,
                threshold: co_attention.threshold,
            },
            user_block: Dense::new(&Linear::new(
                FirstLayer::new(&network.config).user().of(first.weight())?,
                first.bias().clone(),
            ))?,
            counts: network.counts.clone(),
        })
    }

    pub(super) fn encode(
        &self,
        embeddings: &HostEmbeddings,
        items: &ItemVectors,
        user: &UserFeatures,
    ) -> Result<HostUser> {
        let (rec_real, src_real) = (user.recommendations.len(), user.searches.len());
        if rec_real > self.limits.recommendations || src_real > self.limits.searches {
            bail!("a history of {rec_real} + {src_real} events, {:?}", self.limits)
        }
        let length = |real, limit| match self.co_attention.padding {
            // Nothing is asked of a side without events.
            _ if real == 0 => 0,
            CoattentionPadding::Exclude => real,
            CoattentionPadding::Include => limit,
        };
        let (rec_length, src_length) =
            (length(rec_real, self.limits.recommendations), length(src_real, self.limits.searches));
        let stride = padded(self.d);
        let user_block = self.user_block(embeddings, user)?;
        let embedded = |real: usize| if self.co_attention.by.is_none() { real * stride } else { 0 };
        let sizes = [rec_length * stride, src_length * stride, embedded(rec_real), embedded(src_real)];
        with_scratch(sizes, |[rec, src, rec_items, queries]| {
            let mut rows = user.recommendations.clone();
            rows.resize(rec_length, 0);
            items.embed(embeddings, &rows, rec)?;
            rec_items.copy_from_slice(&rec[..rec_items.len()]);
            self.rec.forward(rec, rec_length, rec_real);
            let padding = src_length - src_real;
            embeddings.queries(&user.searches, padding, RowsMut { values: &mut *src, stride })?;
            queries.copy_from_slice(&src[..queries.len()]);
            embeddings.add_sources(&user.searches, padding, RowsMut { values: &mut *src, stride })?;
            self.add_clicked(embeddings, items, &user.searches, src)?;
            self.src.forward(src, src_length, src_real);
            let rec = Encoded { values: rec, length: rec_length, real: rec_real };
            let src = Encoded { values: src, length: src_length, real: src_real };
            let (compared_rec, compared_src) = match self.co_attention.by {
                Some(_) => (rec, src),
                None => (
                    Encoded { values: rec_items, length: rec_real, real: rec_real },
                    Encoded { values: queries, length: src_real, real: src_real },
                ),
            };
            let (rec_events, src_events) = self.co_attention.weigh(self.d, compared_rec, compared_src);
            Ok(EncodedUser {
                rec: side_state(rec_events, rec, self.d, self.extraction),
                src: side_state(src_events, src, self.d, self.extraction),
                user_block,
                counts: self.counts.of_user(user),
            })
        })
    }

    /// `[1, h]`.
    fn user_block(&self, embeddings: &HostEmbeddings, user: &UserFeatures) -> Result<Matrix> {
        let u = self.user_block.weight.rows();
        let mut block = Matrix::zeros(1, self.user_block.outputs());
        with_scratch([u], |[attributes]| {
            embeddings.user(user.user, attributes)?;
            self.user_block.apply(1, Rows { values: attributes, stride: u }, block.view_mut());
            Ok::<_, candle_core::Error>(())
        })?;
        Ok(block)
    }

    /// Adds the mean of each search's clicked items.
    fn add_clicked(
        &self,
        embeddings: &HostEmbeddings,
        items: &ItemVectors,
        searches: &[SearchFeatures],
        out: &mut [f32],
    ) -> Result<()> {
        let stride = padded(self.d);
        let clicks = |search: &SearchFeatures| search.clicks.iter().filter(|&&item| item != 0).count();
        let all: Vec<u32> =
            searches.iter().flat_map(|search| &search.clicks).copied().filter(|&item| item != 0).collect();
        with_scratch([all.len() * stride], |[embedded]| {
            items.embed(embeddings, &all, embedded)?;
            let mut rest = embedded.chunks_exact(stride);
            vector::vectorized(
                #[inline(always)]
                || {
                    for (search, out) in searches.iter().zip(out.chunks_exact_mut(stride)) {
                        let count = clicks(search);
                        for item in rest.by_ref().take(count) {
                            vector::add_scaled(out, item, 1.0 / count as f32);
                        }
                    }
                },
            );
            Ok(())
        })
    }
}

impl UserSide {
    fn new(side: &Side) -> Result<Self> {
        Ok(Self {
            positions: Matrix::new(&side.positions)?,
            counted_from: side.counted_from,
            encoder: UserEncoder::new(&side.encoder)?,
        })
    }

    /// Adds positions and encodes, in place.
    fn forward(&self, x: &mut [f32], length: usize, real: usize) {
        let positions = self.positions.view();
        let count = length * positions.stride;
        vector::vectorized(
            #[inline(always)]
            || match self.counted_from {
                Positions::Oldest => vector::add_scaled(&mut x[..count], &positions.values[..count], 1.0),
                Positions::Newest => {
                    for (place, row) in x[..count].chunks_exact_mut(positions.stride).enumerate() {
                        let position = positions.rows_from(from_newest(place, real));
                        vector::add_scaled(row, &position.values[..positions.stride], 1.0);
                    }
                }
            },
        );
        self.encoder.forward(x, length, real);
    }
}

impl HostCoAttention {
    /// How both sides' events are weighed (eq. 8-9) and divided: encoded ones, or embedded ones without padding.
    fn weigh(&self, d: usize, rec: Encoded<'_>, src: Encoded<'_>) -> (Vec<EventWeight>, Vec<EventWeight>) {
        let (stride, searches) = (padded(d), padded(src.length));
        let (mut rec_logits, mut src_logits) = (vec![0.0; rec.real], vec![0.0; src.real]);
        // A side without events has nothing to sum, and leaves the other's weights uniform.
        if rec.real > 0 && src.real > 0 {
            let sizes = [rec.length * stride, d * searches, rec.length * searches, searches, rec.length];
            with_scratch(sizes, |[projected, transposed, affinity, from_src, from_rec]| {
                Product {
                    shape: (rec.length, d, d),
                    a: Rows { values: rec.values, stride },
                    b: self.w.view(),
                    start: Start::Zero,
                    c: RowsMut { values: projected, stride },
                }
                .run();
                transpose(
                    RowsMut { values: &mut *transposed, stride: searches },
                    Rows { values: src.values, stride },
                    (src.length, d),
                );
                Product {
                    shape: (rec.length, d, src.length),
                    a: Rows { values: projected, stride },
                    b: Rows { values: transposed, stride: searches },
                    start: Start::Zero,
                    c: RowsMut { values: affinity, stride: searches },
                }
                .run();
                vector::vectorized(
                    #[inline(always)]
                    || {
                        for x in affinity.iter_mut() {
                            *x = vector::tanh(*x);
                        }
                        let [wq, wd] = match &self.by {
                            Some([wq, wd]) => [Some(&wq[..]), Some(&wd[..])],
                            None => [None, None],
                        };
                        self.summands(src, stride, wd, from_src);
                        self.summands(rec, stride, wq, from_rec);
                        for (row, logit) in affinity.chunks_exact(searches).zip(&mut rec_logits) {
                            *logit = vector::dot(row, from_src);
                        }
                        for (row, &factor) in affinity.chunks_exact(searches).zip(&*from_rec) {
                            vector::add_scaled(&mut src_logits, row, factor);
                        }
                    },
                );
            });
        }
        (self.divide(rec_logits), self.divide(src_logits))
    }

    /// `w · F` per event, or 1; zero where the other side's sums don't reach.
    #[inline(always)]
    fn summands(&self, side: Encoded<'_>, stride: usize, w: Option<&[f32]>, out: &mut [f32]) {
        let reached = match self.padding {
            CoattentionPadding::Exclude => side.real,
            CoattentionPadding::Include => side.length,
        };
        out.fill(0.0);
        for (row, out) in side.values.chunks_exact(stride).zip(out).take(reached) {
            *out = if let Some(w) = w { vector::dot(&row[..w.len()], w) } else { 1.0 };
        }
    }

    fn divide(&self, mut logits: Vec<f32>) -> Vec<EventWeight> {
        softmax(&mut logits);
        let (similar, dissimilar) = self.threshold.divide(&logits);
        let sets = similar.into_iter().zip(dissimilar);
        let events = logits.into_iter().zip(sets);
        events.map(|(coattention, (similar, dissimilar))| EventWeight { coattention, similar, dissimilar }).collect()
    }
}

fn side_state(
    events: Vec<EventWeight>,
    side: Encoded<'_>,
    d: usize,
    extraction: InterestExtraction,
) -> SideState<Matrix> {
    let interests = (!events.is_empty()).then(|| {
        let sets = Sets::of(&events, extraction);
        let mut encoded = Matrix::zeros(side.real, d);
        for row in 0..side.real {
            let event = if let Sets::Divided { order, .. } = &sets { order[row] } else { row };
            encoded.row_mut(row).copy_from_slice(&side.values[event * padded(d)..][..d]);
        }
        Interests { encoded, sets }
    });
    SideState { events, interests }
}
