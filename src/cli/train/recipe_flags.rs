//! The recipe as flags.

use super::{Loss, Preset};
use crate::{
    model::ModelKind,
    train::{Order, OwnClicks, Recipe, Selection, TrainingTargets},
};

/// How the model is trained.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Recipe (defaults: the SESRec release's)")]
pub struct RecipeFlags {
    /// Passes over the training data, at most; validation usually ends it earlier.
    #[arg(long, default_value_t = 30)]
    epochs: usize,
    /// Examples per step. Larger is faster on a GPU and may need a larger learning rate.
    #[arg(long, default_value_t = 256)]
    batch_size: usize,
    /// Items that a user did not click, per clicked one; drawn in proportion to their popularity, so that popular items
    /// are not simply learned to be good.
    #[arg(long, default_value_t = 4)]
    training_negatives: usize,
    /// Items and queries that a batch's query-item alignment is contrasted with.
    #[arg(long, default_value_t = 1024)]
    alignment_negatives: usize,
    /// Share of activations that are zeroed in training: against overfitting. [default: the model's: sesrec and jsr 0.1,
    /// stamp and srjgraph 0, gru4rec 0.3, sasrec and fmlp 0.5, query-seqrec 0.6]
    #[arg(long)]
    dropout: Option<f64>,
    /// Adam's step size at the start.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// L2 regularisation, added to the gradient of every weight. [default: 1e-5 for amazon, 1e-6 for kuaishou]
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
    /// Which validation metric picks the epoch whose weights are kept.
    #[arg(long, value_enum, default_value_t)]
    selection: Selection,
    /// Which interactions are learned from. [default: after-search; all with --loss own]
    #[arg(long, value_enum)]
    targets: Option<TrainingTargets>,
    /// In which order an epoch goes through them.
    #[arg(long, value_enum, default_value_t)]
    order: Order,
    /// Which of a user's own clicks are never drawn as negatives.
    #[arg(long, value_enum, default_value_t)]
    own_clicks: OwnClicks,
    /// Validate each epoch on this many users, always the same ones; 0 for all. Fewer make epochs shorter.
    #[arg(long, default_value_t = 0, value_name = "USERS")]
    validation_users: usize,
}

impl RecipeFlags {
    /// For a model with its publication's loss or the common one.
    pub(crate) fn recipe(&self, seed: u64, preset: Preset, model: ModelKind, loss: Loss) -> Recipe {
        let (l2, plateau_patience, early_stop_patience) = match preset {
            Preset::Amazon => (1e-5, 5, 5),
            Preset::Kuaishou => (1e-6, 1, 2),
        };
        let targets = match loss {
            Loss::Own => TrainingTargets::All,
            Loss::Bce => TrainingTargets::AfterSearch,
        };
        Recipe {
            seed,
            epochs: self.epochs,
            batch_size: self.batch_size,
            negatives: self.training_negatives,
            alignment_negatives: self.alignment_negatives,
            dropout: self.dropout.unwrap_or_else(|| model.dropout()),
            learning_rate: self.learning_rate,
            l2: self.l2.unwrap_or(l2),
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            plateau_factor: self.plateau_factor,
            plateau_patience: self.plateau_patience.unwrap_or(plateau_patience),
            plateau_threshold: self.plateau_threshold,
            min_learning_rate: self.min_learning_rate,
            early_stop_patience: self.early_stop_patience.unwrap_or(early_stop_patience),
            selection: self.selection,
            targets: self.targets.unwrap_or(targets),
            order: self.order,
            own_clicks: self.own_clicks,
            validation_users: self.validation_users,
        }
    }
}
