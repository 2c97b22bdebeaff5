//! `sesrec convert`.

use std::path::PathBuf;

use anyhow::Context;

use crate::model::convert::{Sources, convert};

/// Options of `sesrec convert`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The weights: a .safetensors file or a PyTorch state dict (.pth), with the names of this program's or of the model's
    /// released code: S³-Rec's SASRec and FMLP-Rec, whose items are a table alone, get a projection that changes nothing.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// The model's configuration. (The settings file that other subcommands take as --config goes before `convert`.)
    #[arg(long, id = "config", env = "SESREC_CONVERT_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Directory with items.csv, users.csv, queries.csv and sources.csv (and words.csv, for query text).
    #[arg(long, value_name = "DIR")]
    catalog: PathBuf,
    /// Where to write the bundle; a bundle that is there is replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        let bundle = convert(&Sources { weights: args.weights, config: args.config, catalogue: args.catalog })?;
        let version = bundle.write(&args.out).context("writing the bundle")?;
        let catalogue = &bundle.catalogue;
        eprintln!(
            "{}: {} with {} items, {} users, {} queries; version {version}",
            args.out.display(),
            bundle.config.kind(),
            catalogue.items.ids.len(),
            catalogue.users.ids.len(),
            catalogue.queries.ids.len(),
        );
        Ok(())
    })
    .await?
}
