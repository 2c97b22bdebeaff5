//! A run under way: steps, validation and what follows from it, checkpoints.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use candle_core::Tensor;

use super::{
    Best, Checkpoint, Ending, EpochReport, EventWriter, Outcome, Reporting, Schedule, Trainer, TrainingError,
    checkpoint::{Candidates, Position, RunState},
    loader::Loader,
    outcome::{BestEpoch, EpochSums},
    progress::losses_text,
    schedule::cosine,
    step::Learner,
    trainer::Epochs,
};
use crate::{
    data::{Featurizer, Split, Target},
    eval::{EvaluationError, Evaluator, Metrics},
    model::{HeldOutClick, ModelError, TrainableModel, TrainingBatch},
};

/// Validation clicks that a model is given to fit to, at most, evenly spaced over the users: whoever validation
/// measures.
const FITTED_CLICKS: usize = 3000;
/// Negatives of each, at most.
const FITTED_NEGATIVES: usize = 99;

/// Whether an epoch was finished.
#[derive(PartialEq)]
pub(super) enum Flow {
    Continue,
    Stop,
}

/// A run under way.
pub(super) struct Run<'a> {
    trainer: &'a Trainer<'a>,
    model: &'a dyn TrainableModel,
    pub featurizer: Featurizer,
    learner: Learner<'a>,
    events: Option<EventWriter>,
    validation: Vec<Target>,
    /// Empty for models that have nothing to fit to them, and in a refit.
    held_out: Vec<HeldOutClick>,
    epochs: Epochs<'a>,
    pub state: RunState,
    best: Option<HashMap<String, Tensor>>,
}

impl<'a> Run<'a> {
    pub fn start(
        trainer: &'a Trainer<'a>,
        model: &'a dyn TrainableModel,
        from: Option<Checkpoint>,
        epochs: Epochs<'a>,
    ) -> Result<Self, TrainingError> {
        let Trainer { dataset, recipe, files, .. } = trainer;
        let validation = match epochs {
            Epochs::Validated => trainer.validation_targets(),
            Epochs::Like(_) => vec![],
        };
        let candidates = Candidates::of(&validation, trainer.negatives, dataset)?;
        let mut state = RunState::new(recipe, trainer.model_config.clone(), &dataset.checksum, candidates);
        let mut learner = Learner::new(model, dataset, recipe)?;
        let mut best = None;
        if let Some(checkpoint) = from {
            checkpoint.check(&state, files.checkpoints.as_deref().unwrap_or_else(|| "checkpoint".as_ref()))?;
            restore(model, &checkpoint.parameters, |_| true)?;
            let restored = learner.adam.restore(&checkpoint.optimizer);
            restored.map_err(|source| TrainingError::Optimizer { epoch: 1, step: 1, source })?;
            state = RunState { recipe: recipe.clone(), candidates: state.candidates, ..checkpoint.state };
            learner.adam.set_learning_rate(state.learning_rate);
            best = checkpoint.best;
        }
        let events = files.tensorboard.as_deref().map(EventWriter::create).transpose();
        let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), model.limits());
        let held_out = match epochs {
            Epochs::Validated if !model.fitted().is_empty() => held_out(trainer, &featurizer)
                .map_err(|source| TrainingError::Validation { epoch: state.next.epoch, source })?,
            _ => vec![],
        };
        Ok(Self {
            trainer,
            model,
            featurizer,
            learner,
            events: events.map_err(|(path, source)| TrainingError::Io { path, source })?,
            validation,
            held_out,
            epochs,
            state,
            best,
        })
    }

    /// The steps of the present epoch that are left.
    pub fn epoch(&mut self, loader: &Loader<'_>) -> Result<Flow, TrainingError> {
        let Position { epoch, step: first } = self.state.next;
        let (steps, files) = (loader.steps(), &self.trainer.files);
        let last = match self.epochs {
            Epochs::Validated => self.trainer.recipe.epochs,
            Epochs::Like(reports) => {
                self.state.learning_rate = reports[epoch - 1].learning_rate;
                self.learner.adam.set_learning_rate(self.state.learning_rate);
                reports.len()
            }
        };
        let bar = self.trainer.reporting.epoch_bar(format!("epoch {epoch}/{last}"), steps);
        bar.set_position(first as u64);
        if epoch == 1 && first == 0 {
            tracing::info!(targets = loader.targets(), steps, parameters = self.model.parameters().count(), "training");
        }
        let mut window = EpochSums::default();
        let flow = loader.stream(epoch, first, |batches| {
            let mut clock = Instant::now();
            for (step, batch) in (first..).zip(batches) {
                let samples = batch.positives.len();
                // In the thread pool: every operator that shares its work out would have to get there and back by
                // itself.
                let losses = rayon::scope(|_| self.step(&batch, (step, steps)))?;
                let seconds = clock.elapsed().as_secs_f64();
                clock = Instant::now();
                self.state.next.step = step + 1;
                self.state.steps += 1;
                self.state.seconds += seconds;
                self.state.sums.seconds += seconds;
                self.state.sums.add(&losses, samples);
                window.seconds += seconds;
                window.add(&losses, samples);
                bar.inc(1);
                if window.seconds > 0.0 && (step + 1 == steps || (step + 1) % files.log_steps.max(1) == 0) {
                    let speed = window.samples as f64 / window.seconds;
                    bar.set_message(format!("{} · {speed:.0} samples/s", losses_text(self.state.sums.means())));
                    self.log_window(&std::mem::take(&mut window), speed)?;
                }
                if step + 1 < steps {
                    if self.trainer.stop.load(Ordering::Relaxed) {
                        return Ok(Flow::Stop);
                    }
                    if files.checkpoint_steps > 0 && (step + 1) % files.checkpoint_steps == 0 {
                        self.save()?;
                    }
                }
            }
            Ok(Flow::Continue)
        });
        bar.finish_and_clear();
        flow
    }

    /// One step of the epoch's `steps`; the batch's losses by name.
    fn step(
        &mut self,
        batch: &TrainingBatch,
        (step, steps): (usize, usize),
    ) -> Result<Vec<(String, f64)>, TrainingError> {
        let recipe = &self.trainer.recipe;
        if recipe.schedule == Schedule::Cosine {
            let all = (recipe.epochs * steps) as u64;
            self.state.learning_rate = cosine(self.state.steps, all, recipe.learning_rate, recipe.min_learning_rate);
            self.learner.adam.set_learning_rate(self.state.learning_rate);
        }
        self.learner.step(batch, Position { epoch: self.state.next.epoch, step })
    }

    /// Fits what is fitted, validates, and decides how to go on.
    pub fn finish_epoch(&mut self) -> Result<(), TrainingError> {
        let started = Instant::now();
        let epoch = self.state.next.epoch;
        if !self.held_out.is_empty() {
            self.model.fit_held_out(&self.held_out)?;
        }
        let validation = match self.epochs {
            Epochs::Validated => Some(self.validate().map_err(|source| TrainingError::Validation { epoch, source })?),
            Epochs::Like(_) => None,
        };
        let sums = std::mem::take(&mut self.state.sums);
        let report = EpochReport {
            epoch,
            learning_rate: self.state.learning_rate,
            losses: sums.means().map(|(name, value)| (name.to_owned(), value)).collect(),
            validation,
            seconds: sums.seconds,
            samples_per_second: sums.samples as f64 / sums.seconds.max(f64::MIN_POSITIVE),
        };
        let selection = self.trainer.recipe.selection;
        let best = self.state.best.and_then(|best| best.validation);
        // Without validation the newest weights are the ones to keep.
        let better = validation.zip(best).is_none_or(|(new, best)| selection.of(&new) > selection.of(&best));
        if better {
            self.state.best = Some(BestEpoch { epoch, validation });
            self.best = Some(self.model.parameters().snapshot().map_err(ModelError::from)?);
        }
        self.log_epoch(&report)?;
        self.trainer.reporting.line(&format!(
            "epoch {epoch:>3}: {}{} · rate {:.2e} · {:.0} samples/s",
            losses_text(sums.means()),
            validation.map_or_else(String::new, |validation| {
                let best = if better { " (best)" } else { "" };
                format!(" · validation NDCG@10 {:.4}, MRR {:.4}{best}", validation.ndcg_at_10, validation.mrr)
            }),
            report.learning_rate,
            report.samples_per_second,
        ));
        self.state.epochs.push(report);
        let RunState { plateau, early_stop, learning_rate, .. } = &mut self.state;
        let schedule = self.trainer.recipe.schedule;
        if let Some(validation) = validation {
            early_stop.observe(validation.mrr, || schedule == Schedule::Plateau && plateau.at_floor(*learning_rate));
            if schedule == Schedule::Plateau {
                *learning_rate = plateau.next_rate(validation.mrr, *learning_rate);
                self.learner.adam.set_learning_rate(*learning_rate);
            }
        }
        self.state.next = Position { epoch: epoch + 1, step: 0 };
        self.state.seconds += started.elapsed().as_secs_f64();
        Ok(())
    }

    fn validate(&self) -> Result<Metrics, EvaluationError> {
        let Trainer { dataset, negatives, reporting, .. } = self.trainer;
        let mut evaluator = Evaluator::new(dataset, negatives, self.featurizer.clone())?;
        if matches!(reporting, Reporting::Terminal) {
            evaluator = evaluator.with_progress("validation");
        }
        let ranks = evaluator.ranks(&*self.model.ranker()?, &self.validation)?;
        Ok(Metrics::of_users(&ranks))
    }

    fn log_window(&mut self, window: &EpochSums, speed: f64) -> Result<(), TrainingError> {
        let mut values: Vec<(String, f64)> =
            window.means().map(|(name, value)| (format!("loss/{name}"), value)).collect();
        values.push(("speed/samples_per_second".into(), speed));
        values.push(("learning_rate".into(), self.state.learning_rate));
        self.log(&values)
    }

    fn log_epoch(&mut self, report: &EpochReport) -> Result<(), TrainingError> {
        let metrics = report.validation.iter().flat_map(|metrics| Metrics::NAMES.iter().zip(metrics.values()));
        let mut values: Vec<_> = metrics.map(|(name, value)| (format!("validation/{name}"), value)).collect();
        values.extend(report.losses.iter().map(|(name, value)| (format!("epoch_loss/{name}"), *value)));
        self.log(&values)
    }

    fn log(&mut self, values: &[(String, f64)]) -> Result<(), TrainingError> {
        let Some(events) = &mut self.events else { return Ok(()) };
        events
            .scalars(self.state.steps, values)
            .map_err(|source| TrainingError::Io { path: events.path().to_owned(), source })
    }

    pub fn save(&self) -> Result<Option<PathBuf>, TrainingError> {
        let Some(directory) = &self.trainer.files.checkpoints else { return Ok(None) };
        let Position { epoch, step } = self.state.next;
        let optimizer = self.learner.adam.state();
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            parameters: self.model.parameters().snapshot().map_err(ModelError::from)?,
            optimizer: optimizer.map_err(|source| TrainingError::Optimizer { epoch, step, source })?,
            best: self.best.clone(),
        };
        checkpoint.write(directory).map(Some)
    }

    pub fn outcome(self, ending: Ending) -> Outcome {
        let best = match ending {
            Ending::Interrupted { .. } => None,
            Ending::Completed | Ending::EarlyStop => self.state.best.zip(self.best),
        };
        Outcome {
            ending,
            best: best.map(|(BestEpoch { epoch, validation }, tensors)| Best { epoch, validation, tensors }),
            epochs: self.state.epochs,
            seconds: self.state.seconds,
        }
    }
}

/// Clicks for the model to fit to.
fn held_out(trainer: &Trainer<'_>, featurizer: &Featurizer) -> Result<Vec<HeldOutClick>, EvaluationError> {
    let targets = trainer.dataset.targets(Split::Validation);
    let every = targets.len().div_ceil(FITTED_CLICKS).max(1);
    let targets: Vec<Target> = targets.into_iter().step_by(every).collect();
    Evaluator::new(trainer.dataset, trainer.negatives, featurizer.clone())?.clicks(&targets, FITTED_NEGATIVES)
}

/// Gives a model those weights of a checkpoint that are `wanted`, by name.
pub(super) fn restore(
    model: &dyn TrainableModel,
    tensors: &HashMap<String, Tensor>,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), TrainingError> {
    for (name, var) in model.parameters().all().filter(|(name, _)| wanted(name)) {
        let weights_error = |message: &str| ModelError::Weights { name: name.to_owned(), message: message.to_owned() };
        let tensor = tensors.get(name).ok_or_else(|| weights_error("is not in the checkpoint"))?;
        if tensor.shape() != var.shape() {
            return Err(weights_error("has another shape in the checkpoint").into());
        }
        let tensor = tensor.to_device(var.device()).map_err(ModelError::from)?;
        var.set(&tensor).map_err(ModelError::from)?;
    }
    Ok(())
}
