//! Logs, data set, bundle: made once, reused by later runs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;

use crate::cli::{Cli, command};

/// Where everything of the demo lies.
pub(super) struct Stages {
    dir: PathBuf,
}

impl Stages {
    /// In one directory.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
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
    pub(super) async fn prepare(&self, users: usize, items: usize, seed: u64) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        let (logs, data, bundle) = (text(&self.logs()), text(&self.data()), text(&self.bundle()));
        let (users, items, seed) = (users.to_string(), items.to_string(), seed.to_string());
        stage(
            "1. Logs with planted interests",
            &self.logs().join("rec_inter.csv"),
            &["synth", "--users", &users, "--items", &items, "--seed", &seed, "--out", &logs],
        )
        .await?;
        stage(
            "2. Import: vocabularies, sessions, leave-one-out split",
            &self.data().join("dataset.json"),
            &["import", "kuaisar", &logs, "--out", &data],
        )
        .await?;
        let mut train = vec!["train", "--data", &data, "--out", &bundle, "--seed", &seed];
        train.extend(SMALL_MODEL);
        stage("3. Train a small SESRec", &self.bundle().join("manifest.json"), &train).await?;
        section("4. Evaluate: each user's last click among 99 others, beside a ranking by popularity");
        command_line(&["evaluate", "--model", &bundle, "--data", &data, "--popularity"]).await
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

async fn stage(title: &str, result: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    section(title);
    if result.exists() {
        println!("{} is there already: reusing it", result.parent().unwrap_or(result).display());
        return Ok(());
    }
    command_line(arguments).await
}

/// Shows a command and runs it, just as a shell would.
async fn command_line(arguments: &[&str]) -> anyhow::Result<()> {
    println!("$ sesrec {}", arguments.join(" "));
    let cli = Cli::try_parse_from(std::iter::once("sesrec").chain(arguments.iter().copied()))?;
    Box::pin(command::run(cli)).await
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
