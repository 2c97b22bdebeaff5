//! `sesrec analyze searches`.

use std::path::PathBuf;

use super::{CategoryFlag, Output, Results};
use crate::{analysis::SearchShares, data::Dataset};

/// Options of `sesrec analyze searches`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Data set directory.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// Sources of searches that something shown set off, as the logs call them.
    #[arg(long, value_name = "SOURCE", value_delimiter = ',', default_value = "RELATED_SEARCH")]
    passive_sources: Vec<String>,
    #[command(flatten)]
    category: CategoryFlag,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let dataset = Dataset::read(&args.data)?;
    let categories = args.category.choose(&dataset)?;
    let shares = SearchShares::of(&dataset, categories, &args.passive_sources);
    let note = shares.note(categories, &args.passive_sources);
    let (table, figure) = (shares.table(), Some(shares.figure()));
    args.output.write(&Results { name: "searches", table, note: &note, bins: None, figure })
}
