//! `sesrec evaluate`: a bundle on a data set, or live traffic.

mod live;
mod replay;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use indicatif::ProgressBar;
use serde::Serialize;

use live::LiveFlags;
use replay::Replay;

use super::{
    client::{ServerArgs, client, model_info},
    connect_args::{ConnectArgs, Credentials},
    train::NegativesFlags,
};
use crate::{
    data::{Dataset, EvaluationNegatives, Featurizer, Split, Target},
    eval::{Evaluator, Metrics, MetricsRow, UserRank, metrics_table, popularity_ranks, progress_bar},
    model::{Bundle, RankerOptions},
    nn::DeviceChoice,
    train::LearnedFrom,
    units::parse_duration,
};

/// Options of `sesrec evaluate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bundle directory. With --via-server to make sure that it is the one that is served, and to know what it has
    /// learned from.
    #[arg(long, value_name = "BUNDLE", required_unless_present_any = ["via_server", "rank_log"])]
    model: Option<PathBuf>,
    /// Data set directory. Ids are matched with the bundle's, so any import of the logs will do.
    #[arg(long, value_name = "DATASET", required_unless_present = "rank_log")]
    data: Option<PathBuf>,
    /// Which interaction of each user is ranked: the last (test) or the one before (validation).
    #[arg(long, value_enum, default_value_t)]
    split: EvaluationSplit,
    /// Also write the result as JSON: metrics, and every user's rank (0 is first), for comparing two models user by
    /// user.
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
    /// Ask a running server instead: append each user's history before the interaction, then let it rank. The metrics
    /// are those of the offline evaluation. The server has to begin with an empty store and keep old events: `sesrec
    /// serve --model BUNDLE --store memory --time-to-live 0s`.
    #[arg(long, value_name = "URL", conflicts_with = "device")]
    via_server: Option<String>,
    /// With --via-server: how long an answer may take.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    timeout: Duration,
    #[command(flatten)]
    credentials: Credentials,
    #[command(flatten)]
    negatives: NegativesFlags,
    #[command(flatten, next_help_heading = "Live traffic")]
    live: LiveFlags,
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
    /// The server that ranked; `None`: evaluated offline.
    via_server: Option<String>,
    data_checksum: String,
    split: EvaluationSplit,
    /// Whether the model has learned the interactions that it is evaluated on; `None`: not known.
    learned: Option<bool>,
    negatives: String,
    metrics: Metrics,
    popularity: Option<Metrics>,
    /// By user id: how many negatives came before the clicked item.
    ranks: std::collections::BTreeMap<String, u32>,
}

/// What was evaluated, by name and version.
struct Evaluated {
    model: String,
    version: String,
    learned: Learned,
    ranks: Vec<UserRank>,
}

/// What a model has learned of the data set that it is evaluated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learned {
    /// Its training interactions.
    Training,
    /// Its validation interactions, too (`--refit`).
    Validation,
    /// It comes from another data set, whose training interactions may be this one's test interactions.
    OtherData,
    /// Nobody wrote it down: a converted bundle, or a server's without `--model`.
    Unknown,
}

impl Learned {
    fn of(bundle: &Bundle, dataset: &Dataset) -> Self {
        match bundle.metrics.as_ref().and_then(LearnedFrom::of) {
            None => Self::Unknown,
            Some(learned) if learned.data_checksum != dataset.checksum => Self::OtherData,
            Some(learned) if learned.has_validation() => Self::Validation,
            Some(_) => Self::Training,
        }
    }

    /// Whether the interactions of `split` are among it.
    fn contains(self, split: EvaluationSplit) -> Option<bool> {
        match self {
            Self::Training => Some(false),
            Self::Validation => Some(split == EvaluationSplit::Validation),
            Self::OtherData | Self::Unknown => None,
        }
    }

    fn warn(self, split: EvaluationSplit) {
        if self == Self::OtherData {
            eprintln!(
                "warning: this bundle was trained on another data set than --data (their checksums differ): it may have \
                 learned the very interactions that it is asked for, and these figures may say how well it remembers \
                 them. Evaluate on the data set that it was trained on to be sure"
            );
        } else if self.contains(split) == Some(true) {
            eprintln!(
                "warning: this bundle has learned the validation interactions (--refit): these figures say how well it \
                 remembers them"
            );
        }
    }
}

/// What everything is ranked by.
struct Inputs {
    dataset: Dataset,
    negatives: EvaluationNegatives,
    targets: Vec<Target>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let args = Arc::new(args);
    if args.live.wanted() {
        return tokio::task::spawn_blocking(move || live::evaluate(&args.live, args.json.as_deref())).await?;
    }
    // Reading and computing block for as long as they take.
    let blocking = Arc::clone(&args);
    let inputs = Arc::new(tokio::task::spawn_blocking(move || blocking.inputs()).await??);
    let evaluated = match &args.via_server {
        Some(server) => via_server(&args, server, &inputs).await?,
        None => {
            let blocking = (Arc::clone(&args), Arc::clone(&inputs));
            tokio::task::spawn_blocking(move || offline(&blocking.0, &blocking.1)).await??
        }
    };
    tokio::task::spawn_blocking(move || report(&args, &inputs, evaluated)).await?
}

impl Args {
    fn inputs(&self) -> anyhow::Result<Inputs> {
        let dataset = Dataset::read(self.data.as_deref().context("--data is required")?)?;
        let negatives = self.negatives.open(&dataset)?;
        let targets = dataset.targets(match self.split {
            EvaluationSplit::Test => Split::Test,
            EvaluationSplit::Validation => Split::Validation,
        });
        Ok(Inputs { dataset, negatives, targets })
    }
}

fn offline(args: &Args, inputs: &Inputs) -> anyhow::Result<Evaluated> {
    let bundle = Bundle::read(args.model.as_deref().context("--model is required")?)?;
    let model = bundle.ranker(&args.device.open()?, RankerOptions::default())?;
    let featurizer = Featurizer::new(Arc::clone(&bundle.catalogue), model.limits());
    let mut evaluator = Evaluator::new(&inputs.dataset, &inputs.negatives, featurizer)?;
    if !args.quiet {
        evaluator = evaluator.with_progress("evaluating");
    }
    let ranks = evaluator.ranks(&*model, &inputs.targets)?;
    let learned = Learned::of(&bundle, &inputs.dataset);
    Ok(Evaluated { model: bundle.name.clone(), version: bundle.version.to_string(), learned, ranks })
}

async fn via_server(args: &Args, server: &str, inputs: &Inputs) -> anyhow::Result<Evaluated> {
    let connection = ConnectArgs { server: server.to_owned(), credentials: args.credentials.clone() };
    let server = ServerArgs { connection, timeout: args.timeout };
    let transport = server.connection.connect(args.timeout).await?;
    let model = model_info(&transport, Some(args.timeout)).await?;
    let mut learned = Learned::Unknown;
    if let Some(path) = args.model.clone() {
        let bundle = tokio::task::spawn_blocking(move || Bundle::read(&path)).await??;
        let (served, ours) = (&model.version, bundle.version.to_string());
        ensure!(
            *served == ours,
            "{} serves version {served} of {:?}, --model is {ours}",
            server.connection.server,
            model.name
        );
        learned = Learned::of(&bundle, &inputs.dataset);
    }
    let progress = if args.quiet { ProgressBar::hidden() } else { progress_bar("replaying") };
    let Inputs { dataset, negatives, targets } = inputs;
    let replay = Replay { dataset, negatives, server: &server, model: &model, progress };
    let ranks = replay.ranks(&client(transport), targets).await?;
    Ok(Evaluated { model: model.name.clone(), version: model.version.clone(), learned, ranks })
}

fn report(args: &Args, inputs: &Inputs, evaluated: Evaluated) -> anyhow::Result<()> {
    let Inputs { dataset, negatives, targets } = inputs;
    let Evaluated { model, version, learned, ranks } = evaluated;
    let metrics = Metrics::of_users(&ranks);
    let mut rows = vec![MetricsRow { name: model.clone(), metrics }];
    let mut popularity = None;
    if args.popularity {
        // It counts what the model has learned from.
        let refitted = learned == Learned::Validation;
        let ranks = popularity_ranks(&dataset.with_validation_learned(refitted), targets, negatives)?;
        let metrics = *popularity.insert(Metrics::of_users(&ranks));
        rows.push(MetricsRow { name: "popularity".into(), metrics });
    }
    print!("{}", metrics_table(&rows));
    learned.warn(args.split);
    let Some(path) = &args.json else { return Ok(()) };
    let user_id = |user| dataset.catalogue.users.id(user).unwrap_or_default().to_owned();
    let report = EvaluationReport {
        program: format!("sesrec {}", env!("CARGO_PKG_VERSION")),
        model,
        model_version: version,
        via_server: args.via_server.clone(),
        data_checksum: dataset.checksum.clone(),
        split: args.split,
        learned: learned.contains(args.split),
        negatives: args.negatives.description(),
        metrics,
        popularity,
        ranks: ranks.iter().map(|user| (user_id(user.user), user.rank.0)).collect(),
    };
    let json = serde_json::to_vec_pretty(&report)?;
    std::fs::write(path, json).with_context(|| path.display().to_string())
}
