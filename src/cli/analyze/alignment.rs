//! `sesrec analyze alignment`.

use std::path::{Path, PathBuf};

use super::Output;
use crate::{
    analysis::{Alignment, AlignmentOptions, Pairs, alignment_figure, alignment_table},
    data::Dataset,
    model::Bundle,
    nn::DeviceChoice,
};

const NOTE: &str = "Cosine similarity of queries and items: as they are embedded (Q, E), and as the alignment loss \
compares them (Q W, E). Clicked: distinct pairs of a query and an item clicked for it. Strangers: the same items among \
other queries. Clicked nearer: the probability that a query lies nearer to an item clicked for it than to a stranger; one \
half knows nothing. The figure shows clicked pairs as they are embedded.";

/// Options of `sesrec analyze alignment`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Bundle directory: a SESRec. Several are shown beside each other.
    #[arg(long, value_name = "BUNDLE", required = true, num_args = 1..)]
    model: Vec<PathBuf>,
    /// The data set that they were trained on.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// Look at this many distinct pairs at most.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    max_pairs: usize,
    /// What the choice of pairs and of strangers follows from.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Where to compute: auto, cpu or cuda:N.
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let dataset = Dataset::read(&args.data)?;
    let pairs = Pairs::of(&dataset, AlignmentOptions { max_pairs: args.max_pairs, seed: args.seed })?;
    let device = args.device.open()?;
    let measure = |path: &Path| -> anyhow::Result<Alignment> {
        let mut alignment = Alignment::of(&Bundle::read(path)?, &dataset, &pairs, &device)?;
        let same = |other: &&PathBuf| other.file_name() == path.file_name();
        if args.model.iter().filter(same).count() > 1 {
            // The bundles' own names would not tell them apart.
            alignment.name = path.display().to_string();
        }
        Ok(alignment)
    };
    let models = args.model.iter().map(|path| measure(path)).collect::<anyhow::Result<Vec<_>>>()?;
    args.output.table("alignment", &alignment_table(&models), NOTE)?;
    args.output.figure("alignment", &alignment_figure(&models))
}
