//! The command line: one file per subcommand, each with its `Args` and its `run`.

mod analyze;
mod append;
mod bench;
mod client;
mod command;
mod connect_args;
mod convert;
mod demo;
mod evaluate;
mod experiment;
mod health;
mod history;
mod import;
mod ingest;
mod ndjson;
mod pem;
mod rank;
mod redis_args;
mod score;
mod security_args;
mod serve;
mod serve_args;
mod shell;
mod signals;
mod synth;
mod token;
mod train;

pub use command::{Cli, Command, run};
pub use serve_args::{ServeArgs, ServeOptions};
