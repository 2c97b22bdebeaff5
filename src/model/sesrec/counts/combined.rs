//! All counts of a model, and what they add for a user.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Result, Tensor};

use super::{
    super::SesRecConfig,
    clicked_together::{self, ClickedTogether, ItemLogits},
    shared_words::{self, SharedWords, WordLogits},
    stacking::Choice,
};
use crate::{
    data::{Catalogue, Dataset, UserFeatures},
    model::{ModelError, ParameterList, Weights},
};

/// The counts that a model has, in host memory whatever the model's device; clones share what is large.
#[derive(Debug, Clone)]
pub(in crate::model::sesrec) struct Counts {
    words: Option<SharedWords>,
    together: Option<ClickedTogether>,
}

/// What a user's history adds to candidates: to those with its words, and to the neighbours of its items. Empty for
/// models without counts.
#[derive(Debug, Clone, Default)]
pub(in crate::model::sesrec) struct UserCounts {
    words: WordLogits,
    items: ItemLogits,
}

impl Counts {
    /// Adds the tensors of the counts that the configuration wants.
    pub(in crate::model::sesrec) fn parameters(config: &SesRecConfig, list: &mut ParameterList) {
        if config.shared_words {
            SharedWords::parameters(list);
        }
        if config.clicked_together {
            ClickedTogether::parameters(config.inputs.item_attributes[0].rows, list);
        }
    }

    /// Those of them that come from the training part of a data set.
    pub(in crate::model::sesrec) fn tables(
        config: &SesRecConfig,
        dataset: &Dataset,
    ) -> Result<HashMap<String, Tensor>> {
        if config.clicked_together { ClickedTogether::tables(dataset) } else { Ok(HashMap::new()) }
    }

    /// Refuses tables that name other items than there are.
    pub(in crate::model::sesrec) fn check_tables(
        config: &SesRecConfig,
        tensors: &HashMap<String, Tensor>,
    ) -> std::result::Result<(), ModelError> {
        if config.clicked_together { ClickedTogether::check_tables(tensors) } else { Ok(()) }
    }

    /// Over the tensors of [`Self::parameters`].
    pub(in crate::model::sesrec) fn new(
        config: &SesRecConfig,
        catalogue: Arc<Catalogue>,
        weights: &Weights<'_>,
    ) -> std::result::Result<Self, ModelError> {
        let words = config.shared_words.then(|| SharedWords::new(catalogue, weights)).transpose()?;
        let together = config.clicked_together.then(|| ClickedTogether::new(weights)).transpose()?;
        Ok(Self { words, together })
    }

    /// The tensors of what they weigh: names and lengths.
    pub(in crate::model::sesrec) fn weights(&self) -> Vec<(&'static str, usize)> {
        let words = self.words.as_ref().map(|words| (shared_words::WEIGHTS, words.weights.len()));
        let together = self.together.as_ref().map(|together| (clicked_together::WEIGHTS, together.weights.len()));
        words.into_iter().chain(together).collect()
    }

    /// Each count by itself, weighing 1, in the order of [`Self::weights`].
    pub(in crate::model::sesrec) fn each(&self) -> Vec<Self> {
        let number: usize = self.weights().iter().map(|(_, length)| length).sum();
        let alone = |count: usize| {
            let mut counts = self.clone();
            let words = counts.words.iter_mut().flat_map(|words| &mut words.weights);
            let together = counts.together.iter_mut().flat_map(|together| &mut together.weights);
            words.chain(together).enumerate().for_each(|(n, weight)| *weight = f32::from(u8::from(n == count)));
            counts
        };
        (0..number).map(alone).collect()
    }

    /// Whether there is nothing to add.
    #[cfg(feature = "cuda")]
    pub(in crate::model::sesrec) fn is_empty(&self) -> bool {
        self.words.is_none() && self.together.is_none()
    }

    /// Of one user.
    pub(in crate::model::sesrec) fn of_user(&self, user: &UserFeatures) -> UserCounts {
        UserCounts {
            words: self.words.as_ref().map(|words| words.of_user(user)).unwrap_or_default(),
            items: self.together.as_ref().map(|together| together.of_user(user)).unwrap_or_default(),
        }
    }

    /// Adds what a user's history adds to candidates' logits.
    pub(in crate::model::sesrec) fn add(&self, user: &UserCounts, items: &[u32], logits: &mut [f32]) {
        if let Some(words) = &self.words {
            words.add(&user.words, items, logits);
        }
        user.items.add(items, logits);
    }
}

impl UserCounts {
    /// Memory it occupies.
    pub(in crate::model::sesrec) fn bytes(&self) -> usize {
        self.words.bytes() + self.items.bytes()
    }
}

/// A user's candidates: what was learned of them, as logits, beside [each](Counts::each) count.
pub(in crate::model::sesrec) fn choice(
    each: &[Counts],
    user: &UserFeatures,
    (items, learned): (&[u32], &[f32]),
) -> Choice {
    let mut rows: Choice = learned.iter().map(|&logit| vec![logit]).collect();
    for counts in each {
        let mut logits = vec![0.0; items.len()];
        counts.add(&counts.of_user(user), items, &mut logits);
        rows.iter_mut().zip(logits).for_each(|(row, logit)| row.push(logit));
    }
    rows
}
