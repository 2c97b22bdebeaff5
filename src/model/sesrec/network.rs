//! The differentiable network: histories to encodings and interests, candidates to logits.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::{
    Alignment, CoAttention, Compared, Disentangled, InterestPooling, Positions, PredictionLoss, SesRecConfig,
    co_attention::Affinity,
    counts::Counts,
    first_layer::FirstLayer,
    losses::triplet_hinge,
    weights::{ALIGNMENT, INNER_PRODUCTS, ITEM_BIAS, MATCHING, head_layer},
};
use crate::{
    data::{Catalogue, HistoryBatch},
    model::{Embeddings, HistoryVectors, ItemRows, Losses, ModelError, Weights},
    nn::{
        Dropout, Encoder, EncoderBlock, Linear, Mask, Mlp, MultiHeadAttention, RowZero, add_row, binary_cross_entropy,
        cross_entropy, gather_rows_as, project,
    },
};

/// SESRec over given tensors: trainable variables, or a bundle's weights.
#[derive(Debug, Clone)]
pub struct Network {
    pub(super) config: SesRecConfig,
    pub(super) embeddings: Embeddings,
    pub(super) rec: Side,
    pub(super) src: Side,
    pub(super) co_attention: CoAttention,
    pub(super) alignment: Alignment,
    pub(super) head: Mlp,
    /// `[items, 1]`.
    pub(super) item_bias: Option<Tensor>,
    /// `[sets]`, the recommendation side's first.
    pub(super) matching: Option<Tensor>,
    /// Likewise.
    pub(super) inner_products: Option<Tensor>,
    pub(super) counts: Counts,
}

/// What one history has of its own.
#[derive(Debug, Clone)]
pub(super) struct Side {
    pub(super) positions: Tensor,
    pub(super) counted_from: Positions,
    pub(super) encoder: Encoder,
    pub(super) pooling: InterestPooling,
}

/// The history's embeddings, before positions are added.
#[derive(Debug, Clone)]
pub struct HistoryInputs {
    /// `[B, Lr, d]`: E of the items.
    pub rec_items: Tensor,
    /// `[B, Ls, d]`: Q of the queries.
    pub queries: Tensor,
    /// `[B, Ls, d]`: Q plus the source's embedding.
    pub queries_and_sources: Tensor,
    /// `[B, Ls, d]`: the mean of the clicked items' E, zero without clicks.
    pub clicked_items: Tensor,
    /// `[B, u]`.
    pub users: Tensor,
}

impl HistoryInputs {
    fn of(history: &HistoryVectors<'_>) -> Result<Self> {
        let queries = history.queries()?;
        Ok(Self {
            rec_items: history.items()?,
            queries_and_sources: (&queries + history.sources()?)?,
            queries,
            clicked_items: history.clicked_means()?,
            users: history.users()?,
        })
    }
}

/// One side's events, encoded.
#[derive(Debug, Clone)]
pub struct EncodedEvents {
    /// F `[B, L, d]`, padded positions included.
    pub encoded: Tensor,
    /// Real events per user.
    pub lengths: Vec<usize>,
    /// `[B, L]`: which positions are real.
    pub real: Mask,
}

/// One side, encoded and disentangled.
#[derive(Debug, Clone)]
pub struct EncodedSide {
    /// F.
    pub events: EncodedEvents,
    /// Co-attention weights and sets.
    pub interests: Disentangled,
}

/// Everything that is known of users before the candidates.
#[derive(Debug, Clone)]
pub struct EncodedHistory {
    /// The batch's items: recommended ones, clicks, then what else was asked for.
    pub items: ItemRows,
    /// The embedding layer's outputs.
    pub inputs: HistoryInputs,
    /// Recommendation side.
    pub rec: EncodedSide,
    /// Search side.
    pub src: EncodedSide,
}

/// What the losses are computed from.
#[derive(Debug, Clone, Copy)]
pub struct TrainingInputs<'a> {
    /// The users.
    pub history: &'a HistoryBatch,
    /// `[B, C]` item rows, the clicked one first.
    pub candidates: &'a [u32],
    /// `[M]` item rows.
    pub alignment_items: &'a [u32],
    /// `[M]` query rows.
    pub alignment_queries: &'a [u32],
}

/// Losses with what led to them.
#[derive(Debug, Clone)]
pub struct TrainingOutputs {
    /// Total and parts.
    pub losses: Losses,
    /// The encoded users.
    pub encoded: EncodedHistory,
    /// `[B, C]`.
    pub logits: Tensor,
}

impl Network {
    /// Over the tensors of [`super::parameters`]; shapes are checked by [`super::check`], not here.
    pub fn new(
        config: SesRecConfig,
        catalogue: Arc<Catalogue>,
        weights: &Weights<'_>,
    ) -> std::result::Result<Self, ModelError> {
        config.validate()?;
        let get = |name: &str| weights.get(name);
        let head = (0..config.mlp.len()).map(|n| weights.linear(&head_layer(n)));
        Ok(Self {
            embeddings: Embeddings::new(&config.inputs, catalogue.clone(), weights)?,
            rec: Side::new(&config, weights, "rec")?,
            src: Side::new(&config, weights, "src")?,
            co_attention: CoAttention {
                affinity: match config.coattention {
                    Compared::Encoded => Affinity::Encoded {
                        w1: get("interest_contrast.co_att.W1")?,
                        wq: get("interest_contrast.co_att.Wq")?,
                        wd: get("interest_contrast.co_att.Wd")?,
                    },
                    Compared::Aligned => Affinity::Aligned { w: get(ALIGNMENT)? },
                },
                padding: config.coattention_padding,
                threshold: config.threshold,
            },
            alignment: Alignment { w: get(ALIGNMENT)?, temperature: get("feature_alignment.infoNCE_loss.temp")? },
            head: Mlp { layers: head.collect::<std::result::Result<_, ModelError>>()? },
            item_bias: config.item_bias.then(|| get(ITEM_BIAS)).transpose()?,
            matching: config.matching.then(|| get(MATCHING)).transpose()?,
            inner_products: config.inner_products.then(|| get(INNER_PRODUCTS)).transpose()?,
            counts: Counts::new(&config, catalogue, weights)?,
            config,
        })
    }

    /// Encodes a batch of histories. `further_items` are embedded along with the histories' items, in one go.
    pub fn encode(
        &self,
        batch: &HistoryBatch,
        further_items: &[&[u32]],
        dropout: &mut Dropout,
    ) -> Result<EncodedHistory> {
        let batch = &*batch.at_least_one_position();
        let lists: Vec<&[u32]> =
            [&batch.rec_items[..], &batch.src_clicks].iter().chain(further_items).copied().collect();
        let items = self.embeddings.items(&lists)?;
        let inputs = HistoryInputs::of(&HistoryVectors::new(batch, &self.embeddings, &items))?;
        let searches = (&inputs.queries_and_sources + &inputs.clicked_items)?;
        let rec = self.rec.encode(&inputs.rec_items, &batch.rec_lengths, dropout)?;
        let src = self.src.encode(&searches, &batch.src_lengths, dropout)?;
        let (rec_interests, src_interests) = self.co_attention.forward(&inputs, &rec, &src)?;
        Ok(EncodedHistory {
            items,
            inputs,
            rec: EncodedSide { events: rec, interests: rec_interests },
            src: EncodedSide { events: src, interests: src_interests },
        })
    }

    /// Pooled interests of candidates `[B, C, d]`: recommendation side and search side, `[B, C, 3d]` each
    /// (`[B, C, d]` without multi-interest extraction).
    pub fn interests(&self, encoded: &EncodedHistory, candidates: &Tensor) -> Result<(Tensor, Tensor)> {
        let rec = self.rec.pooling.forward(candidates, &encoded.rec)?;
        Ok((rec, self.src.pooling.forward(candidates, &encoded.src)?))
    }

    /// Candidates, item rows `[B · C]` with their vectors `[B, C, d]` → logits `[B, C]` (eq. 17-18 before the sigmoid),
    /// without what is counted: rankers add that.
    pub fn logits(
        &self,
        encoded: &EncodedHistory,
        (rows, candidates): (&[u32], &Tensor),
        dropout: &mut Dropout,
    ) -> Result<Tensor> {
        let (users, count, _) = candidates.dims3()?;
        let rec_scores = self.rec.pooling.scores(candidates, &encoded.rec)?;
        let src_scores = self.src.pooling.scores(candidates, &encoded.src)?;
        let rec_attention = self.rec.pooling.attention(&rec_scores, &encoded.rec)?;
        let src_attention = self.src.pooling.attention(&src_scores, &encoded.src)?;
        let rec = InterestPooling::pool(&rec_attention, &encoded.rec)?;
        let src = InterestPooling::pool(&src_attention, &encoded.src)?;
        let attributes = if self.config.inputs.user_dim() == 0 {
            None
        } else {
            let owners: Vec<u32> = (0..users as u32).flat_map(|user| std::iter::repeat_n(user, count)).collect();
            Some(gather_rows_as(&encoded.inputs.users, &owners, &[users, count], RowZero::Learns)?) // [B, C, u]
        };
        let features = FirstLayer::inputs([&rec, &src], attributes.as_ref(), candidates)?; // [B, C, 2·3d + u + d]
        let mut logits = self.head.forward(&features, dropout)?.squeeze(2)?;
        if let Some(weights) = &self.matching {
            let rec = self.rec.pooling.matches(&rec_scores, &encoded.rec)?;
            let src = self.src.pooling.matches(&src_scores, &encoded.src)?;
            logits = (logits + weighted_sets(rec, src, weights)?)?;
        }
        if let Some(weights) = &self.inner_products {
            let rec = InterestPooling::inner_products(&rec_attention, candidates, &encoded.rec)?;
            let src = InterestPooling::inner_products(&src_attention, candidates, &encoded.src)?;
            logits = (logits + weighted_sets(rec, src, weights)?)?;
        }
        if let Some(bias) = &self.item_bias {
            logits = (logits + gather_rows_as(bias, rows, &[users, count], RowZero::Learns)?.squeeze(2)?)?;
        }
        Ok(logits)
    }

    /// The items of an encoded batch's list as `[B, C, d]`, `C` per user.
    pub fn candidates(&self, encoded: &EncodedHistory, list: usize) -> Result<Tensor> {
        let users = encoded.rec.events.lengths.len();
        let per_user = encoded.items.rows[list].len().checked_div(users).unwrap_or(0);
        encoded.items.list_as(list, &[users, per_user])
    }

    /// Prediction loss + α · alignment + β · contrast, and everything on the way there.
    pub fn train(&self, inputs: TrainingInputs<'_>, dropout: &mut Dropout) -> Result<TrainingOutputs> {
        let TrainingInputs { history, candidates, alignment_items, alignment_queries } = inputs;
        let weights = self.config.loss_weights;
        let encoded = self.encode(history, &[candidates, alignment_items], dropout)?;
        let vectors = self.candidates(&encoded, 2)?;
        let logits = self.logits(&encoded, (candidates, &vectors), dropout)?;
        let (name, prediction) = match self.config.prediction_loss {
            PredictionLoss::Bce => ("bce", binary_cross_entropy(&logits)?),
            PredictionLoss::Softmax => ("softmax", cross_entropy(&logits, &vec![0; logits.dim(0)?])?),
        };
        let align = if weights.align == 0.0 || alignment_items.is_empty() || alignment_queries.is_empty() {
            self.alignment.zero_loss()?
        } else {
            let items = encoded.items.list(3)?;
            let queries = self.embeddings.catalogue_queries(alignment_queries)?;
            self.alignment.loss(history, &encoded, &items, &queries)?
        };
        let margin = self.config.triplet_margin;
        let contrast = if weights.contrast == 0.0 {
            self.co_attention.zero_loss()?
        } else {
            (triplet_hinge(&encoded.rec, margin)?.mean_all()? + triplet_hinge(&encoded.src, margin)?.mean_all()?)?
        };
        let total = ((&prediction + weighted(&align, weights.align)?)? + weighted(&contrast, weights.contrast)?)?;
        let losses = Losses { total, parts: vec![(name, prediction), ("align", align), ("contrast", contrast)] };
        Ok(TrainingOutputs { losses, encoded, logits })
    }

    /// The tables of items and queries.
    pub fn embeddings(&self) -> &Embeddings {
        &self.embeddings
    }

    /// What brings queries and items together.
    pub fn alignment(&self) -> &Alignment {
        &self.alignment
    }

    /// Where its tensors are.
    pub fn device(&self) -> &Device {
        self.embeddings.device()
    }
}

/// What candidates have of each side's sets, `[B, C, sets of the side]` each, weighted: `[B, C]`.
fn weighted_sets(rec: Tensor, src: Tensor, weights: &Tensor) -> Result<Tensor> {
    project(&Tensor::cat(&[rec, src], 2)?, &weights.unsqueeze(0)?)?.squeeze(2)
}

/// A loss that weighs nothing is 0 already, with gradients of 0: candle's factor 0 would leave those out.
fn weighted(loss: &Tensor, weight: f64) -> Result<Tensor> {
    if weight == 0.0 { Ok(loss.clone()) } else { loss * weight }
}

/// The position of a place among `real` events, counted from the newest; padding keeps its place.
pub(super) fn from_newest(place: usize, real: usize) -> usize {
    if place < real { real - 1 - place } else { place }
}

impl Side {
    fn new(config: &SesRecConfig, weights: &Weights<'_>, side: &str) -> std::result::Result<Self, ModelError> {
        let get = |name: String| weights.get(&name);
        let norm = |name: String| weights.layer_norm(&name, config.layer_norm_eps);
        let block = |n: usize| {
            let layer = format!("{side}_his_transformer_layer.layer.{n}");
            let attention = format!("{layer}.multi_head_attention");
            let projections = format!("{attention}.multi_head_attention");
            let in_proj =
                Linear::new(get(format!("{projections}.in_proj_weight"))?, get(format!("{projections}.in_proj_bias"))?);
            let out_proj = weights.linear(&format!("{projections}.out_proj"))?;
            Ok::<_, ModelError>(EncoderBlock {
                attention: MultiHeadAttention::new(in_proj, out_proj, config.num_heads),
                attention_norm: norm(format!("{attention}.LayerNorm"))?,
                dense_1: weights.linear(&format!("{layer}.feed_forward.dense_1"))?,
                dense_2: weights.linear(&format!("{layer}.feed_forward.dense_2"))?,
                feed_forward_norm: norm(format!("{layer}.feed_forward.LayerNorm"))?,
            })
        };
        let blocks = (0..config.num_blocks).map(block).collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            positions: get(format!("{side}_pos_emb.pe.weight"))?,
            counted_from: config.positions_from,
            encoder: Encoder { blocks },
            pooling: InterestPooling::new(&get(format!("{side}_his_att_pooling.W"))?, config.interest_extraction)?,
        })
    }

    /// Adds positions and encodes: `[B, L, d]` → `[B, L, d]`.
    fn encode(&self, events: &Tensor, lengths: &[usize], dropout: &mut Dropout) -> Result<EncodedEvents> {
        let (users, length, _) = events.dims3()?;
        let x = match self.counted_from {
            Positions::Oldest => add_row(events, &self.positions.narrow(0, 0, length)?)?,
            Positions::Newest => {
                let places = lengths.iter().flat_map(|&real| (0..length).map(move |place| from_newest(place, real)));
                let places: Vec<u32> = places.map(|place| place as u32).collect();
                (events + gather_rows_as(&self.positions, &places, &[users, length], RowZero::Learns)?)?
            }
        };
        let encoded = self.encoder.forward(&x, lengths, dropout)?;
        Ok(EncodedEvents { encoded, lengths: lengths.to_vec(), real: Mask::prefixes(lengths, length) })
    }
}
