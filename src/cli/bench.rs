//! `sesrec bench`: load a server and measure it.
//!
//! Rank load is open-loop: callers send at a constant rate whatever the server does, and latency counts from the time a
//! request was *meant* to leave, so that a stall shows in all the requests that it held up (no coordinated omission).

mod append;
mod events;
mod load;
mod local;
mod rank;
mod replicas;
mod report;
mod workload;

use std::time::Duration;

use super::connect_args::{ConnectArgs, Transport};

/// Options of `sesrec bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, clap::Subcommand)]
enum Mode {
    /// Rank at a constant rate, or at the highest rate that a server sustains.
    Rank(rank::Args),
    /// Append events over streams as fast as they are acknowledged.
    Append(append::Args),
    /// The figures of the README: a random model at Kuaishou's dimensions, a server in this process, both loads.
    Local(local::Args),
    /// What Ranks and events cost several servers on one Redis: each a process, with the model of `local`.
    Replicas(replicas::Args),
    /// Write events, for `sesrec ingest` to be measured with.
    Events(events::Args),
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    match args.mode {
        Mode::Rank(args) => rank::run(args).await,
        Mode::Append(args) => append::run(args).await,
        Mode::Local(args) => local::run(args).await,
        Mode::Replicas(args) => replicas::run(args).await,
        Mode::Events(args) => events::run(args).await,
    }
}

/// Connections to a server.
async fn connect(server: &ConnectArgs, connections: usize) -> anyhow::Result<Vec<Transport>> {
    let mut transports = Vec::with_capacity(connections);
    for _ in 0..connections.max(1) {
        transports.push(server.connect(Duration::from_secs(5)).await?);
    }
    Ok(transports)
}

#[cfg(test)]
mod tests {
    fn command() -> clap::Command {
        <super::Args as clap::Args>::augment_args(clap::Command::new("bench"))
    }

    #[test]
    fn flags_of_each_mode_are_distinct() {
        command().debug_assert();
    }

    #[test]
    fn lists_are_shown_as_they_are_typed() {
        for (mode, flag, default) in [
            ("rank", "candidates", "100,1000"),
            ("rank", "rate", "50"),
            ("local", "candidates", "100,1000"),
            ("replicas", "replicas", "1,2,4"),
        ] {
            let mut command = command();
            let help = command.find_subcommand_mut(mode).expect("a mode").render_help().to_string();
            // Wherever it breaks its lines.
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains(&format!("[default: {default}]")), "{flag}: {help}");
            let needed: &[&str] = if mode == "rank" { &["--items", "FILE"] } else { &[] };
            let matches = command.get_matches_from(["bench", mode].iter().chain(needed));
            let (_, matches) = matches.subcommand().expect("a mode");
            let values = if flag == "rate" {
                matches.get_many::<f64>(flag).expect("a default").map(ToString::to_string).collect::<Vec<_>>()
            } else {
                matches.get_many::<usize>(flag).expect("a default").map(ToString::to_string).collect()
            };
            assert_eq!(values.join(","), default, "{mode} --{flag}");
        }
    }
}
