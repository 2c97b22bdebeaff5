//! What every study does: open, run, write, tell.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::bail;

use super::study_flags::StudyFlags;
use crate::{
    cli::train::{Loss, RecipeName},
    data::{Dataset, EvaluationNegatives, Progress},
    experiment::{Base, Columns, ExperimentError, Finished, Plan, Report, Row, RunStore, Runner, Variant, protocol},
    model::{ModelConfig, ModelKind, Setting},
};

/// Seeds where neither flag nor file has any.
const SEEDS: [u64; 3] = [1, 2, 3];

/// How the speed of training is measured.
const TRAINING_SPEED: &str = "training samples/s: by each row's own recipe, on one thread, from new weights, all rows in \
turn when this table was made; the median of steps (losses, gradients, optimizer) on full batches whose histories are about \
as long as the mean. A sample is a target with its negatives, of models that learn from sequences (sasrec, query-seqrec with \
the loss \"own\") a whole history. Not in it: assembling batches, what is built once, validation. How long runs took when they \
were made is in the CSV file (seconds)";

/// How serving's speed is.
const SERVING_COST: &str = "serving cost: on one thread, in calls of 16 requests with 100 candidates each, all rows in turn \
when this table was made";

/// Measurements, or why there are none.
fn measured<T>(result: Result<Option<T>, ExperimentError>) -> Result<T, String> {
    match result {
        Ok(Some(measured)) => Ok(measured),
        Ok(None) => Err("not measured, since the command was told to stop".into()),
        Err(error) => Err(format!("not measured: {error}")),
    }
}

/// A study with its data.
pub(super) struct Session<'a> {
    flags: &'a StudyFlags,
    pub dataset: Dataset,
    pub negatives: EvaluationNegatives,
}

impl<'a> Session<'a> {
    pub fn open(flags: &'a StudyFlags) -> anyhow::Result<Self> {
        let dataset = Dataset::read(&flags.data)?;
        Ok(Self { negatives: flags.negatives.open(&dataset)?, flags, dataset })
    }

    /// Variants from the flags' sizes and recipe; `loss` for the models that have the choice.
    pub fn variants<R>(
        &self,
        loss: Option<Loss>,
        declare: impl FnOnce(&Base<'_>) -> anyhow::Result<R>,
    ) -> anyhow::Result<R> {
        self.variants_of(self.flags.recipe.recipe, loss, declare)
    }

    /// The same from a recipe's defaults, whatever `--recipe` says.
    pub fn variants_of<R>(
        &self,
        name: RecipeName,
        loss: Option<Loss>,
        declare: impl FnOnce(&Base<'_>) -> anyhow::Result<R>,
    ) -> anyhow::Result<R> {
        let sizes = &self.flags.sizes;
        let recipe = self.flags.recipe.with_defaults_of(name);
        let (inputs, heads) = sizes.inputs(&self.dataset.catalogue, recipe.recipe)?;
        let loss = loss.map(|loss| anyhow::Ok(Setting::new("loss", serde_json::to_value(loss)?))).transpose()?;
        let set = &self.flags.set;
        let has = |kind: &ModelKind, name: &str| kind.config(inputs.clone(), heads).setting(name).is_some();
        if let Some(Setting { name, .. }) =
            set.iter().find(|set| !ModelKind::all().iter().any(|kind| has(kind, &set.name)))
        {
            bail!(
                "--set {name}: no model has a setting of that name; a bundle's config.json shows those that there are"
            );
        }
        let settings = |kind: ModelKind| {
            let named = sizes.settings(recipe.recipe, kind).into_iter();
            named.chain(loss.iter().chain(set).cloned()).collect::<Vec<_>>()
        };
        let recipe = |kind: ModelKind, config: &ModelConfig| {
            let own = config.setting("loss").is_some_and(|loss| loss == "own");
            // Each run has a seed of its own.
            recipe.recipe(0, sizes.preset, kind, if own { Loss::Own } else { Loss::Bce })
        };
        declare(&Base { inputs, heads, settings: &settings, recipe: &recipe })
    }

    /// Makes the runs that are missing; then `report` gets the rows of those that there are, and the protocol.
    pub fn run(
        &self,
        name: &str,
        variants: &[Variant],
        seeds: Option<&[u64]>,
        stop: Arc<AtomicBool>,
        report: impl FnOnce(Vec<Row>, Vec<String>) -> anyhow::Result<Report>,
    ) -> anyhow::Result<()> {
        let StudyFlags { out, quiet, .. } = self.flags;
        let seeds = if self.flags.seeds.is_empty() { seeds.unwrap_or(&SEEDS) } else { &self.flags.seeds };
        if seeds.is_empty() {
            bail!("seeds: the list has no value");
        }
        if (1..seeds.len()).any(|n| seeds[..n].contains(&seeds[n])) {
            bail!("--seeds: a seed stands twice: the deviation would be too small");
        }
        let serving = self.flags.serving_seconds;
        if !(serving.is_finite() && (0.0..=3600.0).contains(&serving)) {
            bail!("--serving-seconds {serving}: must be between 0 and 3600");
        }
        let runner = Runner {
            dataset: &self.dataset,
            negatives: &self.negatives,
            device: self.flags.device.open()?,
            store: RunStore::open(out)?,
            progress: if *quiet { Progress::Hidden } else { Progress::Bars },
            stop,
        };
        let plan = Plan { variants, seeds };
        let finished = runner.run(plan)?;
        // A table of nothing would take the place of one that an earlier study has finished.
        if finished.runs.iter().all(Vec::is_empty) {
            return self.tell(plan, &finished);
        }
        let pairs = variants.iter().zip(&finished.runs);
        let rows: Vec<Row> = pairs.filter_map(|(variant, runs)| Row::of_runs(variant, runs)).collect();
        let negatives = self.flags.negatives.description();
        let mut lines = protocol(&self.dataset, (&self.negatives, &negatives), plan, &finished);
        if !self.flags.set.is_empty() {
            let set: Vec<String> = self.flags.set.iter().map(|set| format!("{} = {}", set.name, set.value)).collect();
            lines.push(format!("set, for models that have it: {}", set.join(", ")));
        }
        let mut report = report(rows, lines)?;
        if report.columns == Columns::Costs {
            let trained = variants.iter().zip(&finished.runs).filter(|(_, runs)| !runs.is_empty());
            let trained: Vec<Variant> = trained.map(|(variant, _)| variant.clone()).collect();
            let budget = Duration::from_secs_f64(serving);
            // What was trained for hours is written, whatever becomes of these.
            let training = measured(runner.training_speeds(&trained, budget));
            let serving = measured(runner.serving_costs(&trained, budget));
            let how =
                |name: &str, how: &str, why: Option<&String>| why.map_or(how.into(), |why| format!("{name}: {why}"));
            report.protocol.push(how("training samples/s", TRAINING_SPEED, training.as_ref().err()));
            report.protocol.push(how("serving cost", SERVING_COST, serving.as_ref().err()));
            for (n, row) in report.rows.iter_mut().filter_map(|row| row.costs.as_mut()).enumerate() {
                row.samples_per_second = training.as_ref().ok().map(|speeds| speeds[n]);
                row.serving = serving.as_ref().ok().map(|costs| costs[n]);
            }
        }
        report.write(out, name)?;
        println!("{}", report.table().markdown());
        for note in &report.notes {
            println!("{note}\n");
        }
        let figures: String = report.figures.iter().map(|(_, name)| format!(", {name}.svg, {name}.png")).collect();
        println!("{}: {name}.md, {name}.csv, {name}.significance.csv{figures}", out.display());
        self.tell(plan, &finished)
    }

    fn tell(&self, plan: Plan<'_>, finished: &Finished) -> anyhow::Result<()> {
        let Finished { trained, kept, failures, interrupted, .. } = finished;
        let all = plan.variants.len() * plan.seeds.len();
        println!("{all} runs: {trained} trained, {kept} were there");
        if *interrupted {
            let left = all - trained - kept - failures.len();
            let tables = match trained + kept {
                0 => "no run is finished and no table written",
                _ => "the tables have what is finished",
            };
            bail!("stopped with {left} runs to go; {tables}, the same command goes on");
        }
        if !failures.is_empty() {
            bail!("{} of {all} runs failed:\n  {}", failures.len(), failures.join("\n  "));
        }
        Ok(())
    }
}
