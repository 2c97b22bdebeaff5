//! Every variant with every seed, one after the other.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::Device;

use super::{ExperimentError, RunConfig, RunRecord, RunStore, Variant, progress::Bars, store::Found};
use crate::{
    data::{Dataset, EvaluationNegatives, Featurizer, Progress, Split},
    eval::{Evaluator, Metrics},
    model::RankerOptions,
    nn::device_name,
    train::{Candidates, Checkpoint, Recipe, Trainer, TrainingFiles},
};

/// Trains what an experiment declares, under one protocol.
#[derive(Debug)]
pub struct Runner<'a> {
    /// What is learned from.
    pub dataset: &'a Dataset,
    /// What clicked items are ranked among.
    pub negatives: &'a EvaluationNegatives,
    /// Where to compute.
    pub device: Device,
    /// Finished runs.
    pub store: RunStore,
    /// Whether to show bars.
    pub progress: Progress,
    /// When this becomes true, the present run stops with a checkpoint and no other begins.
    pub stop: Arc<AtomicBool>,
}

/// What is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Each of these is trained with every seed.
    pub variants: &'a [Variant],
    /// All variants are trained with the first of these before any is with the second.
    pub seeds: &'a [u64],
}

/// What there is after a run of the runner.
#[derive(Debug, Default)]
pub struct Finished {
    /// By variant, then by seed.
    pub runs: Vec<Vec<RunRecord>>,
    /// Runs that were made now.
    pub trained: usize,
    /// Runs that were there already.
    pub kept: usize,
    /// Runs that can't be made, and why.
    pub failures: Vec<String>,
    /// Whether it was told to stop before the end.
    pub interrupted: bool,
}

impl Runner<'_> {
    /// Makes the runs that are missing. Goes through all variants with the first seed, then the second: stopped early,
    /// the table is complete with fewer seeds. A run that fails is noted and the others go on.
    ///
    /// # Errors
    /// If finished runs can't be kept, or there is nothing to evaluate.
    pub fn run(&self, plan: Plan<'_>) -> Result<Finished, ExperimentError> {
        let targets = self.dataset.targets(Split::Test);
        let candidates = Candidates::of(&targets, self.negatives, self.dataset)?;
        let bars = Bars::new(self.progress, plan.variants.len() * plan.seeds.len(), "runs");
        let mut finished = Finished { runs: vec![vec![]; plan.variants.len()], ..Finished::default() };
        for &seed in plan.seeds {
            for (variant, runs) in plan.variants.iter().zip(&mut finished.runs) {
                let config = RunConfig {
                    revision: RunConfig::revision(&variant.model),
                    model: variant.model.clone(),
                    recipe: Recipe { seed, ..variant.recipe.clone() },
                    data_checksum: self.dataset.checksum.clone(),
                    candidates: candidates.clone(),
                };
                let key = config.key();
                let name = format!("{}, seed {seed}", variant.name);
                match self.store.find(&config, &key) {
                    Found::Run(run) => {
                        finished.kept += 1;
                        runs.push(*run);
                        bars.advance();
                        continue;
                    }
                    Found::Damaged(message) => bars.say(&format!("{name}: run again, {message}")),
                    Found::Nothing => {}
                }
                // The loop goes on: what is finished further on belongs in the table, too.
                if self.stop.load(Ordering::Relaxed) {
                    finished.interrupted = true;
                    continue;
                }
                bars.begin(&name);
                match self.make(config, &self.store.partial(&key), &bars) {
                    Ok(Some(run)) => {
                        self.store.keep(run.clone(), &key)?;
                        bars.say(&format!("{name}: {}", summary(&run)));
                        finished.trained += 1;
                        runs.push(run);
                    }
                    Ok(None) => {
                        finished.interrupted = true;
                        continue;
                    }
                    Err(error) => {
                        bars.say(&format!("{name}: failed: {error}"));
                        finished.failures.push(format!("{name}: {error}"));
                    }
                }
                bars.advance();
            }
        }
        bars.finish();
        Ok(finished)
    }

    /// Trains and tests; nothing if it was told to stop.
    fn make(&self, config: RunConfig, checkpoints: &Path, bars: &Bars) -> Result<Option<RunRecord>, ExperimentError> {
        let (dataset, negatives) = (self.dataset, self.negatives);
        let model = config.model.new_trainable(dataset, config.recipe.seed, &self.device)?;
        let parameters = model.parameters().count();
        let trainer = Trainer {
            dataset,
            negatives,
            recipe: config.recipe.clone(),
            model_config: serde_json::to_value(&config.model).expect("a configuration has string keys only"),
            files: TrainingFiles {
                checkpoints: Some(checkpoints.to_owned()),
                log_steps: 20,
                ..TrainingFiles::default()
            },
            reporting: bars.reporting(),
            stop: Arc::clone(&self.stop),
        };
        let rebuild = |dataset: &Dataset| config.model.new_trainable(dataset, config.recipe.seed, &self.device);
        let outcome = trainer.fit(&*model, begun(checkpoints, bars)?, rebuild)?;
        let Some(best) = outcome.best else { return Ok(None) };
        let (catalogue, options) = (dataset.catalogue.clone(), RankerOptions::default());
        let ranker = config.model.ranker(catalogue, &best.tensors, &self.device, options)?;
        let featurizer = Featurizer::new(dataset.catalogue.clone(), ranker.limits());
        let evaluator = Evaluator::new(dataset, negatives, featurizer)?;
        let ranks: Vec<_> =
            evaluator.ranks(&*ranker, &dataset.targets(Split::Test))?.into_iter().map(|user| user.rank).collect();
        Ok(Some(RunRecord {
            config,
            program: format!("sesrec {}", env!("CARGO_PKG_VERSION")),
            device: device_name(&self.device),
            threads: rayon::current_num_threads(),
            finished: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            seconds: outcome.seconds,
            best_epoch: best.epoch,
            epochs: outcome.epochs,
            parameters,
            validation: best.validation.unwrap_or_default(),
            test: Metrics::of(ranks.iter().copied()),
            ranks,
        }))
    }
}

/// The checkpoint of a run that was stopped; a damaged one is dropped.
fn begun(checkpoints: &Path, bars: &Bars) -> Result<Option<Checkpoint>, ExperimentError> {
    match Checkpoint::read_latest(checkpoints) {
        Ok(checkpoint) => Ok(checkpoint),
        Err(error) => {
            bars.say(&format!("starts afresh: {error}"));
            fs::remove_dir_all(checkpoints).map_err(ExperimentError::io(checkpoints))?;
            Ok(None)
        }
    }
}

fn summary(run: &RunRecord) -> String {
    format!(
        "test NDCG@10 {:.4}, MRR {:.4} · validation NDCG@10 {:.4}, MRR {:.4} · best epoch {} of {} · {:.0} s",
        run.test.ndcg_at_10,
        run.test.mrr,
        run.validation.ndcg_at_10,
        run.validation.mrr,
        run.best_epoch,
        run.epochs.len(),
        run.seconds
    )
}
