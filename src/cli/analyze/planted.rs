//! `sesrec analyze planted`.

use std::path::PathBuf;

use super::{CategoryFlag, Output, Results};
use crate::{
    analysis::{PlantedAgreement, WeighedUsers},
    data::{Dataset, synthetic::Truth},
    model::Bundle,
    nn::DeviceChoice,
};

const NOTE: &str = "The area under the ROC curve of co-attention weights (relative to the user's mean weight) against \
the planted labels: the probability that an event of a shared interest weighs more than one of an interest of one side. \
Noise has no label. Category overlap: by how often an event's category occurs on the other side, without a model: what \
can be found. Labels shuffled: a control, one half.";

/// Options of `sesrec analyze planted`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Bundle directory: a SESRec.
    #[arg(long, value_name = "BUNDLE")]
    model: PathBuf,
    /// The data set that it was trained on, imported from synthetic logs.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// The truth.csv of those logs.
    #[arg(long, value_name = "FILE")]
    truth: PathBuf,
    /// What the control's labels follow from.
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
    let truth = Truth::read(&args.truth, &dataset.catalogue)?;
    let users = WeighedUsers::open(&bundle, &dataset, &args.device.open()?)?;
    let categories = args.category.choose(&dataset)?;
    let agreement = PlantedAgreement::of(&users, &dataset, &truth, categories, args.seed)?;
    args.output.write(&Results { name: "planted", table: agreement.table(), note: NOTE, bins: None, figure: None })
}
