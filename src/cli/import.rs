//! `sesrec import`.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Subcommand;

use super::shell::quoted;
use crate::data::{
    DatasetError, Existing, Progress,
    kuaisar::{self, ImportOptions, Imported, ItemColumn, UnclickedSearches},
};

/// Options of `sesrec import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The logs' layout.
    #[command(subcommand)]
    layout: Layout,
}

#[derive(Debug, Subcommand)]
enum Layout {
    /// KuaiSAR: rec_inter.csv, src_inter.csv, item_features.csv, user_features.csv, plain or .gz.
    ///
    /// To bring your own logs, write these four files. Columns are found by name,
    /// others are ignored:
    ///
    ///   rec_inter.csv      user_id, item_id, timestamp (ms since 1970),
    ///                      click (0 or 1)
    ///   src_inter.csv      user_id, search_session_id, search_session_timestamp,
    ///                      keyword, search_source, item_id, click_cnt
    ///                      (one row per shown result)
    ///   item_features.csv  item_id, item_type, first_level_category_id,
    ///                      second_level_category_id; caption, if you have any
    ///   user_features.csv  user_id and any further columns, each a user attribute
    ///
    /// Words of keyword and caption are runs of letters and digits. Text of a
    /// language without spaces, such as Chinese, has to be segmented before, its
    /// words separated by spaces: else a whole phrase is one word. The same goes
    /// for the queries that are sent to the server.
    ///
    /// Clicked recommendations are the interactions: a user's last one is for
    /// testing, the one before for validation, the others for training. Empty
    /// attribute values count as unknown.
    #[command(verbatim_doc_comment)]
    Kuaisar(KuaisarArgs),
}

#[derive(Debug, clap::Args)]
struct KuaisarArgs {
    /// Directory with the four files.
    #[arg(value_name = "DIR")]
    logs: PathBuf,
    /// Data set directory to make: Parquet tables that DuckDB and pandas open, and dataset.json.
    #[arg(long, value_name = "DATASET")]
    out: PathBuf,
    /// Leave out up to N rows that can't be used, over all files, and report them; one more is an error.
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_bad_rows: u64,
    /// What a search without a click counts as. The default is that of the published data, for comparable figures; the
    /// service sees such a search without a click: for a model to be served, `keep` trains on what serving will show it.
    #[arg(long, value_enum, default_value_t)]
    unclicked_searches: UnclickedSearches,
    /// Make a further column of item_features.csv an attribute of items, as author=author_id; once per column. A model
    /// reads it where --item-attributes of train names it.
    #[arg(long = "item-attribute", value_name = "NAME=COLUMN")]
    item_columns: Vec<ItemColumn>,
    /// Replace the data set if it exists; a directory that holds anything else is never replaced.
    #[arg(long)]
    force: bool,
    /// No progress bars.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Layout::Kuaisar(args) = args.layout;
    // Reading, sorting and writing block for as long as they take.
    tokio::task::spawn_blocking(move || kuaisar(&args)).await?
}

fn kuaisar(args: &KuaisarArgs) -> anyhow::Result<()> {
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    Imported::check_target(&args.out, existing)?;
    let options = ImportOptions {
        skip_bad_rows: args.skip_bad_rows,
        unclicked_searches: args.unclicked_searches,
        item_columns: args.item_columns.clone(),
        progress: if args.quiet { Progress::Hidden } else { Progress::Bars },
        ..ImportOptions::default()
    };
    let mut imported = kuaisar::read(&args.logs, &options).map_err(|error| match (&error, args.skip_bad_rows) {
        (DatasetError::Row { .. }, 0) => {
            anyhow!("{error}\n  Correct the row, or leave out up to N such rows with --skip-bad-rows N.")
        }
        (DatasetError::Row { .. }, skipped) => {
            anyhow!("{error}\n  It comes after the {skipped} bad rows that --skip-bad-rows allows.")
        }
        _ => error.into(),
    })?;
    imported.write(&args.out, existing)?;
    println!("{}", imported.report);
    imported.report.doubts().iter().for_each(|doubt| eprintln!("warning: {doubt}"));
    println!("Data set: {}", args.out.display());
    println!("Next:     sesrec train --data {} --out BUNDLE", quoted(&args.out.display().to_string()));
    Ok(())
}
