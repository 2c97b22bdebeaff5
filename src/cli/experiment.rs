//! `sesrec experiment`: the paper's tables on any data set.

mod grid;
mod sesrec;
mod session;
mod study_flags;
mod table2;

use std::sync::{Arc, atomic::AtomicBool};

use super::train::stop_on_signal;

/// Below the help of every study.
const ABOUT: &str = "Every run (a model, a recipe, a seed) becomes a file OUT/runs/KEY.json, named by a hash of everything \
that decides its result: model and recipe settings, the data set's checksum, the evaluation negatives. Runs that are there \
are not made again, so the same command goes on after Ctrl-C or a crash, more seeds or rows cost only what is new, and \
studies that share a directory share runs. Tables are written to OUT as Markdown and CSV, with mean ± sample standard \
deviation over the seeds and paired tests over the users.";

/// Options of `sesrec experiment`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct Args {
    #[command(subcommand)]
    study: Study,
}

#[derive(Debug, clap::Subcommand)]
enum Study {
    /// All models under one protocol, beside popularity and a score that learns nothing (the paper's Table 2).
    Table2(table2::Args),
    /// SESRec's parts added one after another: Base, + L_align, + L_con, + multi-interest extraction (Table 3).
    Ablation(sesrec::AblationArgs),
    /// SESRec's selection threshold: 1/16, 1/8, median, mean (Table 4).
    Thresholds(sesrec::ThresholdsArgs),
    /// SESRec's loss weights α and β, each in turn (Fig. 5).
    Weights(sesrec::WeightsArgs),
    /// SESRec by the recipe "paper", by "best", and by "best" without each of its parts.
    Recipe(sesrec::RecipeArgs),
    /// A grid of your own: values for settings of the model and the recipe, declared in a file.
    Grid(grid::Args),
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let listening = stop_on_signal(Arc::clone(&stop));
    let done = tokio::task::spawn_blocking(move || match args.study {
        Study::Table2(args) => table2::run(&args, stop),
        Study::Ablation(args) => sesrec::ablation(&args, stop),
        Study::Thresholds(args) => sesrec::thresholds(&args, stop),
        Study::Weights(args) => sesrec::weights(&args, stop),
        Study::Recipe(args) => sesrec::recipe(&args, stop),
        Study::Grid(args) => grid::run(&args, stop),
    })
    .await;
    listening.abort();
    done?
}
