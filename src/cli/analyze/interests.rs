//! `sesrec analyze interests`.

use std::path::PathBuf;

use super::{CategoryFlag, Output, Results, unclicked_searches};
use crate::{
    analysis::{InterestDivergences, WeighedUsers},
    data::Dataset,
    model::Bundle,
    nn::DeviceChoice,
};

/// Options of `sesrec analyze interests`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Bundle directory: a SESRec.
    #[arg(long, value_name = "BUNDLE")]
    model: PathBuf,
    /// The data set that it was trained on.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// What the random division, beside which the model's is shown, follows from.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Where to compute: auto, cpu or cuda:N.
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    #[command(flatten)]
    category: CategoryFlag,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (bundle, dataset) = (Bundle::read(&args.model)?, Dataset::read(&args.data)?);
    let categories = args.category.choose(&dataset)?;
    let users = WeighedUsers::open(&bundle, &dataset, &args.device.open()?)?;
    let divergences = InterestDivergences::of(&users, &dataset, categories, args.seed)?;
    let note = divergences.note(categories) + &unclicked_searches(&args.data);
    args.output.write(&Results {
        name: "interests",
        table: divergences.table(),
        note: &note,
        bins: Some(divergences.bins()),
        figure: Some(divergences.figure()),
    })
}
