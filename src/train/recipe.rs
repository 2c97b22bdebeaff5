//! Every hyper-parameter of training; those of the model itself are in its configuration.

use serde::{Deserialize, Serialize};

use crate::{eval::Metrics, nn::AdamOptions};

/// A value that training can't work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct RecipeError {
    field: &'static str,
    message: String,
}

impl RecipeError {
    /// Which value, in words: "batch size".
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What is wrong with it.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// How a model is trained. The defaults are the release's for its Amazon data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Everything random follows from it: initial weights, order, negatives, dropout.
    pub seed: u64,
    /// Passes over the training targets, at most.
    pub epochs: usize,
    /// Targets per step.
    pub batch_size: usize,
    /// Sampled items per target.
    pub negatives: usize,
    /// How they are drawn.
    pub negative_sampling: NegativeSampling,
    /// Items, and as many queries, sampled for each batch: the negatives of the query-item alignment.
    pub alignment_negatives: usize,
    /// Share of activations that dropout zeroes.
    pub dropout: f64,
    /// Which rows of embedding tables a step moves.
    pub optimizer: Optimizer,
    /// Adam's step size at the start.
    pub learning_rate: f64,
    /// How the step size changes.
    pub schedule: Schedule,
    /// L2 regularisation, added to the gradient. The release: 1e-5 for Amazon, 1e-6 for Kuaishou.
    pub l2: f64,
    /// Adam's decay of the first moment.
    pub beta1: f64,
    /// Adam's decay of the second moment.
    pub beta2: f64,
    /// Adam's guard against division by zero.
    pub epsilon: f64,
    /// What the step size is multiplied with on a plateau of validation MRR.
    pub plateau_factor: f64,
    /// Epochs without a better validation MRR that are waited for. The release: 5 for Amazon, 1 for Kuaishou.
    pub plateau_patience: usize,
    /// How much better counts as better, relative.
    pub plateau_threshold: f64,
    /// The step size never falls below.
    pub min_learning_rate: f64,
    /// Epochs without a better validation MRR, with the step size at its floor, after which training ends. The release:
    /// 5 for Amazon, 2 for Kuaishou.
    pub early_stop_patience: usize,
    /// Which validation metric picks the weights that are kept.
    pub selection: Selection,
    /// Which interactions are learned from.
    pub targets: TrainingTargets,
    /// Whether, when validation has chosen the epoch, all is learned once more with validation interactions among the
    /// targets, for as many epochs: what is served or tested then has learned from the newest interactions, too.
    pub refit: bool,
    /// In which order the targets are learned from.
    pub order: Order,
    /// Which of a user's own clicks are never drawn as negatives.
    pub own_clicks: OwnClicks,
    /// Users that each epoch is validated on, drawn by the seed and the same ones every time; 0 for all.
    pub validation_users: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 20_210_823,
            epochs: 30,
            batch_size: 256,
            negatives: 4,
            negative_sampling: NegativeSampling::default(),
            alignment_negatives: 1024,
            dropout: 0.1,
            optimizer: Optimizer::default(),
            learning_rate: 1e-3,
            schedule: Schedule::default(),
            l2: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            plateau_factor: 0.1,
            plateau_patience: 5,
            plateau_threshold: 1e-4,
            min_learning_rate: 1e-5,
            early_stop_patience: 5,
            selection: Selection::default(),
            targets: TrainingTargets::default(),
            refit: false,
            order: Order::default(),
            own_clicks: OwnClicks::default(),
            validation_users: 0,
        }
    }
}

impl Recipe {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that can't be used.
    pub fn check(&self) -> Result<(), RecipeError> {
        let at_least_one = [("epochs", self.epochs), ("batch size", self.batch_size), ("negatives", self.negatives)];
        for (field, value) in at_least_one {
            if value == 0 {
                return Err(RecipeError { field, message: "must be at least 1".into() });
            }
        }
        let share = |value: f64| (0.0..1.0).contains(&value);
        let from_zero = |value: f64| value.is_finite() && value >= 0.0;
        let above_zero = |value: f64| value.is_finite() && value > 0.0;
        let (rate, least_rate, factor) = (self.learning_rate, self.min_learning_rate, self.plateau_factor);
        let bounded = [
            ("dropout", self.dropout, share(self.dropout), "from 0 to below 1"),
            ("learning rate", rate, above_zero(rate), "above 0 and finite"),
            ("minimal learning rate", least_rate, (0.0..=rate).contains(&least_rate), "from 0 to the learning rate"),
            ("l2", self.l2, from_zero(self.l2), "0 or above it, and finite"),
            ("beta1", self.beta1, share(self.beta1), "from 0 to below 1"),
            ("beta2", self.beta2, share(self.beta2), "from 0 to below 1"),
            ("epsilon", self.epsilon, above_zero(self.epsilon), "above 0 and finite"),
            ("plateau factor", factor, share(factor) && factor > 0.0, "above 0 and below 1"),
            (
                "plateau threshold",
                self.plateau_threshold,
                from_zero(self.plateau_threshold),
                "0 or above it, and finite",
            ),
        ];
        for (field, value, fits, bounds) in bounded {
            if !fits {
                // Written with an exponent where it would have hundreds of digits.
                return Err(RecipeError { field, message: format!("is {value:?}, must be {bounds}") });
            }
        }
        Ok(())
    }

    /// Checks that a data set of so many items has enough of them: a target's negatives are all different, and the
    /// search for others that there aren't would go through all items for each.
    ///
    /// # Errors
    /// If there are fewer other items than negatives.
    pub fn check_items(&self, items: usize) -> Result<(), RecipeError> {
        // With less than two, nothing can be sampled: the sampler says so.
        if items >= 2 && self.negatives >= items {
            let message = format!(
                "is {}, but the data set has {items} items: must be at most {}, one for every other item",
                self.negatives,
                items - 1
            );
            return Err(RecipeError { field: "negatives", message });
        }
        Ok(())
    }

    /// The optimizer's part.
    pub fn adam(&self) -> AdamOptions {
        AdamOptions {
            learning_rate: self.learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            l2: self.l2,
            lazy: self.optimizer == Optimizer::LazyAdam,
        }
    }
}

/// Which rows of embedding tables a step moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// All of them, as the release does: rows that a batch doesn't use go on moving by their momentum and L2.
    #[default]
    Adam,
    /// The rows that the batch uses: a step's time doesn't grow with the catalogue. On the CPU; on a GPU as adam.
    LazyAdam,
}

/// How sampled items are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum NegativeSampling {
    /// In proportion to their training clicks, as the release does: that an item is popular is not learned.
    #[default]
    Popularity,
    /// All equally likely, as in an evaluation among uniformly sampled items: that an item is popular is learned, too.
    Uniform,
}

/// How the step size changes while training goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// It falls by the plateau factor when validation MRR has stopped growing, as the release's.
    #[default]
    Plateau,
    /// It rises over the first fiftieth of all steps and then falls like a half cosine to the minimal rate.
    Cosine,
}

/// Which validation metric picks the weights that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// Mean reciprocal rank, as the release does.
    #[default]
    Mrr,
    /// NDCG among the first ten.
    #[value(name = "ndcg-at-10")]
    #[serde(rename = "ndcg-at-10")]
    NdcgAt10,
}

impl Selection {
    /// Its value.
    pub fn of(self, metrics: &Metrics) -> f64 {
        match self {
            Self::Mrr => metrics.mrr,
            Self::NdcgAt10 => metrics.ndcg_at_10,
        }
    }
}

/// Which interactions are learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TrainingTargets {
    /// Those whose user has searched before them, as in the release: both sides have something to learn from.
    #[default]
    AfterSearch,
    /// Also those without: more data, and a model that has seen users who never search.
    All,
}

/// In which order an epoch goes through the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Another one each epoch.
    #[default]
    Shuffled,
    /// Another one each epoch, with targets of alike history lengths in a batch: as little padding as can be.
    ByLength,
    /// By user, then time, in every epoch: the release's loader does not shuffle.
    ByUser,
}

/// Which of a user's own clicks are never drawn as negatives for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OwnClicks {
    /// Those up to the target, as the release's code does: an item that the user clicks later may be a negative before.
    #[default]
    Earlier,
    /// All clicks of the training split: nothing that is known to be clicked is learned to be a negative.
    Training,
    /// All clicks, the validation and test items included, as sampled negatives of many published results do. It tells
    /// the model a little about the items to come: for comparing with those results only.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_usable_and_survives_json() {
        let recipe = Recipe::default();
        recipe.check().unwrap();
        let json = serde_json::to_string(&recipe).unwrap();
        assert!(json.contains(r#""selection":"mrr""#) && json.contains(r#""targets":"after-search""#), "{json}");
        assert_eq!(serde_json::from_str::<Recipe>(&json).unwrap(), recipe);
        assert!(serde_json::from_str::<Recipe>(r#"{"learning_rat": 1}"#).is_err());
        assert_eq!(serde_json::from_str::<Recipe>("{}").unwrap(), recipe);
    }

    #[test]
    fn unusable_values_are_named() {
        let default = Recipe::default;
        for (recipe, field) in [
            (Recipe { batch_size: 0, ..default() }, "batch size"),
            (Recipe { dropout: 1.0, ..default() }, "dropout"),
            (Recipe { dropout: f64::NAN, ..default() }, "dropout"),
            (Recipe { learning_rate: 0.0, ..default() }, "learning rate"),
            (Recipe { min_learning_rate: 0.1, ..default() }, "minimal learning rate"),
            (Recipe { plateau_factor: 1.0, ..default() }, "plateau factor"),
            (Recipe { l2: -1.0, ..default() }, "l2"),
        ] {
            assert_eq!(recipe.check().unwrap_err().field, field);
        }
        Recipe { min_learning_rate: 1e-3, ..default() }.check().unwrap();
        for (recipe, message) in [
            (Recipe { learning_rate: 0.0, ..default() }, "is 0.0, must be above 0 and finite"),
            (Recipe { learning_rate: f64::INFINITY, ..default() }, "is inf, must be above 0 and finite"),
            (Recipe { min_learning_rate: 1e300, ..default() }, "is 1e300, must be from 0 to the learning rate"),
            (Recipe { dropout: -1e-300, ..default() }, "is -1e-300, must be from 0 to below 1"),
        ] {
            assert_eq!(recipe.check().unwrap_err().message(), message);
        }
    }

    #[test]
    fn more_negatives_than_other_items_are_refused() {
        let recipe = Recipe { negatives: 300, ..Recipe::default() };
        recipe.check_items(301).unwrap();
        let error = recipe.check_items(300).unwrap_err();
        assert_eq!(error.field(), "negatives");
        assert!(error.message().contains("has 300 items: must be at most 299"), "{error}");
    }
}
