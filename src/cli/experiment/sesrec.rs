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
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<String>,
}

/// Options of `sesrec experiment weights`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct WeightsArgs {
    #[command(flatten)]
    study: StudyFlags,
    /// Weights α of the query-item alignment, with β at the recipe's value (0.001).
    #[arg(long, value_delimiter = ',', default_value = "0.001,0.01,0.1,0.5,1", value_name = "WEIGHT,…")]
    alphas: Vec<f64>,
    /// Weights β of the contrast of interests, with α at the recipe's value (0.1; best 0.05).
    #[arg(long, value_delimiter = ',', default_value = "0.0001,0.001,0.01,0.1,1", value_name = "WEIGHT,…")]
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
        let mut report = report("Fig. 5: loss weights α and β", rows, protocol);
        // Each in turn: a row of one weight says nothing of the other.
        let varies = |row: &Row, setting: &str| row.settings.iter().any(|(name, _)| name == setting);
        let of_weight = |setting| selection(&report, |row| varies(row, setting));
        let selected: Vec<String> = [studies::ALIGN, studies::CONTRAST].into_iter().filter_map(of_weight).collect();
        report.notes.extend(selects(&selected));
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
    let selected = selection(&report, |_| true);
    report.notes.extend(selects(selected.as_slice()));
    report
}

/// "a by NDCG@10, b by MRR": what validation selects among some rows; nothing if none of them was validated.
fn selection(report: &Report, among: impl Fn(&Row) -> bool) -> Option<String> {
    let by = |name: &str| {
        let metric = Metrics::NAMES.iter().position(|&other| other == name)?;
        Some(report.selected(metric, &among)?.name.as_str())
    };
    let (ndcg, mrr) = (by("NDCG@10")?, by("MRR")?);
    Some(if ndcg == mrr { format!("{ndcg} by NDCG@10 and MRR") } else { format!("{ndcg} by NDCG@10, {mrr} by MRR") })
}

fn selects(selected: &[String]) -> Option<String> {
    (!selected.is_empty()).then(|| format!("Validation selects {}.", selected.join("; ")))
}
