//! `sesrec experiment grid`.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context;

use super::{
    sesrec::{report, selecting},
    session::Session,
    study_flags::StudyFlags,
};
use crate::experiment::Grid;

const ABOUT: &str = "A grid file, as TOML. A setting has a value or a list of values; every combination is a row:

  seeds = [1, 2, 3]                       # --seeds wins

  [model]
  model = \"sesrec\"                        # which model; also a list
  threshold = [\"mean\", \"median\", 0.125]   # any setting of config.json
  loss_weights.align = 0.1
  mlp = [[200, 80, 1], [100, 1]]          # itself a list: a list of lists

  [recipe]
  learning_rate = [1e-3, 3e-4]            # any one of metrics.json's recipe

Sizes, and the recipe where the file says nothing, come from the flags. What the files in OUT are: sesrec experiment --help.";

/// Options of `sesrec experiment grid`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct Args {
    /// The grid.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    study: StudyFlags,
}

pub(super) fn run(args: &Args, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let file = || args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file).with_context(file)?;
    let grid = Grid::parse(&text).with_context(file)?;
    let session = Session::open(&args.study)?;
    let variants = session.variants(None, |base| grid.variants(base).with_context(file))?;
    session.run("grid", &variants, grid.seeds.as_deref(), stop, |rows, protocol| {
        Ok(selecting(report("Grid", rows, protocol)))
    })
}
