//! `sesrec analyze searches`.

use std::path::PathBuf;

use anyhow::bail;

use super::{CategoryFlag, Output, Results, unclicked_searches};
use crate::{analysis::SearchShares, data::Dataset};

/// KuaiSAR's name of searches that a shown item set off.
const PASSIVE: &str = "RELATED_SEARCH";

/// Options of `sesrec analyze searches`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Data set directory.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// Sources of searches that something shown set off, as the logs call them. [default: RELATED_SEARCH]
    #[arg(long, value_name = "SOURCE,…", value_delimiter = ',')]
    passive_sources: Vec<String>,
    #[command(flatten)]
    category: CategoryFlag,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let dataset = Dataset::read(&args.data)?;
    let categories = args.category.choose(&dataset)?;
    let mut passive: Vec<String> = args.passive_sources.iter().map(|name| name.trim().to_owned()).collect();
    let is_default = passive.is_empty();
    if is_default {
        passive.push(PASSIVE.to_owned());
    }
    let shares = SearchShares::of(&dataset, categories, &passive);
    // Logs need not have the default one; one that somebody has typed is mistyped.
    let is_there = |name: &str| shares.sources.iter().any(|(source, _)| source == name);
    if let Some(unknown) = passive.iter().find(|name| !is_default && !is_there(name)) {
        let there: Vec<&str> = shares.sources.iter().map(|(source, _)| source.as_str()).collect();
        bail!("--passive-sources: no search has the source {unknown:?}; there are: {}", there.join(", "));
    }
    let note = shares.note(categories, &passive) + &unclicked_searches(&args.data);
    let (table, figure) = (shares.table(), Some(shares.figure()));
    args.output.write(&Results { name: "searches", table, note: &note, bins: None, figure })
}
