//! Flags that all studies share.

use std::path::PathBuf;

use crate::{
    cli::train::{NegativesFlags, RecipeFlags, SizeFlags},
    model::Setting,
    nn::DeviceChoice,
};

/// Data, protocol, sizes and recipe.
#[derive(Debug, Clone, clap::Args)]
pub struct StudyFlags {
    /// Data set directory, as `sesrec import` makes it.
    #[arg(long, value_name = "DATASET")]
    pub data: PathBuf,
    /// Directory for tables and finished runs; made, or gone on with.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seeds; every row is trained with each of them. [default: 1,2,3]
    #[arg(long, value_delimiter = ',', value_name = "SEED,…")]
    pub seeds: Vec<u64>,
    /// Where to compute: auto, cpu or cuda:N.
    #[arg(long, default_value_t)]
    pub device: DeviceChoice,
    /// How long each model's speed is measured, where a study shows it: serving's in all, training's in each of three
    /// turns.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub serving_seconds: f64,
    /// No progress bars, no lines.
    #[arg(long, short)]
    pub quiet: bool,
    #[command(flatten)]
    pub negatives: NegativesFlags,
    #[command(flatten)]
    pub sizes: SizeFlags,
    /// A setting of every model that has it, by its name in the bundle's config.json: --set coattention=aligned. May be
    /// repeated.
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Model")]
    pub set: Vec<Setting>,
    #[command(flatten)]
    pub recipe: RecipeFlags,
}
