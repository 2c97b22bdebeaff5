//! `sesrec experiment table2`.

use std::sync::{Arc, atomic::AtomicBool};

use anyhow::bail;
use clap::ValueEnum;

use super::{ABOUT, session::Session, study_flags::StudyFlags};
use crate::{
    cli::train::Loss,
    data::Split,
    eval::{HandmadeScore, popularity_ranks},
    experiment::{Columns, Report, Row, differences, studies},
    model::{ModelConfig, ModelKind, Setting},
};

/// Options of `sesrec experiment table2`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct Args {
    #[command(flatten)]
    study: StudyFlags,
    /// Which models, comma-separated. [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODELS")]
    models: Vec<ModelKind>,
    /// What is minimised: bce, over the clicked item and the sampled ones, or own, the publication's, by those that
    /// have one. By --recipe best SESRec has a loss, features and parts of its own in either case: the table's protocol
    /// says what differs by row.
    #[arg(long, value_enum, default_value_t, value_name = "bce|own")]
    loss: Loss,
}

pub(super) fn run(args: &Args, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    if let Some(twice) = (1..args.models.len()).find(|&n| args.models[..n].contains(&args.models[n])) {
        let twice = args.models[twice].to_possible_value();
        bail!("--models: {} is there twice", twice.as_ref().map_or("a model", |value| value.get_name()));
    }
    let session = Session::open(&args.study)?;
    let models = if args.models.is_empty() {
        // As in the paper: those that are compared first, SESRec last.
        let mut all = ModelKind::all().to_vec();
        all.rotate_left(1);
        all
    } else {
        args.models.clone()
    };
    let variants = session.variants(Some(args.loss), |base| Ok(studies::table2(base, &models)?))?;
    session.run("table2", &variants, None, stop, |learned, mut protocol| {
        let (dataset, negatives) = (&session.dataset, &session.negatives);
        let test = dataset.targets(Split::Test);
        let selection = variants[0].recipe.selection;
        let validation = dataset.targets(Split::Validation);
        let weights =
            HandmadeScore::new(dataset, negatives).pick_weights(&validation, |metrics| selection.of(metrics))?;
        // What nobody learned counts what the others have learned from.
        let dataset = &dataset.with_validation_learned(variants[0].recipe.refit);
        let score = HandmadeScore::new(dataset, negatives);
        let handmade = Row::of_ranks("hand-made score", &score.ranks(weights, &test)?);
        protocol.push(format!("hand-made score: {weights}; picked on validation, nothing learned"));
        let mut notes = notes(&learned, &handmade);
        let added: Vec<String> =
            models.iter().zip(&variants).filter_map(|(&kind, variant)| added(args, kind, &variant.model)).collect();
        // Where there is one model, there is nothing to compare.
        let title = if added.is_empty() || models.len() == 1 {
            "Table 2: models under one protocol"
        } else {
            notes.push(format!(
                "The recipe gives settings of its own to {}; the other models have none of these. Such a model's lead \
                 is not its architecture's alone: compare architectures by --recipe paper.",
                added.join("; ")
            ));
            "Table 2: models evaluated alike, by recipes that differ"
        };
        protocol.extend(differences(&variants));
        let popularity = Row::of_ranks("popularity", &popularity_ranks(dataset, &test, negatives)?);
        Ok(Report {
            title: title.into(),
            protocol,
            notes,
            rows: [popularity, handmade].into_iter().chain(learned).collect(),
            columns: Columns::Costs,
            steps: false,
            figures: vec![],
        })
    })
}

/// What the recipe builds a model with beside what it is published with, as it is set here: "sesrec (matching=true, …)".
/// Nothing for most.
fn added(args: &Args, kind: ModelKind, config: &ModelConfig) -> Option<String> {
    let named = args.study.sizes.settings(args.study.recipe.recipe, kind).into_iter();
    let settings: Vec<String> = named
        .filter_map(|setting| Some(Setting { value: config.setting(&setting.name)?, ..setting }.to_string()))
        .collect();
    let name = kind.to_possible_value()?;
    (!settings.is_empty()).then(|| format!("{} ({})", name.get_name(), settings.join(", ")))
}

/// Who doesn't beat what nobody learned.
fn notes(learned: &[Row], handmade: &Row) -> Vec<String> {
    let below: Vec<&str> = learned
        .iter()
        .filter(|row| row.metrics.iter().zip(&handmade.metrics).any(|(metric, bar)| metric.mean <= bar.mean))
        .map(|row| row.name.as_str())
        .collect();
    match (learned.len(), below.len()) {
        (0, _) => vec![],
        (_, 0) => vec!["Every model beats the hand-made score in every metric.".into()],
        _ => vec![format!("Not above the hand-made score in every metric: {}.", below.join(", "))],
    }
}
