//! `sesrec analyze statistics`.

use std::path::PathBuf;

use super::{Output, Results, names};
use crate::{analysis::statistics_table, data::Dataset};

/// Options of `sesrec analyze statistics`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Data set directory; several make a row each.
    #[arg(long, value_name = "DATASET", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let datasets = args.data.iter().map(|path| Dataset::read(path)).collect::<Result<Vec<_>, _>>()?;
    let names = names(&args.data);
    let table = statistics_table(names.iter().map(String::as_str).zip(&datasets));
    let note = "S: searches. R: clicked recommendations. Items are those that can be ranked, acted upon or not.";
    args.output.write(&Results { name: "statistics", table, note, bins: None, figure: None })
}
