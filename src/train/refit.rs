//! Learning in two rounds: one that is validated and says for how many epochs, and one from all that lies before the
//! test.

use super::{Best, Checkpoint, Ending, Outcome, Trainer, TrainingError, run::restore, trainer::Epochs};
use crate::{
    data::Dataset,
    model::{ModelError, TrainableModel},
};

impl Trainer<'_> {
    /// [`run`](Self::run), and where the recipe says so a second round, with validation interactions among the targets:
    /// as many epochs as were best in the first, with its learning rates, from the weights that `rebuild` begins with.
    /// Metrics, epochs, the best epoch and [fitted](TrainableModel::fitted) weights of the outcome are the first
    /// round's, all other weights are the second's; interrupted in either round, it has no weights.
    ///
    /// # Errors
    /// See [`TrainingError`]; the last checkpoint stays.
    pub fn fit(
        &self,
        model: &dyn TrainableModel,
        from: Option<Checkpoint>,
        rebuild: impl FnOnce(&Dataset) -> Result<Box<dyn TrainableModel>, ModelError>,
    ) -> Result<Outcome, TrainingError> {
        let first = self.run(model, from)?;
        let Outcome { ending, best: Some(best), epochs, seconds } = &first else { return Ok(first) };
        if !self.recipe.refit {
            return Ok(first);
        }
        let dataset = self.dataset.with_validation_learned(true);
        let again = Trainer {
            dataset: &dataset,
            files: self.files.of_refit(best, self.recipe.epochs),
            recipe: self.recipe.clone(),
            model_config: self.model_config.clone(),
            reporting: self.reporting.clone(),
            stop: self.stop.clone(),
            ..*self
        };
        self.reporting
            .line(&format!("refit: {} epochs from training and validation interactions together", best.epoch));
        let from =
            again.files.checkpoints.as_deref().map_or(Ok(None), Checkpoint::read_latest).unwrap_or_else(|error| {
                // All it takes to learn the round once more is there.
                self.reporting.line(&format!("refit: starts afresh: {error}"));
                None
            });
        let model = rebuild(&dataset)?;
        // Nothing is left that they could be fitted to. That fits as far as both rounds' logits are of one scale.
        let fitted = model.fitted();
        restore(&*model, &best.tensors, |name| fitted.contains(&name))?;
        let second = again.run_epochs(&*model, from, Epochs::Like(&epochs[..best.epoch]))?;
        Ok(Outcome {
            best: second.best.map(|Best { tensors, .. }| Best { tensors, ..*best }),
            epochs: epochs.clone(),
            seconds: seconds + second.seconds,
            ending: match second.ending {
                Ending::Interrupted { .. } => second.ending,
                Ending::Completed | Ending::EarlyStop => ending.clone(),
            },
        })
    }
}
