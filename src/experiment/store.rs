//! Runs on disk: `DIR/runs/KEY.json`, one per finished run, and `DIR/runs/KEY.partial`, the checkpoints of the one that
//! is under way.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{ExperimentError, RunConfig, RunKey, RunRecord, record::hash};
use crate::{
    data::DATASET_MANIFEST,
    eval::Metrics,
    files::{format_of, lock, write_whole},
    model::Manifest,
};

/// Grows when the format changes; runs of another one are made anew.
const FORMAT: u32 = 1;

/// The runs of a directory. Holds its lock: one experiment at a time writes there.
#[derive(Debug)]
pub struct RunStore {
    runs: PathBuf,
    _lock: File,
}

/// A run's file: the record, and a checksum that tells when it is not what was written.
#[derive(Debug, Serialize, Deserialize)]
struct RunFile {
    format: u32,
    checksum: String,
    run: RunRecord,
}

/// What the store has of a run.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// All of it.
    Run(Box<RunRecord>),
    /// A file that can't be used, and why.
    Damaged(String),
}

impl RunStore {
    /// Opens the runs of an experiment's directory, which is made if there is none.
    ///
    /// # Errors
    /// If another process has it open, or it can't be written.
    pub fn open(directory: &Path) -> Result<Self, ExperimentError> {
        let runs = directory.join("runs");
        // What a data set, a bundle, logs are known by.
        if [DATASET_MANIFEST, Manifest::FILE, "rec_inter.csv"].iter().any(|file| directory.join(file).exists()) {
            return Err(ExperimentError::Foreign(directory.to_owned()));
        }
        fs::create_dir_all(&runs).map_err(ExperimentError::io(&runs))?;
        let path = runs.join(".lock");
        match lock(&path).map_err(ExperimentError::io(&path))? {
            Some(lock) => Ok(Self { runs, _lock: lock }),
            None => Err(ExperimentError::Occupied(directory.to_owned())),
        }
    }

    /// A finished run with this configuration.
    pub fn find(&self, config: &RunConfig, key: &RunKey) -> Found {
        let path = self.file(key);
        let json = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(error) => return Found::Damaged(format!("{}: {error}", path.display())),
            Ok(json) => json,
        };
        match check(&json, config) {
            Ok(run) => Found::Run(Box::new(run)),
            Err(message) => Found::Damaged(format!("{}: {message}", path.display())),
        }
    }

    /// Keeps a finished run, and drops the checkpoints that led to it.
    ///
    /// # Errors
    /// If it can't be written; then there is no file of that name.
    pub fn keep(&self, run: RunRecord, key: &RunKey) -> Result<(), ExperimentError> {
        let path = self.file(key);
        let file = RunFile { format: FORMAT, checksum: hash(&run), run };
        let json = serde_json::to_vec_pretty(&file).expect("a record has string keys only");
        write_whole(&path, &json).map_err(ExperimentError::io(&path))?;
        let partial = self.partial(key);
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(ExperimentError::io(&partial))?;
        }
        Ok(())
    }

    /// Where a run that is under way keeps its checkpoints.
    pub fn partial(&self, key: &RunKey) -> PathBuf {
        self.runs.join(format!("{key}.partial"))
    }

    fn file(&self, key: &RunKey) -> PathBuf {
        self.runs.join(format!("{key}.json"))
    }
}

fn check(json: &[u8], config: &RunConfig) -> Result<RunRecord, String> {
    let format = format_of(json).map_err(|error| error.to_string())?;
    if format != FORMAT {
        return Err(format!("has format {format}, this version writes {FORMAT}"));
    }
    let RunFile { checksum: expected, run, .. } = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if run.config != *config {
        return Err("is about another run".into());
    }
    if hash(&run) != expected || Metrics::of(run.ranks.iter().copied()) != run.test {
        return Err("does not match its checksum".into());
    }
    Ok(run)
}
