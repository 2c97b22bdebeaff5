//! `sesrec token`: a new token for a caller; its hash goes to the server's file.

use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
};

use anyhow::{Context, anyhow};

use crate::service::{NewToken, Right};

/// Options of `sesrec token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  sesrec token feed --rights rank --file tokens.toml > feed.token
  sesrec serve --model BUNDLE --tokens tokens.toml   (kill -HUP reads it anew)
  sesrec rank u42 item7 --token @feed.token")]
pub struct Args {
    /// Whose token it is; the server's log calls its caller so.
    #[arg(value_name = "NAME")]
    name: String,
    /// What it allows.
    #[arg(long, value_enum, value_delimiter = ',', required = true, value_name = "RIGHT")]
    rights: Vec<Right>,
    /// The server's file of tokens: the new one's hash is added to it.
    #[arg(long, default_value = "tokens.toml", value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let named = |error: String| anyhow!("{}: {error}", args.file.display());
    let text = match std::fs::read_to_string(&args.file) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        text => text.with_context(|| args.file.display().to_string())?,
    };
    let token = NewToken::generate(&args.name, args.rights.iter().copied()).map_err(named)?;
    let added = token.added_to(&text).map_err(named)?;
    // Before it counts: what is written below can't be read back as the token.
    println!("{}", token.secret());
    // Appended, so that a server which reads it meanwhile finds the old tokens in any case.
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&args.file)
        .and_then(|mut file| file.write_all(&added.as_bytes()[text.len()..]))
        .with_context(|| format!("{}: the token above does not count", args.file.display()))?;
    eprintln!("added to {}; the token itself is stored nowhere else", args.file.display());
    Ok(())
}
