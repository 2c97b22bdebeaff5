//! Logs, data set, bundle: made once, reused by later runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Parser;

use super::{interrupt::Interrupt, program};
use crate::cli::{Cli, Command, command, signals::INTERRUPTED};

/// In the demo's directory: the flags that everything there follows from.
const FLAGS_FILE: &str = "flags.txt";

/// What the logs and the model follow from.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) users: usize,
    pub(super) items: usize,
    pub(super) seed: u64,
}

/// Where everything of the demo lies.
pub(super) struct Stages {
    dir: PathBuf,
    scale: Scale,
    interrupt: Interrupt,
}

impl Stages {
    /// Everything will lie in one directory, which need not exist yet.
    pub(super) fn new(dir: PathBuf, scale: Scale, interrupt: Interrupt) -> Self {
        Self { dir, scale, interrupt }
    }

    /// CSV logs in KuaiSAR's layout.
    pub(super) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The imported data set.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The trained model.
    pub(super) fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// Users' histories.
    pub(super) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Makes what is missing. Every stage is written atomically, so that what exists is whole.
    pub(super) async fn prepare(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        self.check_flags()?;
        let (logs, data, bundle) = (text(&self.logs()), text(&self.data()), text(&self.bundle()));
        let Scale { users, items, seed } = self.scale;
        let (users, items, seed) = (users.to_string(), items.to_string(), seed.to_string());
        self.stage(
            "1. Logs with planted interests",
            &self.logs().join("rec_inter.csv"),
            &["synth", "--users", &users, "--items", &items, "--seed", &seed, "--out", &logs],
        )
        .await?;
        self.stage(
            "2. Import: vocabularies, sessions, leave-one-out split",
            &self.data().join("dataset.json"),
            &["import", "kuaisar", &logs, "--out", &data],
        )
        .await?;
        // What Ctrl-C stopped goes on where it was.
        let mut train = vec!["train", "--data", &data, "--out", &bundle, "--seed", &seed, "--resume"];
        train.extend(SMALL_MODEL);
        self.stage("3. Train a small SESRec", &self.bundle().join("manifest.json"), &train).await?;
        section("4. Evaluate: each user's last click among 99 others, beside a ranking by popularity");
        self.command_line(&["evaluate", "--model", &bundle, "--data", &data, "--popularity"]).await
    }

    /// What is reused has to be what these flags would make.
    fn check_flags(&self) -> anyhow::Result<()> {
        let Scale { users, items, seed } = self.scale;
        let (dir, path) = (self.dir.display(), self.dir.join(FLAGS_FILE));
        let flags = format!("--users {users} --items {items} --seed {seed}");
        match std::fs::read_to_string(&path) {
            Ok(before) if before.trim() == flags => Ok(()),
            Ok(before) => {
                bail!("{dir} was made with other flags ({}): delete {dir} or use the same flags", before.trim())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.logs().exists() => {
                std::fs::write(&path, flags + "\n").with_context(|| path.display().to_string())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("{dir} does not say which flags it was made with: delete {dir} or choose another --dir")
            }
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    async fn stage(&self, title: &str, result: &Path, arguments: &[&str]) -> anyhow::Result<()> {
        section(title);
        if result.exists() {
            println!("{} is there already: reusing it", result.parent().unwrap_or(result).display());
            return Ok(());
        }
        self.command_line(arguments).await
    }

    /// Shows a command and runs it, just as a shell would. After Ctrl-C nothing more is run.
    async fn command_line(&self, arguments: &[&str]) -> anyhow::Result<()> {
        println!("$ {}", program::command(arguments));
        let cli = Cli::try_parse_from(std::iter::once("sesrec").chain(arguments.iter().copied()))?;
        // Training ends by itself, with a checkpoint. The other commands' threads know of no interruption.
        let ends_itself = matches!(cli.command, Command::Train(_));
        let done = tokio::select! {
            done = Box::pin(command::run(cli)) => done,
            () = self.interrupt.pressed(), if !ends_itself => {
                eprintln!("stopped; the same command goes on from here");
                std::process::exit(INTERRUPTED);
            }
        };
        if self.interrupt.is_pressed() {
            bail!("stopped; the same command goes on from here");
        }
        done
    }
}

/// A model that learns its synthetic world in about a minute on two cores.
const SMALL_MODEL: [&str; 12] = [
    "--preset",
    "amazon",
    "--item-attributes",
    "id:16,category:8,category2:8",
    "--epochs",
    "8",
    "--max-recommendations",
    "20",
    "--max-searches",
    "10",
    "--l2",
    "1e-6",
];

pub(super) fn section(title: &str) {
    println!("\n── {title} ──");
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_there_is_reused_for_the_same_flags_only() {
        let dir = tempfile::tempdir().unwrap();
        let check = |users, items, seed| {
            let scale = Scale { users, items, seed };
            Stages::new(dir.path().to_owned(), scale, Interrupt::listen()).check_flags()
        };
        check(20, 100, 7).unwrap();
        check(20, 100, 7).unwrap();
        for (users, items, seed) in [(21, 100, 7), (20, 101, 7), (20, 100, 8)] {
            let message = check(users, items, seed).unwrap_err().to_string();
            assert!(message.contains("--users 20 --items 100 --seed 7"), "{message}");
            assert!(message.contains("delete") && message.contains("or use the same flags"), "{message}");
        }
        std::fs::remove_file(dir.path().join(FLAGS_FILE)).unwrap();
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        assert!(check(20, 100, 7).unwrap_err().to_string().contains("delete"), "logs of unknown flags");
    }
}
