//! The command line: one file per subcommand, each with its `Args` and its `run`.

mod append;
mod bench;
mod command;
mod convert;
mod demo;
mod evaluate;
mod history;
mod import;
mod ingest;
mod rank;
mod score;
mod serve;
mod synth;
mod train;

pub use command::{Cli, Command, run};
