//! `sesrec experiment ablation`, `thresholds`, `weights`, `recipe`: what SESRec's parts and constants do.

use std::sync::{Arc, atomic::AtomicBool};

use anyhow::bail;

use super::{ABOUT, session::Session, study_flags::StudyFlags};
use crate::{
    cli::train::RecipeName,
    eval::Metrics,
    experiment::{Columns, Report, Row, Variant, line_chart, studies},
    plot::Figure,
};

/// Options of `sesrec experiment ablation`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct AblationArgs {
    #[command(flatten)]
    study: StudyFlags,
}

/// Options of `sesrec experiment thresholds`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct ThresholdsArgs {
    #[command(flatten)]
    study: StudyFlags,
}

/// Options of `sesrec experiment recipe`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct RecipeArgs {
    #[command(flatten)]
    study: StudyFlags,
    /// Train these rows only, by their names in the table: --rows best,"fewer negatives".
    #[arg(long, value_delimiter = ',', value_name = "ROWS")]
    rows: Vec<String>,
}

/// Options of `sesrec experiment weights`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct WeightsArgs {
    #[command(flatten)]
    study: StudyFlags,
    /// Weights α of the query-item alignment, with β at the recipe's value (0.001).
    #[arg(long, value_delimiter = ',', default_values_t = [0.001, 0.01, 0.1, 0.5, 1.0], value_name = "WEIGHTS")]
    alphas: Vec<f64>,
    /// Weights β of the contrast of interests, with α at the recipe's value (0.1; best 0.05).
    #[arg(long, value_delimiter = ',', default_values_t = [0.0001, 0.001, 0.01, 0.1, 1.0], value_name = "WEIGHTS")]
    betas: Vec<f64>,
}

pub(super) fn ablation(args: &AblationArgs, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let session = Session::open(&args.study)?;
    let variants = session.variants(None, |base| Ok(studies::ablation(base)?))?;
    session.run("ablation", &variants, None, stop, |rows, mut protocol| {
        protocol.push(
            "Base pools all events of a side in one and has neither auxiliary loss; each row adds one part to the row above"
                .into(),
        );
        Ok(Report { steps: true, ..report("Table 3: SESRec's parts", rows, protocol) })
    })
}

pub(super) fn thresholds(args: &ThresholdsArgs, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let session = Session::open(&args.study)?;
    let variants = session.variants(None, |base| Ok(studies::thresholds(base)?))?;
    session.run("thresholds", &variants, None, stop, |rows, protocol| {
        Ok(selecting(report("Table 4: selection thresholds γ", rows, protocol)))
    })
}

pub(super) fn recipe(args: &RecipeArgs, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let session = Session::open(&args.study)?;
    let paper = session.variants_of(RecipeName::Paper, None, |base| Ok(studies::paper(base)?))?;
    let best = session.variants_of(RecipeName::Best, None, |base| Ok(studies::recipe(base, &paper)?))?;
    let variants = named(std::iter::once(paper).chain(best).collect(), &args.rows)?;
    session.run("recipe", &variants, None, stop, |rows, mut protocol| {
        protocol.push("each row but \"paper\" and \"best\" is the best recipe with one part as in the paper's".into());
        let seconds = |name: &str| Some(rows.iter().find(|row| row.name == name)?.costs?.seconds.mean);
        let times = seconds("paper").zip(seconds("best"));
        let mut report = report("What each part of the recipe \"best\" brings", rows, protocol);
        if let Some((paper, best)) = times {
            report.notes.push(format!(
                "Training takes {paper:.0} s by the paper's recipe and {best:.0} s by the better one, {:.1} times as long: as \
                 long as it took when each was run, validation and second round included.",
                best / paper
            ));
        }
        Ok(report)
    })
}

/// The variants that are asked for; all if none are.
fn named(variants: Vec<Variant>, names: &[String]) -> anyhow::Result<Vec<Variant>> {
    if let Some(unknown) = names.iter().find(|name| !variants.iter().any(|variant| variant.name == **name)) {
        let there: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
        bail!("--rows: there is no row {unknown:?}; there are: {}", there.join(", "));
    }
    let wanted = |variant: &Variant| names.is_empty() || names.contains(&variant.name);
    Ok(variants.into_iter().filter(wanted).collect())
}

pub(super) fn weights(args: &WeightsArgs, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let session = Session::open(&args.study)?;
    let variants = session.variants(None, |base| Ok(studies::weights(base, &args.alphas, &args.betas)?))?;
    session.run("weights", &variants, None, stop, |rows, protocol| {
        let mut report = selecting(report("Fig. 5: loss weights α and β", rows, protocol));
        let figures = [
            ("weights_alpha", studies::ALIGN, "weight α of the query-item alignment"),
            ("weights_beta", studies::CONTRAST, "weight β of the contrast of interests"),
        ];
        for (name, setting, label) in figures {
            if let Some(chart) = line_chart(&report.rows, setting, label) {
                Figure::Lines(chart).write(&args.study.out, name)?;
                report.figures.push((label.to_owned(), name.to_owned()));
            }
        }
        Ok(report)
    })
}

/// A report on validated rows.
pub(super) fn report(title: &str, rows: Vec<Row>, protocol: Vec<String>) -> Report {
    let columns = Columns::Validation;
    Report { title: title.into(), protocol, notes: vec![], rows, columns, steps: false, figures: vec![] }
}

/// Says which row validation selects.
pub(super) fn selecting(mut report: Report) -> Report {
    let selected = Metrics::NAMES.iter().enumerate().filter(|(_, name)| matches!(**name, "NDCG@10" | "MRR"));
    let selected: Vec<String> =
        selected.filter_map(|(metric, name)| Some(format!("{} (by {name})", report.selected(metric)?.name))).collect();
    if !selected.is_empty() {
        report.notes.push(format!("Validation selects {}.", selected.join(", ")));
    }
    report
}
