//! `sesrec analyze alignment`.

use std::path::PathBuf;

use super::{Output, Results, names, unclicked_searches};
use crate::{
    analysis::{Alignment, AlignmentOptions, Pairs, alignment_figure, alignment_table},
    data::Dataset,
    model::Bundle,
    nn::DeviceChoice,
    units::parse_count,
};

const NOTE: &str = "Cosine similarity of queries and items: as they are embedded (Q, E), and as the alignment loss \
compares them (Q W, E). Clicked: distinct pairs of a query and an item clicked for it. Strangers: the same items among \
other queries. Clicked nearer: how many queries lie nearer to the item clicked for them than to their stranger; one half \
knows nothing. The figure shows clicked pairs as the loss compares them: quartiles, and whiskers to the last values \
within 1.5 times the distance of the quartiles.";

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
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = parse_count)]
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
    let mut models = vec![];
    for (path, name) in args.model.iter().zip(names(&args.model)) {
        models.push(Alignment { name, ..Alignment::of(&Bundle::read(path)?, &dataset, &pairs, &device)? });
    }
    let (table, figure) = (alignment_table(&models), Some(alignment_figure(&models)));
    let note = NOTE.to_owned() + &unclicked_searches(&args.data);
    args.output.write(&Results { name: "alignment", table, note: &note, bins: None, figure })
}
