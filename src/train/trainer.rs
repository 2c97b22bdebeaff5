//! A training run from its first epoch to its last.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rand::seq::SliceRandom;

use super::{
    Best, Checkpoint, Ending, EpochReport, Outcome, Recipe, Reporting, TrainingError,
    loader::Loader,
    randomness::{Purpose, generator},
    run::{Flow, Run},
};
use crate::{
    data::{Dataset, EvaluationNegatives, Split, Target},
    model::TrainableModel,
};

/// A run: what is learned from, how, and where its traces go.
#[derive(Debug)]
pub struct Trainer<'a> {
    /// What is learned from.
    pub dataset: &'a Dataset,
    /// What validation ranks the clicked item among.
    pub negatives: &'a EvaluationNegatives,
    /// How.
    pub recipe: Recipe,
    /// The model's configuration: a checkpoint of another one is refused.
    pub model_config: serde_json::Value,
    /// Where traces go.
    pub files: TrainingFiles,
    /// Who is told.
    pub reporting: Reporting,
    /// When this becomes true, the step that runs is finished, a checkpoint written, and the run ends.
    pub stop: Arc<AtomicBool>,
}

/// Where a run leaves its traces; `None` is nowhere.
#[derive(Debug, Clone, Default)]
pub struct TrainingFiles {
    /// Directory of checkpoints.
    pub checkpoints: Option<PathBuf>,
    /// Steps between checkpoints within an epoch, for epochs of hours; 0: only at the end of each.
    pub checkpoint_steps: usize,
    /// Directory of TensorBoard event files.
    pub tensorboard: Option<PathBuf>,
    /// Steps between two points of the loss curves.
    pub log_steps: usize,
}

impl TrainingFiles {
    /// Where the refit of a run leaves its own: another best epoch or schedule makes it another run.
    pub(super) fn of_refit(&self, best: &Best, epochs: usize) -> Self {
        let name = format!("refit-{}-of-{epochs}", best.epoch);
        let of = |directory: &Option<PathBuf>| directory.as_ref().map(|directory| directory.join(&name));
        Self { checkpoints: of(&self.checkpoints), tensorboard: of(&self.tensorboard), ..self.clone() }
    }
}

impl Trainer<'_> {
    /// Trains `model`, from its present weights or from a checkpoint of the same run.
    ///
    /// # Errors
    /// See [`TrainingError`]; the last checkpoint stays.
    pub fn run(&self, model: &dyn TrainableModel, from: Option<Checkpoint>) -> Result<Outcome, TrainingError> {
        self.run_epochs(model, from, Epochs::Validated)
    }

    /// As [`run`](Self::run), for these epochs.
    pub(super) fn run_epochs(
        &self,
        model: &dyn TrainableModel,
        from: Option<Checkpoint>,
        epochs: Epochs<'_>,
    ) -> Result<Outcome, TrainingError> {
        self.recipe.check()?;
        self.recipe.check_items(self.dataset.catalogue.items.ids.len())?;
        let last = match epochs {
            Epochs::Validated => self.recipe.epochs,
            Epochs::Like(reports) => reports.len(),
        };
        let mut run = Run::start(self, model, from, epochs)?;
        let loader = Loader::new(self.dataset, run.featurizer.clone(), &self.recipe, model.batch_plan())?;
        while run.state.next.epoch <= last && !run.state.early_stop.is_due() {
            if run.epoch(&loader)? == Flow::Stop {
                let checkpoint = run.save()?;
                return Ok(run.outcome(Ending::Interrupted { checkpoint }));
            }
            run.finish_epoch()?;
            let checkpoint = run.save()?;
            if self.stop.load(Ordering::Relaxed) && run.state.next.epoch <= last {
                return Ok(run.outcome(Ending::Interrupted { checkpoint }));
            }
        }
        let early = run.state.early_stop.is_due() && run.state.next.epoch <= last;
        Ok(run.outcome(if early { Ending::EarlyStop } else { Ending::Completed }))
    }

    /// The users that epochs are validated on.
    pub(super) fn validation_targets(&self) -> Vec<Target> {
        let mut targets = self.dataset.targets(Split::Validation);
        let wanted = self.recipe.validation_users;
        if wanted > 0 && wanted < targets.len() {
            targets.shuffle(&mut generator(self.recipe.seed, Purpose::ValidationUsers, 0, 0));
            targets.truncate(wanted);
            targets.sort_unstable_by_key(|target| target.user);
        }
        targets
    }
}

/// How many epochs a run has, and who decides about them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Epochs<'a> {
    /// The recipe's, at most; validation decides.
    Validated,
    /// As many as these were, with their learning rates, and no validation.
    Like(&'a [EpochReport]),
}
