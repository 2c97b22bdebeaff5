//! Scoring candidates, a tile at a time: what a candidate, its user and both sides' interests bring to the first
//! prediction layer, and the layers from there on.

use candle_core::Result;
use rayon::prelude::*;

use super::{
    super::{
        Network,
        counts::{Counts, UserCounts},
        state::SideState,
    },
    encode::HostUser,
    interests::{InterestWeights, PreparedSide},
    items::{Features, ItemVectors},
};
use crate::{
    model::{HostEmbeddings, ScoreRequest},
    nn::{Dense, Matrix, Rows, RowsMut, vector, with_scratch},
};

/// Candidates of a tile: what is computed for them takes some 200 kB, which stay in the second-level cache.
const TILE: usize = 64;

/// The prediction layers, whose first is split: user and candidate bring their shares, the interests' is here.
#[derive(Debug)]
pub(super) struct Head {
    features: Features,
    /// Of the recommendation and of the search side.
    interests: [InterestWeights; 2],
    /// From the second layer on; the last has one output.
    layers: Vec<Dense>,
    last: Vec<f32>,
    last_bias: f32,
    /// By item row.
    item_bias: Option<Vec<f32>>,
    counts: Counts,
}

/// What a request's candidates share.
struct Prepared<'a> {
    user_block: &'a [f32],
    counts: &'a UserCounts,
    sides: [Option<PreparedSide<'a>>; 2],
}

/// Part of a request.
struct Tile<'a> {
    prepared: &'a Prepared<'a>,
    items: &'a [u32],
    /// The items of the request's next tile.
    next: &'a [u32],
    scores: &'a mut [f32],
}

impl Head {
    pub(super) fn new(network: &Network) -> Result<Self> {
        let item_bias = network.item_bias.as_ref().map(|bias| bias.flatten_all()?.to_vec1()).transpose()?;
        let (last, layers) = network.head.layers[1..].split_last().expect("the head has at least two layers");
        Ok(Self {
            features: Features::new(network)?,
            interests: [InterestWeights::new(network, 0)?, InterestWeights::new(network, 1)?],
            layers: layers.iter().map(Dense::new).collect::<Result<_>>()?,
            last: last.weight().flatten_all()?.to_vec1()?,
            last_bias: last.bias().flatten_all()?.to_vec1::<f32>()?[0],
            item_bias,
            counts: network.counts.clone(),
        })
    }

    /// Every request's scores.
    pub(super) fn score<'a>(
        &self,
        embeddings: &HostEmbeddings,
        items: &ItemVectors,
        requests: &[ScoreRequest<'a>],
    ) -> Result<Vec<Vec<f32>>> {
        let alone = rayon::current_num_threads() == 1;
        let prepare = |request: &ScoreRequest<'a>| self.prepare(request.state.get::<HostUser>(), request.items.len());
        let prepared: Vec<Prepared<'_>> = if requests.len() < 2 || alone {
            requests.iter().map(prepare).collect()
        } else {
            requests.par_iter().map(prepare).collect()
        };
        let mut scores: Vec<Vec<f32>> = requests.iter().map(|request| vec![0.0; request.items.len()]).collect();
        let parts = requests.iter().zip(&prepared).zip(&mut scores);
        let tiles: Vec<Tile<'_>> = parts
            .flat_map(|((request, prepared), scores)| {
                let next = request.items.chunks(TILE).skip(1).chain([&[][..]]);
                let parts = request.items.chunks(TILE).zip(scores.chunks_mut(TILE)).zip(next);
                parts.map(move |((items, scores), next)| Tile { prepared, items, next, scores })
            })
            .collect();
        let score = |tile: Tile<'_>| self.tile(embeddings, items, tile);
        if tiles.len() < 2 || alone {
            tiles.into_iter().try_for_each(score)?;
        } else {
            tiles.into_par_iter().try_for_each(score)?;
        }
        Ok(scores)
    }

    fn prepare<'a>(&self, user: &'a HostUser, candidates: usize) -> Prepared<'a> {
        let side = |number: usize, side: &'a SideState<Matrix>| {
            side.interests.as_ref().map(|interests| self.interests[number].prepare(interests, candidates))
        };
        Prepared {
            user_block: user.user_block.row(0),
            counts: &user.counts,
            sides: [side(0, &user.rec), side(1, &user.src)],
        }
    }

    fn tile(&self, embeddings: &HostEmbeddings, items: &ItemVectors, tile: Tile<'_>) -> Result<()> {
        let Tile { prepared, items: candidates, next, scores } = tile;
        let (rows, stride, block) = (candidates.len(), self.features.stride(), self.features.block());
        with_scratch([rows * stride], |[features]| {
            items.candidates(embeddings, candidates, prepared.user_block, features)?;
            // They come from memory while this tile is computed.
            items.prefetch(next);
            scores.fill(self.last_bias);
            if let Some(bias) = &self.item_bias {
                // Rows of items are known to be in the tables by now.
                scores.iter_mut().zip(candidates).for_each(|(score, &item)| *score += bias[item as usize]);
            }
            self.counts.add(prepared.counts, candidates, scores);
            for (number, side) in prepared.sides.iter().enumerate() {
                if let Some(side) = side {
                    self.interests[number].add(side, self.features, features, scores);
                }
            }
            self.predict(features, stride, block, scores);
            Ok(())
        })
    }

    /// ReLU and the layers from the second on, added to the logits that are there.
    fn predict(&self, features: &mut [f32], stride: usize, block: usize, scores: &mut [f32]) {
        let widest = self.layers.iter().map(|layer| layer.weight.stride()).max().unwrap_or(0);
        let rows = scores.len();
        with_scratch([rows * widest, rows * widest], |[mut x, mut y]| {
            relu(features, stride, block);
            let mut first = Some(Rows { values: features, stride }.columns_from(block));
            let mut width = self.features.h;
            for layer in &self.layers {
                let from = first.take().unwrap_or(Rows { values: y, stride: widest });
                layer.apply(rows, from, RowsMut { values: x, stride: widest });
                relu(x, widest, 0);
                std::mem::swap(&mut x, &mut y);
                width = layer.outputs();
            }
            let last = first.unwrap_or(Rows { values: y, stride: widest });
            vector::vectorized(
                #[inline(always)]
                || {
                    for (row, score) in last.values.chunks(last.stride).zip(scores.iter_mut()) {
                        *score += vector::dot(&row[..width], &self.last);
                    }
                },
            );
        });
    }
}

/// In place, from a column of each row on. What is no number stays none: the engine looks for that in the scores.
fn relu(values: &mut [f32], stride: usize, column: usize) {
    vector::vectorized(
        #[inline(always)]
        || {
            for row in values.chunks_exact_mut(stride) {
                row[column..].iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
            }
        },
    );
}
