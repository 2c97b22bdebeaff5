//! `sesrec synth`.

use std::{path::PathBuf, time::Instant};

use indicatif::HumanCount;

use super::shell::quoted;
use crate::data::{
    Existing, Progress,
    synthetic::{self, SyntheticOptions},
};

const ABOUT: &str = "The logs have KuaiSAR's layout; `sesrec import kuaisar` reads them. Users have interests that search \
and recommendation share and interests that show on one side only, and these drift; truth.csv says for every click and \
search which it was. The same options give the same bytes.";

/// Options of `sesrec synth`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct Args {
    /// Users; each makes some 24 clicks and 12 searches on average.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    users: u32,
    /// Items, about 40 to a topic; at least 100.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    items: u32,
    /// Everything follows from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Clicked recommendations per user on average; searches come to half as many.
    #[arg(long, value_name = "N", default_value_t = 24.0)]
    clicks_per_user: f64,
    /// Directory to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace synthetic logs that exist; a directory that holds anything else is never replaced.
    #[arg(long)]
    force: bool,
    /// No progress bar.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || synth(&args)).await?
}

fn synth(args: &Args) -> anyhow::Result<()> {
    let options = SyntheticOptions {
        users: args.users,
        items: args.items,
        seed: args.seed,
        clicks_per_user: args.clicks_per_user,
        existing: if args.force { Existing::Replace } else { Existing::Refuse },
        progress: if args.quiet { Progress::Hidden } else { Progress::Bars },
    };
    let started = Instant::now();
    let summary = synthetic::write(&options, &args.out)?;
    let seconds = started.elapsed().as_secs_f64();
    let rows = summary.clicks + summary.unclicked + summary.results;
    println!("{summary}");
    println!("{} log rows in {seconds:.1} s", HumanCount(rows));
    println!();
    println!("Logs: {}", args.out.display());
    println!("Next: sesrec import kuaisar {} --out DATASET", quoted(&args.out.display().to_string()));
    Ok(())
}
