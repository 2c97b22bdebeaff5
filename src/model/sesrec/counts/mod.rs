//! What candidates have of a history that is counted instead of learned: the model learns only what each count adds to the
//! logit.
//!
//! Embeddings of a few dozen numbers blur which of thousands of words two texts share, and which of millions of pairs of items
//! the same users click. [`SharedWords`] and [`ClickedTogether`] are these counts. Each is a mean over events that fades with
//! their age, so that for scoring a user is a map from words, and one from items, to what they add ([`UserCounts`]).
//!
//! The rest of the model learns from most examples as if there were no counts: those that explain a click leave nothing of it
//! to the embeddings, which then learn what is peculiar to the training clicks instead.

mod clicked_together;
mod shared_words;

use std::{collections::HashMap, sync::Arc};

use candle_core::{Result, Tensor};

use self::{
    clicked_together::{ClickedTogether, HostClickedTogether, ItemLogits},
    shared_words::{HistoryWords, HostSharedWords, SharedWords, WordLogits},
};
use super::SesRecConfig;
use crate::{
    data::{Catalogue, Dataset, HistoryBatch, UserFeatures},
    model::{ModelError, ParameterList, Weights},
    nn::Dropout,
};

/// How much less an older event counts, per event: the whole history, and what it was about lately.
const DECAYS: [f32; 2] = [1.0, 0.5];

/// Share of the training examples that are learned from without a count.
const LEFT_OUT: f64 = 0.8;

/// The counts that a model has.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    words: Option<SharedWords>,
    together: Option<ClickedTogether>,
}

/// What a history's candidates are counted by.
#[derive(Debug, Clone, Default)]
pub(super) struct HistoryCounts {
    words: HistoryWords,
    /// Item rows, newest first.
    newest: Vec<u32>,
}

/// Whether the first candidate of each user is the one that they clicked next, in which case that click is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    Clicked,
    Unknown,
}

impl Counts {
    /// Adds the tensors of the counts that the configuration wants.
    pub(super) fn parameters(config: &SesRecConfig, list: &mut ParameterList) {
        if config.shared_words {
            SharedWords::parameters(list);
        }
        if config.clicked_together {
            ClickedTogether::parameters(config.inputs.item_attributes[0].rows, list);
        }
    }

    /// Those of them that come from the training part of a data set.
    pub(super) fn tables(config: &SesRecConfig, dataset: &Dataset) -> Result<HashMap<String, Tensor>> {
        if config.clicked_together { ClickedTogether::tables(dataset) } else { Ok(HashMap::new()) }
    }

    /// Refuses tables that name other items than there are.
    pub(super) fn check_tables(
        config: &SesRecConfig,
        tensors: &HashMap<String, Tensor>,
    ) -> std::result::Result<(), ModelError> {
        if config.clicked_together { ClickedTogether::check_tables(tensors) } else { Ok(()) }
    }

    /// Over the tensors of [`Self::parameters`].
    pub(super) fn new(
        config: &SesRecConfig,
        catalogue: Arc<Catalogue>,
        weights: &Weights<'_>,
    ) -> std::result::Result<Self, ModelError> {
        let words = config.shared_words.then(|| SharedWords::new(catalogue, weights)).transpose()?;
        let together = config.clicked_together.then(|| ClickedTogether::new(weights)).transpose()?;
        Ok(Self { words, together })
    }

    /// Of every user of a batch.
    pub(super) fn of_batch(&self, batch: &HistoryBatch) -> Vec<HistoryCounts> {
        let histories = (0..batch.users()).map(|user| {
            let items = &batch.rec_items[user * batch.rec_len..][..batch.rec_lengths[user]];
            HistoryCounts {
                words: self.words.as_ref().map(|words| words.of_batch(batch, user, items)).unwrap_or_default(),
                newest: if self.together.is_some() { clicked_together::newest(items) } else { vec![] },
            }
        });
        histories.collect()
    }

    /// Adds to the logits `[B, C]` of candidates `[B · C]`.
    pub(super) fn add_to(
        &self,
        mut logits: Tensor,
        histories: &[HistoryCounts],
        (candidates, first): (&[u32], First),
        dropout: &mut Dropout,
    ) -> Result<Tensor> {
        if let Some(words) = &self.words {
            let left_out = dropout.left_out(LEFT_OUT, histories.len());
            let histories = histories.iter().zip(left_out).map(|(history, out)| (!out).then_some(&history.words));
            logits = (logits + words.logits(histories, candidates)?)?;
        }
        if let Some(together) = &self.together {
            let left_out = dropout.left_out(LEFT_OUT, histories.len());
            let histories = histories.iter().zip(left_out).map(|(history, out)| (!out).then_some(&history.newest[..]));
            logits = (logits + together.logits(histories, (candidates, first))?)?;
        }
        Ok(logits)
    }

    /// For scoring.
    pub(super) fn on_host(&self) -> Result<HostCounts> {
        Ok(HostCounts {
            words: self.words.as_ref().map(SharedWords::on_host).transpose()?,
            together: self.together.as_ref().map(ClickedTogether::on_host).transpose()?,
        })
    }
}

/// The same for scoring, in host memory whatever the model's device.
#[derive(Debug, Clone)]
pub(super) struct HostCounts {
    words: Option<HostSharedWords>,
    together: Option<HostClickedTogether>,
}

/// What a user's history adds to candidates: to those with its words, and to the neighbours of its items. Empty for models
/// without counts.
#[derive(Debug, Clone, Default)]
pub(super) struct UserCounts {
    words: WordLogits,
    items: ItemLogits,
}

impl HostCounts {
    /// Whether there is anything to add.
    #[cfg(feature = "cuda")]
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_none() && self.together.is_none()
    }

    /// Of one user.
    pub(super) fn of_user(&self, user: &UserFeatures) -> UserCounts {
        UserCounts {
            words: self.words.as_ref().map(|words| words.of_user(user)).unwrap_or_default(),
            items: self.together.as_ref().map(|together| together.of_user(user)).unwrap_or_default(),
        }
    }

    /// Adds what a user's history adds to candidates' logits.
    pub(super) fn add(&self, user: &UserCounts, items: &[u32], logits: &mut [f32]) {
        if let Some(words) = &self.words {
            words.add(&user.words, items, logits);
        }
        user.items.add(items, logits);
    }
}

impl UserCounts {
    /// Memory it occupies.
    pub(super) fn bytes(&self) -> usize {
        self.words.bytes() + self.items.bytes()
    }
}

/// How much each of so many events counts by each of the [`DECAYS`], the newest first: together 1, so that long histories
/// have no larger sums than short ones.
fn by_age(events: usize) -> impl Iterator<Item = [f32; DECAYS.len()]> {
    let faded = |counts: &[f32; DECAYS.len()]| Some(std::array::from_fn(|decay| counts[decay] * DECAYS[decay]));
    let by_age = std::iter::successors(Some([1.0; DECAYS.len()]), faded).take(events);
    let totals = by_age
        .clone()
        .fold([0.0; DECAYS.len()], |totals, counts| std::array::from_fn(|decay| totals[decay] + counts[decay]));
    by_age.map(move |counts| std::array::from_fn(|decay| counts[decay] / totals[decay]))
}

/// Their weighted sum.
fn weighted(counts: [f32; DECAYS.len()], weights: &[f32]) -> f32 {
    counts.iter().zip(weights).map(|(count, weight)| count * weight).sum()
}
