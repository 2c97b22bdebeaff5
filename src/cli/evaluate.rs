//! `sesrec evaluate`.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use serde::Serialize;

use super::train::NegativesFlags;
use crate::{
    data::{Dataset, Featurizer, Split},
    eval::{Evaluator, Metrics, MetricsRow, metrics_table, popularity_ranks},
    model::Bundle,
    nn::DeviceChoice,
};

/// Options of `sesrec evaluate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bundle directory.
    #[arg(long, value_name = "BUNDLE")]
    model: PathBuf,
    /// Data set directory. Ids are matched with the bundle's, so any import of the logs will do.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// Which interaction of each user is ranked: the last (test) or the one before (validation).
    #[arg(long, value_enum, default_value_t)]
    split: EvaluationSplit,
    /// Also write the result as JSON: metrics, and every user's rank for comparing two models user by user.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also rank by popularity, which any model has to beat.
    #[arg(long)]
    popularity: bool,
    /// Where to compute: auto, cpu or cuda:N.
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// No progress bar.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    negatives: NegativesFlags,
}

/// Which interaction of each user is ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EvaluationSplit {
    /// The last.
    #[default]
    Test,
    /// The last but one.
    Validation,
}

/// The JSON file.
#[derive(Debug, Serialize)]
struct EvaluationReport {
    program: String,
    model: String,
    model_version: String,
    data_checksum: String,
    split: EvaluationSplit,
    negatives: String,
    metrics: Metrics,
    popularity: Option<Metrics>,
    /// By user id: how many negatives came before the clicked item.
    ranks: std::collections::BTreeMap<String, u32>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || evaluate(&args)).await?
}

fn evaluate(args: &Args) -> anyhow::Result<()> {
    let bundle = Bundle::read(&args.model)?;
    let dataset = Dataset::read(&args.data)?;
    let negatives = args.negatives.open(&dataset)?;
    let model = bundle.ranker(&args.device.open()?)?;
    let targets = dataset.targets(match args.split {
        EvaluationSplit::Test => Split::Test,
        EvaluationSplit::Validation => Split::Validation,
    });
    let featurizer = Featurizer::new(Arc::clone(&bundle.catalogue), model.limits());
    let mut evaluator = Evaluator::new(&dataset, &negatives, featurizer)?;
    if !args.quiet {
        evaluator = evaluator.with_progress("evaluating");
    }
    let ranks = evaluator.ranks(&*model, &targets)?;
    let metrics = Metrics::of(ranks.iter().map(|user| user.rank));
    let mut rows = vec![MetricsRow { name: bundle.name.clone(), metrics }];
    let mut popularity = None;
    if args.popularity {
        let ranks = popularity_ranks(&dataset, &targets, &negatives)?;
        let metrics = *popularity.insert(Metrics::of(ranks.into_iter().map(|user| user.rank)));
        rows.push(MetricsRow { name: "popularity".into(), metrics });
    }
    print!("{}", metrics_table(&rows));
    let Some(path) = &args.json else { return Ok(()) };
    let user_id = |user| dataset.catalogue.users.id(user).unwrap_or_default().to_owned();
    let report = EvaluationReport {
        program: format!("sesrec {}", env!("CARGO_PKG_VERSION")),
        model: bundle.name.clone(),
        model_version: bundle.version.to_string(),
        data_checksum: dataset.checksum.clone(),
        split: args.split,
        negatives: args.negatives.description(),
        metrics,
        popularity,
        ranks: ranks.iter().map(|user| (user_id(user.user), user.rank.0)).collect(),
    };
    let json = serde_json::to_vec_pretty(&report)?;
    std::fs::write(path, json).with_context(|| path.display().to_string())
}
