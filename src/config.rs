//! Settings: flags over environment over file over defaults.
//!
//! Every flag of every subcommand is also an environment variable (`SESREC_SERVE_LISTEN` for `serve --listen`) and a
//! key of the TOML file given by `--config` (`[serve] listen = "…"`); flags without a value are 1, yes, on or true
//! there, or 0, no, off or false. Flags are declared once, in `cli`; the rest follows from that. Of two flags that exclude
//! each other the one that is set higher counts: `--resume` is stronger than `force = true` in the file.
//!
//! A key of the file that is no flag is an error, a variable that is none only has a warning: the file is this
//! program's own, the environment is not. Kubernetes adds variables for every Service, `SESREC_SERVE_PORT` for one named
//! `sesrec-serve`, and what was set for a new version must not keep the old one from starting after a rollback.

mod above;
mod blame;
mod called;
mod file;
mod variables;

use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, error::ErrorKind};

use above::Above;
use called::Called;
use file::File;

use crate::cli::Cli;

/// A configuration file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Not TOML. The line itself is not repeated: it may hold a token.
    #[error("{0}:{1}: {2}")]
    Parse(PathBuf, usize, String),
    /// A table or key that no flag corresponds to, or a value that no flag takes.
    #[error("{0}: {1}")]
    Key(PathBuf, String),
    /// A value of the file or of a variable that its flag doesn't take.
    #[error("{0}: {1}")]
    Value(String, String),
    /// The command line itself.
    #[error(transparent)]
    Usage(#[from] clap::Error),
}

/// Parses the process's arguments, environment and configuration file.
///
/// # Errors
/// Names the file with its line or key, or the variable that a refused value comes from. [`ConfigError::Usage`] is what
/// clap says of the command line; help that was asked for is one, too.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Cli, ConfigError> {
    let args: Vec<String> = args.into_iter().collect();
    let all = variables::named(Cli::command());
    let called = Called::of(&all, &args);
    let path = file::argument(&args).or_else(|| std::env::var_os("SESREC_CONFIG").map(PathBuf::from));
    let file = path.map(|path| File::read(path, &all)).transpose()?;
    let Some(above) = Above::of(&all, &called, &args) else {
        // Help, which no file is needed for.
        return Ok(Cli::from_arg_matches(&all.clone().try_get_matches_from(&args)?)?);
    };
    let left = file.as_ref().map(|file| file.left_by(&above, &called)).transpose()?.unwrap_or_default();
    let mut command = called.changed(&all, &|called| file::with_defaults(above.without_the_rest(called), &left));
    let mut matches = command.try_get_matches_from_mut(&args);
    if matches.as_ref().is_err_and(|error| error.kind() == ErrorKind::MissingRequiredArgument) {
        // Defaults don't count where one flag stands for another that is required: those of the file are as if typed,
        // then.
        matches = command.try_get_matches_from_mut(file::typed_in(&args, &called, &left));
    }
    // Also where something is missing: it may be what was misspelt, or doesn't count.
    let set = std::env::vars_os().map(|(name, _)| name);
    let mut warnings = variables::flagless(&all, &called, set);
    warnings.extend(above.overruled(&called));
    if let (true, Some(file)) = (matches.is_err(), &file) {
        warnings.extend(file.set_aside(&above, &called));
    }
    // There is no log yet.
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let matches = matches.map_err(|error| blame::with_source(error, &called, &args, &above, file.as_ref()))?;
    Ok(Cli::from_arg_matches(&matches)?)
}
