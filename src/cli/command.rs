//! The list of subcommands.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::*;

/// Ranks for products that have both search and recommendation.
#[derive(Debug, Parser)]
#[command(name = "sesrec", version, max_term_width = 110)]
pub struct Cli {
    /// Settings as TOML: one table per subcommand, keys named like its flags. Flags and environment variables win.
    #[arg(long, global = true, env = "SESREC_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `sesrec` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole story on one machine: make logs, train, serve, rank, append, rank again.
    Demo(demo::Args),
    /// Serve a bundle over gRPC.
    Serve(serve::Args),
    /// Rank candidates for a user on a running server.
    Rank(rank::Args),
    /// Append one event on a running server.
    Append(append::Args),
    /// Show or erase a user’s history on a running server.
    History(history::Args),
    /// Ask a running server whether it is ready: the probe of containers.
    Health(health::Args),
    /// Stream events from NDJSON into a running server.
    Ingest(ingest::Args),
    /// Import logs into a data set directory.
    Import(import::Args),
    /// Write synthetic logs with planted interests.
    Synth(synth::Args),
    /// Train a model on a data set and write a bundle.
    Train(train::Args),
    /// Evaluate a bundle on a data set, or live traffic by its rank log: the six ranking metrics.
    Evaluate(evaluate::Args),
    /// Run the paper’s tables, or a grid of your own, over seeds: means, deviations, significance.
    Experiment(experiment::Args),
    /// Show what is in a data set and in a model: the paper’s statistics and figures.
    Analyze(analyze::Args),
    /// Make a bundle from the PyTorch release’s weights.
    Convert(convert::Args),
    /// Score requests offline: NDJSON in, NDJSON out, no server.
    Score(score::Args),
    /// Make a token for a caller of a server with --tokens.
    Token(token::Args),
    /// Load a server at a constant rate and measure latency.
    Bench(bench::Args),
}

/// Runs a subcommand to its end.
///
/// # Errors
/// The subcommand's own, worded for whoever called it.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Demo(args) => demo::run(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Rank(args) => rank::run(args).await,
        Command::Append(args) => append::run(args).await,
        Command::History(args) => history::run(args).await,
        Command::Health(args) => health::run(args).await,
        Command::Ingest(args) => ingest::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Synth(args) => synth::run(args).await,
        Command::Train(args) => train::run(args).await,
        Command::Evaluate(args) => evaluate::run(args).await,
        Command::Experiment(args) => experiment::run(args).await,
        Command::Analyze(args) => analyze::run(args).await,
        Command::Convert(args) => convert::run(args).await,
        Command::Score(args) => score::run(args).await,
        Command::Token(args) => token::run(args).await,
        Command::Bench(args) => bench::run(args).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// What the terminal breaks can't be copied.
    #[test]
    fn examples_fit_a_narrow_terminal() {
        let all = Cli::command();
        for name in ["ingest", "score", "rank", "token", "health", "convert"] {
            let help = all.find_subcommand(name).and_then(|command| command.get_after_help()).expect("examples");
            let help = help.to_string();
            let wide = help.lines().find(|line| line.starts_with(' ') && line.chars().count() > 78);
            assert_eq!(wide, None, "{name}");
        }
    }
}
