//! The recipe as flags.

use super::{Loss, Preset};
use crate::{
    model::{ModelKind, Setting},
    train::{NegativeSampling, Optimizer, Order, OwnClicks, Recipe, RecipeError, Schedule, Selection, TrainingTargets},
    units::parse_count,
};

/// A model's training and, for SESRec, its architecture as a whole; single flags change single values of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum RecipeName {
    /// The SESRec release's, as faithful as can be.
    #[default]
    Paper,
    /// Better on the same logs: many uniformly sampled negatives under one softmax, a learning rate that falls like a
    /// cosine, all interactions as targets, validation's too in a second round; SESRec also reads the words of
    /// captions, counts positions from the newest event, and adds to its prediction how well a candidate matches each
    /// set of events, how near it is to what they have in common, which words it shares with them, how often it was
    /// clicked together with them, and how good it is by itself.
    Best,
}

impl RecipeName {
    /// What a model is built with.
    pub(crate) fn settings(self, model: ModelKind) -> Vec<Setting> {
        match self {
            Self::Paper => vec![],
            Self::Best => model.better_settings(),
        }
    }

    fn recipe(self, preset: Preset, model: ModelKind, loss: Loss) -> Recipe {
        let (l2, plateau_patience, early_stop_patience) = match preset {
            Preset::Amazon => (1e-5, 5, 5),
            Preset::Kuaishou => (1e-6, 1, 2),
        };
        let (targets, negative_sampling) = match loss {
            Loss::Own => (TrainingTargets::All, NegativeSampling::Uniform),
            Loss::Bce => (TrainingTargets::AfterSearch, NegativeSampling::Popularity),
        };
        let paper = Recipe {
            dropout: model.dropout(),
            l2,
            plateau_patience,
            early_stop_patience,
            targets,
            negative_sampling,
            ..Recipe::default()
        };
        match self {
            Self::Paper => paper,
            Self::Best => Recipe {
                epochs: 4,
                negatives: 32,
                negative_sampling: NegativeSampling::Uniform,
                own_clicks: OwnClicks::Training,
                schedule: Schedule::Cosine,
                dropout: model.better_dropout(),
                l2: 0.0,
                targets: TrainingTargets::All,
                refit: true,
                order: Order::ByLength,
                selection: Selection::NdcgAt10,
                ..paper
            },
        }
    }
}

/// How the model is trained.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Recipe (defaults: those of --recipe)")]
pub struct RecipeFlags {
    /// Where the flags below have their defaults from. [default: paper]
    #[arg(long, value_enum, default_value_t, hide_default_value = true)]
    pub(crate) recipe: RecipeName,
    /// Passes over the training data, at most; validation usually ends it earlier. [default: 30; best 4]
    #[arg(long, value_parser = parse_count)]
    epochs: Option<usize>,
    /// Examples per step. Larger is faster on a GPU and may need a larger learning rate.
    #[arg(long, default_value_t = 256, value_parser = parse_count)]
    batch_size: usize,
    /// Items that a user did not click, per clicked one. [default: 4; best 32]
    #[arg(long, value_parser = parse_count)]
    training_negatives: Option<usize>,
    /// How they are drawn. [default: popularity; uniform with --loss own, and for best]
    #[arg(long, value_enum)]
    negative_sampling: Option<NegativeSampling>,
    /// Items and queries that a batch's query-item alignment is contrasted with.
    #[arg(long, default_value_t = 1024)]
    alignment_negatives: usize,
    /// Share of activations that are zeroed in training: against overfitting. [default: the model's: sesrec, jsr
    /// and iv4rec 0.1, gru4rec 0.3, sasrec and fmlp 0.5, query-seqrec 0.6, others 0; best: sesrec 0.3]
    #[arg(long)]
    dropout: Option<f64>,
    /// Which rows of embedding tables a step moves: all, or those that its batch uses, which is faster on large
    /// catalogues and learns slightly differently.
    #[arg(long, value_enum, default_value_t)]
    optimizer: Optimizer,
    /// Adam's step size at the start.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// How it changes. [default: plateau; best cosine]
    #[arg(long, value_enum)]
    schedule: Option<Schedule>,
    /// L2 regularisation, added to the gradient of every weight. [default: 1e-5 for amazon, 1e-6 for kuaishou; best 0]
    #[arg(long)]
    l2: Option<f64>,
    /// Adam's decay of the mean gradient.
    #[arg(long, default_value_t = 0.9)]
    beta1: f64,
    /// Adam's decay of the mean squared gradient.
    #[arg(long, default_value_t = 0.999)]
    beta2: f64,
    /// Adam's guard against division by zero.
    #[arg(long, default_value_t = 1e-8)]
    epsilon: f64,
    /// What the learning rate is multiplied with when validation MRR has stopped growing.
    #[arg(long, default_value_t = 0.1)]
    plateau_factor: f64,
    /// Epochs without a better validation MRR before that happens. [default: 5 for amazon, 1 for kuaishou]
    #[arg(long)]
    plateau_patience: Option<usize>,
    /// How much larger a validation MRR has to be to count as better, relative.
    #[arg(long, default_value_t = 1e-4)]
    plateau_threshold: f64,
    /// The learning rate never falls below.
    #[arg(long, default_value_t = 1e-5)]
    min_learning_rate: f64,
    /// Epochs without a better validation MRR, with the learning rate at its lowest, before training ends. [default: 5
    /// for amazon, 2 for kuaishou]
    #[arg(long)]
    early_stop_patience: Option<usize>,
    /// Which validation metric picks the epoch whose weights are kept. [default: mrr; best ndcg-at-10]
    #[arg(long, value_enum)]
    selection: Option<Selection>,
    /// Which interactions are learned from. [default: after-search; all with --loss own, and for best]
    #[arg(long, value_enum)]
    targets: Option<TrainingTargets>,
    /// When validation has chosen the epoch, learn once more, for as many epochs, from training and validation
    /// interactions together: the newest clicks are worth most. The test stays unseen. [default: false; best true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    refit: Option<bool>,
    /// In which order an epoch goes through them. [default: shuffled; best by-length]
    #[arg(long, value_enum)]
    order: Option<Order>,
    /// Which of a user's own clicks are never drawn as negatives. [default: earlier; best training]
    #[arg(long, value_enum)]
    own_clicks: Option<OwnClicks>,
    /// Validate each epoch on this many users, drawn by the seed and the same ones in every epoch; 0 for all. Fewer
    /// make epochs shorter.
    #[arg(long, default_value_t = 0, value_name = "USERS")]
    validation_users: usize,
}

/// A value that training can't work with, by its flag: the recipe calls some of its values otherwise.
pub(super) fn flag_error(error: RecipeError) -> anyhow::Error {
    let flag = match error.field() {
        "negatives" => "training-negatives".to_owned(),
        "minimal learning rate" => "min-learning-rate".to_owned(),
        field => field.replace(' ', "-"),
    };
    anyhow::anyhow!("--{flag}: {}", error.message())
}

impl RecipeFlags {
    /// The same flags over another recipe's defaults.
    pub(crate) fn with_defaults_of(&self, recipe: RecipeName) -> Self {
        Self { recipe, ..self.clone() }
    }

    /// For a model with its publication's loss or the common one.
    pub(crate) fn recipe(&self, seed: u64, preset: Preset, model: ModelKind, loss: Loss) -> Recipe {
        let base = self.recipe.recipe(preset, model, loss);
        Recipe {
            seed,
            epochs: self.epochs.unwrap_or(base.epochs),
            batch_size: self.batch_size,
            negatives: self.training_negatives.unwrap_or(base.negatives),
            negative_sampling: self.negative_sampling.unwrap_or(base.negative_sampling),
            alignment_negatives: self.alignment_negatives,
            dropout: self.dropout.unwrap_or(base.dropout),
            optimizer: self.optimizer,
            learning_rate: self.learning_rate,
            schedule: self.schedule.unwrap_or(base.schedule),
            l2: self.l2.unwrap_or(base.l2),
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            plateau_factor: self.plateau_factor,
            plateau_patience: self.plateau_patience.unwrap_or(base.plateau_patience),
            plateau_threshold: self.plateau_threshold,
            min_learning_rate: self.min_learning_rate,
            early_stop_patience: self.early_stop_patience.unwrap_or(base.early_stop_patience),
            selection: self.selection.unwrap_or(base.selection),
            targets: self.targets.unwrap_or(base.targets),
            refit: self.refit.unwrap_or(base.refit),
            order: self.order.unwrap_or(base.order),
            own_clicks: self.own_clicks.unwrap_or(base.own_clicks),
            validation_users: self.validation_users,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        recipe: RecipeFlags,
    }

    #[test]
    fn what_is_out_of_range_is_named_by_a_flag_that_there_is() {
        let paper = Recipe::default;
        for wrong in [
            Recipe { epochs: 0, ..paper() },
            Recipe { batch_size: 0, ..paper() },
            Recipe { negatives: 0, ..paper() },
            Recipe { dropout: 1.0, ..paper() },
            Recipe { learning_rate: 0.0, ..paper() },
            Recipe { min_learning_rate: 1.0, ..paper() },
            Recipe { l2: -1.0, ..paper() },
            Recipe { beta1: 1.0, ..paper() },
            Recipe { beta2: 1.0, ..paper() },
            Recipe { epsilon: 0.0, ..paper() },
            Recipe { plateau_factor: 1.0, ..paper() },
            Recipe { plateau_threshold: -1.0, ..paper() },
        ] {
            let error = flag_error(wrong.check().unwrap_err()).to_string();
            let flag = error.strip_prefix("--").and_then(|error| error.split_once(": ")).unwrap().0;
            let command = Command::command();
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some(flag)), "{error}");
        }
        let error = flag_error(paper().check_items(3).unwrap_err()).to_string();
        assert!(error.starts_with("--training-negatives: is 4, but the data set has 3 items"), "{error}");
    }

    #[test]
    fn counts_are_at_least_one() {
        for flag in ["--epochs", "--batch-size", "--training-negatives"] {
            let error = Command::try_parse_from(["train", flag, "0"]).err().unwrap().to_string();
            assert!(error.contains(flag) && error.contains("must be at least 1"), "{error}");
        }
        let flags = Command::parse_from(["train", "--training-negatives", "7"]).recipe;
        assert_eq!(flags.training_negatives, Some(7));
    }
}
