//! `sesrec train`.

mod model_flags;
mod recipe_flags;
mod run_dir;
mod size_flags;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, bail};
use tokio::task::JoinHandle;

pub use model_flags::Loss;
use model_flags::ModelFlags;
pub use recipe_flags::{RecipeFlags, RecipeName};
use run_dir::RunDir;
pub use size_flags::{Preset, SizeFlags};

use super::{
    shell::{quoted, resume_command},
    signals::on_stop,
};
use crate::{
    data::{Dataset, EvaluationNegatives, Existing, Featurizer, Split, StagedDirectory, Statistics},
    eval::{Evaluator, Metrics, MetricsRow, metrics_table, popularity_ranks},
    model::{Bundle, Manifest, ModelConfig, RankerOptions},
    nn::{DeviceChoice, device_name},
    train::{Best, Checkpoint, Ending, Outcome, Reporting, Trainer, TrainingFiles, TrainingReport},
};

/// Options of `sesrec train`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Data set directory, as `sesrec import` makes it.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// Bundle directory to make: what `sesrec serve --model` takes.
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
    /// Where to compute: auto, cpu or cuda:N.
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Continue from the last checkpoint, exactly; start from the beginning if there is none. Raise --epochs to train a
    /// finished model longer. Wins over `force` of a configuration file.
    #[arg(long)]
    resume: bool,
    /// Start afresh and replace the bundle, checkpoints and curves that are there.
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Directory for checkpoints and TensorBoard files (`tensorboard --logdir DIR`). [default: the bundle's name +
    /// ".run"]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Also save a checkpoint every N steps, for epochs of hours; 0: only after each epoch.
    #[arg(long, value_name = "N", default_value_t = 0)]
    checkpoint_steps: usize,
    /// Steps between two points of the loss curves.
    #[arg(long, value_name = "N", default_value_t = 20)]
    log_steps: usize,
    /// No progress bars, no lines.
    #[arg(long, short)]
    quiet: bool,
    /// Everything random follows from it: the same seed gives the same weights, bit for bit, on the same machine.
    #[arg(long, default_value_t = 20_210_823)]
    seed: u64,
    #[command(flatten)]
    negatives: NegativesFlags,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    recipe: RecipeFlags,
}

/// What the clicked item is ranked among in validation and test.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Evaluation")]
pub struct NegativesFlags {
    /// Rank among these items: a line per user, user_id and item ids, separated by spaces, plain or .gz. Results on the
    /// same file can be compared. [default: sampled]
    #[arg(long, value_name = "FILE")]
    negatives: Option<PathBuf>,
    /// Without a file: rank among this many items from outside the user's sequence, all equally likely.
    #[arg(long, value_name = "N", default_value = "99", value_parser = crate::units::parse_count)]
    sampled_negatives: usize,
    /// Without a file: the seed that they are sampled by.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    negatives_seed: u64,
}

impl NegativesFlags {
    /// Reads or prepares them.
    pub(super) fn open(&self, dataset: &Dataset) -> anyhow::Result<EvaluationNegatives> {
        Ok(match &self.negatives {
            Some(path) => EvaluationNegatives::read(path, &dataset.catalogue)?,
            None => EvaluationNegatives::sampled(self.sampled_negatives, self.negatives_seed),
        })
    }

    /// As recorded with results.
    pub(super) fn description(&self) -> String {
        match &self.negatives {
            Some(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            None => format!("{} sampled uniformly, seed {}", self.sampled_negatives, self.negatives_seed),
        }
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let listening = stop_on_signal(Arc::clone(&stop));
    let trained = tokio::task::spawn_blocking(move || train(&args, stop)).await;
    // What comes after training in this process (the demo serves) has its own meaning for Ctrl-C.
    listening.abort();
    trained?
}

/// The first signal, from now on, ends the run in order, the second at once.
pub(super) fn stop_on_signal(stop: Arc<AtomicBool>) -> JoinHandle<()> {
    on_stop(move |_| {
        stop.store(true, Ordering::Relaxed);
        eprintln!("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once and lose it");
    })
}

fn train(args: &Args, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let started = Instant::now();
    StagedDirectory::check(&args.out, Manifest::FILE, Existing::Replace)?;
    if args.out.exists() && !args.resume && !args.force {
        bail!(
            "{} exists: replace it with --force, or, by --schedule plateau, train it longer with --resume --epochs N",
            args.out.display()
        );
    }
    let run_dir = args.run_dir()?;
    let dataset = Dataset::read(&args.data)?;
    let negatives = args.negatives.open(&dataset)?;
    let recipe = args.recipe.recipe(args.seed, args.model.sizes.preset, args.model.kind(), args.model.loss());
    let items = dataset.catalogue.items.ids.len();
    recipe.check().and_then(|()| recipe.check_items(items)).map_err(recipe_flags::flag_error)?;
    let config = args.model.config(&dataset.catalogue, args.recipe.recipe, recipe.dropout)?;
    let device = args.device.open()?;
    let model = config.new_trainable(&dataset, recipe.seed, &device)?;
    // What changes something on the disk comes last.
    let run_dir = RunDir::open(run_dir)?;
    let from = args.checkpoint(&run_dir)?;
    if !args.quiet {
        let Statistics { users, items, queries, actions_search, actions_recommendation } = dataset.statistics;
        eprintln!(
            "{users} users, {items} items, {queries} queries, {actions_recommendation} recommendations, {actions_search} \
             searches; {} weights on {}; read in {:.1} s\ncurves: tensorboard --logdir {}",
            model.parameters().count(),
            device_name(&device),
            started.elapsed().as_secs_f64(),
            quoted(&run_dir.path().display().to_string()),
        );
    }
    let trainer = Trainer {
        dataset: &dataset,
        negatives: &negatives,
        recipe,
        model_config: serde_json::to_value(&config)?,
        files: TrainingFiles {
            checkpoints: Some(run_dir.checkpoints()),
            checkpoint_steps: args.checkpoint_steps,
            tensorboard: Some(run_dir.tensorboard()),
            log_steps: args.log_steps,
        },
        reporting: if args.quiet { Reporting::Silent } else { Reporting::Terminal },
        stop,
    };
    let outcome = trainer.fit(&*model, from, |dataset| config.new_trainable(dataset, trainer.recipe.seed, &device))?;
    if let Ending::Interrupted { checkpoint } = &outcome.ending {
        let place = checkpoint.as_deref().unwrap_or(run_dir.path()).display();
        bail!(
            "stopped before the end; a checkpoint is in {place}. Continue exactly there with:\n  {}",
            resume_command()
        );
    }
    finish(args, &trainer, config, outcome)
}

/// Tests the best weights and writes the bundle.
fn finish(args: &Args, trainer: &Trainer<'_>, config: ModelConfig, outcome: Outcome) -> anyhow::Result<()> {
    let Outcome { best, epochs, seconds, ending } = outcome;
    let Some(Best { epoch, validation: Some(validation), tensors }) = best else { bail!("no epoch was finished") };
    let (dataset, device) = (trainer.dataset, args.device.open()?);
    let mut bundle = Bundle::new(config, Arc::clone(&dataset.catalogue), tensors, None)?;
    let model = bundle.ranker(&device, RankerOptions::default())?;
    let featurizer = Featurizer::new(Arc::clone(&dataset.catalogue), model.limits());
    let mut evaluator = Evaluator::new(dataset, trainer.negatives, featurizer)?;
    if !args.quiet {
        evaluator = evaluator.with_progress("test");
    }
    let targets = dataset.targets(Split::Test);
    let test = Metrics::of_users(&evaluator.ranks(&*model, &targets)?);
    // It counts what the model has learned from.
    let learned = dataset.with_validation_learned(trainer.recipe.refit);
    let popularity_test = Metrics::of_users(&popularity_ranks(&learned, &targets, trainer.negatives)?);
    let report = TrainingReport {
        program: format!("sesrec {}", env!("CARGO_PKG_VERSION")),
        data_checksum: &dataset.checksum,
        data_statistics: dataset.statistics,
        device: device_name(&device),
        recipe: &trainer.recipe,
        negatives: args.negatives.description(),
        best_epoch: epoch,
        validation,
        test,
        popularity_test,
        epochs: &epochs,
        seconds,
    };
    bundle.metrics = Some(serde_json::to_value(&report)?);
    bundle.write(&args.out).with_context(|| {
        format!("the model is trained but could not be written; write it again with: {}", resume_command())
    })?;
    let row = |name: &str, metrics| MetricsRow { name: name.into(), metrics };
    print!(
        "{}",
        metrics_table(&[row("validation", validation), row("test", test), row("popularity", popularity_test)])
    );
    if !args.quiet {
        let why = if ending == Ending::EarlyStop { "early stop" } else { "all epochs done" };
        eprintln!(
            "{why}: epoch {epoch} of {} is the best{}; {:.0} s; bundle: {}",
            epochs.len(),
            if trainer.recipe.refit { ", and learned once more with validation's interactions" } else { "" },
            seconds,
            args.out.display()
        );
    }
    Ok(())
}

impl Args {
    fn run_dir(&self) -> anyhow::Result<PathBuf> {
        let Some(run_dir) = &self.run_dir else { return Ok(RunDir::beside(&self.out)) };
        if std::path::absolute(run_dir)?.starts_with(std::path::absolute(&self.out)?) {
            bail!(
                "--run-dir {} lies in --out {}, which holds the bundle and nothing else: choose another --run-dir",
                run_dir.display(),
                self.out.display()
            );
        }
        Ok(run_dir.clone())
    }

    /// Where to begin. A fresh run removes what an earlier one left, and only if told to.
    fn checkpoint(&self, run_dir: &RunDir) -> anyhow::Result<Option<Checkpoint>> {
        if self.force {
            run_dir.clear()?;
            return Ok(None);
        }
        match run_dir.checkpoint()? {
            Some(checkpoint) if !self.resume => bail!(
                "{} has the checkpoint of an earlier run, in epoch {}: continue it with --resume, or start afresh with \
                 --force",
                run_dir.checkpoints().display(),
                checkpoint.position().epoch
            ),
            found => Ok(found),
        }
    }
}
