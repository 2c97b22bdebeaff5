//! Which columns of the first prediction layer's weights belong to what.

use candle_core::{Result, Tensor};

use super::SesRecConfig;

/// The first prediction layer's inputs (eq. 17), block by block, and so the columns of its weights `[h, 2·3d | u | d]`:
/// `MLP([R side 3d ; S side 3d ; user u ; E(c) d])`, in this order in the release and its checkpoints.
///
/// A side's 3d are the interests over all, over the similar, over the dissimilar events (eq. 14-16), d each; d over all
/// events only without multi-interest extraction. The layer is linear in its blocks, so that rankers have the
/// candidate's share by item and the user's share by user.
#[derive(Debug, Clone, Copy)]
pub(super) struct FirstLayer {
    d: usize,
    /// Interests of a side.
    poolings: usize,
    /// 0 for models that know users by their histories alone.
    u: usize,
}

/// Columns next to each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    start: usize,
    width: usize,
}

impl FirstLayer {
    /// Of a model with this configuration.
    pub(super) fn new(config: &SesRecConfig) -> Self {
        Self { d: config.hidden_dim, poolings: config.interest_extraction.poolings(), u: config.inputs.user_dim() }
    }

    /// The candidate's interest in one set of a side: side 0 is the recommendation side; set 0 has all events, 1 the
    /// similar, 2 the dissimilar ones.
    pub(super) fn interest(self, side: usize, set: usize) -> Columns {
        Columns { start: (side * self.poolings + set) * self.d, width: self.d }
    }

    /// All interests of both sides.
    pub(super) fn interests(self) -> Columns {
        Columns { start: 0, width: 2 * self.poolings * self.d }
    }

    /// The user's attributes: no columns without.
    pub(super) fn user(self) -> Columns {
        Columns { start: self.interests().end(), width: self.u }
    }

    /// The candidate, E(c).
    pub(super) fn candidate(self) -> Columns {
        Columns { start: self.user().end(), width: self.d }
    }

    /// All of them: how many inputs the layer has.
    pub(super) fn width(self) -> usize {
        self.candidate().end()
    }

    /// The layer's inputs `[B, C, 2·3d + u + d]`: each side's interests `[B, C, 3d]`, the users `[B, C, u]` where the
    /// model has their attributes, the candidates `[B, C, d]`.
    pub(super) fn inputs([rec, src]: [&Tensor; 2], users: Option<&Tensor>, candidates: &Tensor) -> Result<Tensor> {
        match users {
            Some(users) => Tensor::cat(&[rec, src, users, candidates], 2),
            None => Tensor::cat(&[rec, src, candidates], 2),
        }
    }
}

impl Columns {
    /// These of the layer's weights: `[h, 2·3d | u | d]` → `[h, width]`.
    pub(super) fn of(self, weights: &Tensor) -> Result<Tensor> {
        weights.narrow(1, self.start, self.width)
    }

    fn end(self) -> usize {
        self.start + self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::Catalogue,
        model::{InputConfig, InputSizes, sesrec::InterestExtraction},
    };

    #[test]
    fn blocks_follow_each_other_and_cover_the_width() {
        let inputs = InputConfig::for_catalogue(&Catalogue::default(), InputSizes::KUAISHOU);
        for inputs in [inputs.clone(), inputs.without_users()] {
            for interest_extraction in [InterestExtraction::Multiple, InterestExtraction::Single] {
                let config = SesRecConfig { interest_extraction, ..SesRecConfig::new(inputs.clone(), 2) };
                let layer = FirstLayer::new(&config);
                let sets = interest_extraction.poolings();
                let mut blocks: Vec<Columns> = vec![];
                for side in 0..2 {
                    blocks.extend((0..sets).map(|set| layer.interest(side, set)));
                }
                assert_eq!(layer.interests().start, 0);
                assert_eq!(layer.interests().end(), blocks[blocks.len() - 1].end());
                blocks.extend([layer.user(), layer.candidate()]);
                let mut covered = 0;
                for block in blocks {
                    assert_eq!(block.start, covered, "{layer:?}");
                    covered = block.end();
                }
                assert_eq!(covered, layer.width());
                let (d, u) = (config.inputs.item_dim(), config.inputs.user_dim());
                assert_eq!(covered, 2 * sets * d + u + d);
            }
        }
    }

    #[test]
    fn the_release_has_364_inputs_at_kuaishous_dimensions() {
        let layer = FirstLayer { d: 48, poolings: 3, u: 28 };
        let found = [layer.interest(0, 2), layer.interest(1, 0), layer.user(), layer.candidate()];
        let found = found.map(|Columns { start, width }| (start, width));
        assert_eq!(found, [(96, 48), (144, 48), (288, 28), (316, 48)]);
        assert_eq!(layer.width(), 364);
    }
}
