//! A training run on disk: everything that continuing exactly takes.
//!
//! A checkpoint is a directory `epoch-EEEE-step-SSSSSSSS`, named by the step that comes next. It is written under
//! another name, synced and renamed, so that it is either whole or not there; older ones are removed after that.
//! Whether its files are still what was written is told by their checksums.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    EarlyStop, EpochReport, Recipe, ReduceOnPlateau, Schedule, TrainingError,
    outcome::{BestEpoch, EpochSums},
};
use crate::{
    data::{Dataset, EvaluationNegatives, FileChecksum, NegativesError, Target},
    files::{format_of, sync, write_json},
    model::tensor_file,
};

/// Grows when the format changes. 4: with checksums.
const FORMAT: u32 = 4;
const STATE: &str = "state.json";
const CHECKSUMS: &str = "checksums.json";
const PARAMETERS: &str = "parameters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const BEST: &str = "best.safetensors";

/// The step that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// From 1.
    pub epoch: usize,
    /// Of the epoch, from 0.
    pub step: usize,
}

/// What a run is besides tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RunState {
    pub format: u32,
    pub next: Position,
    pub steps: u64,
    pub recipe: Recipe,
    pub model: serde_json::Value,
    pub data_checksum: String,
    /// What validation ranks among.
    pub candidates: Candidates,
    pub learning_rate: f64,
    pub plateau: ReduceOnPlateau,
    pub early_stop: EarlyStop,
    pub epochs: Vec<EpochReport>,
    pub best: Option<BestEpoch>,
    /// Of the epoch that is under way.
    pub sums: EpochSums,
    pub seconds: f64,
}

/// What each epoch's clicked items are ranked among: metrics over others can't be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidates {
    /// Items, over all users.
    pub items: u64,
    /// Users that are evaluated.
    pub users: u64,
    /// Of users and items, wherever they come from.
    pub checksum: String,
}

impl Candidates {
    /// Of the users that are validated.
    ///
    /// # Errors
    /// If one has no negatives.
    pub fn of(targets: &[Target], negatives: &EvaluationNegatives, dataset: &Dataset) -> Result<Self, NegativesError> {
        let (mut items, mut hasher) = (0, blake3::Hasher::new());
        for target in targets {
            let rows = negatives.of(target.user, dataset)?;
            items += rows.len() as u64;
            for number in [target.user, rows.len() as u32].iter().chain(rows.iter()) {
                hasher.update(&number.to_le_bytes());
            }
        }
        let checksum = hasher.finalize().to_hex()[..16].to_owned();
        Ok(Self { items, users: targets.len() as u64, checksum })
    }
}

impl fmt::Display for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items for {} users (checksum {})", self.items, self.users, self.checksum)
    }
}

impl RunState {
    /// A run before its first step.
    pub fn new(recipe: &Recipe, model: serde_json::Value, data_checksum: &str, candidates: Candidates) -> Self {
        let plateau = ReduceOnPlateau::new(
            recipe.plateau_factor,
            recipe.plateau_patience,
            recipe.plateau_threshold,
            recipe.min_learning_rate,
        );
        Self {
            format: FORMAT,
            next: Position { epoch: 1, step: 0 },
            steps: 0,
            recipe: recipe.clone(),
            model,
            data_checksum: data_checksum.to_owned(),
            candidates,
            learning_rate: recipe.learning_rate,
            plateau,
            early_stop: EarlyStop::new(recipe.early_stop_patience),
            epochs: vec![],
            best: None,
            sums: EpochSums::default(),
            seconds: 0.0,
        }
    }
}

/// A run as it stands.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) state: RunState,
    pub(super) parameters: HashMap<String, Tensor>,
    pub(super) optimizer: HashMap<String, Tensor>,
    /// The weights of the best epoch so far.
    pub(super) best: Option<HashMap<String, Tensor>>,
}

impl Checkpoint {
    /// The newest checkpoint of a directory; nothing if there is none. Tensors are on the CPU.
    ///
    /// # Errors
    /// If it can't be read, was written by another version, or is not what was written.
    pub fn read_latest(directory: &Path) -> Result<Option<Self>, TrainingError> {
        match checkpoints(directory).map_err(at(directory))?.pop() {
            Some(path) => Self::read(&path).map(Some),
            None => Ok(None),
        }
    }

    /// The step that comes next.
    pub fn position(&self) -> Position {
        self.state.next
    }

    fn read(path: &Path) -> Result<Self, TrainingError> {
        let broken = |name: &str, message: &str| {
            let message = message.to_owned();
            TrainingError::Checkpoint { path: path.join(name), message }
        };
        let sums = checksums(&path.join(CHECKSUMS))?;
        let file = |name: &str| -> Result<Vec<u8>, TrainingError> {
            let bytes = fs::read(path.join(name)).map_err(at(&path.join(name)))?;
            let mut hasher = blake3::Hasher::new();
            hasher.update(&bytes);
            let sum = FileChecksum::from(hasher);
            match &sums {
                Some(sums) if sums.get(name) != Some(&sum) => {
                    Err(broken(name, "does not match its checksum: the checkpoint is damaged"))
                }
                _ => Ok(bytes),
            }
        };
        let json = file(STATE)?;
        let format = format_of(&json).map_err(|error| broken(STATE, &error.to_string()))?;
        // Those of earlier formats have no checksums. None is taken without: damage in it could be anywhere.
        if format != FORMAT {
            let advice = "only the version of sesrec that wrote it can continue there";
            return Err(broken(STATE, &format!("has format {format}, this version reads {FORMAT}: {advice}")));
        }
        if sums.is_none() {
            return Err(broken(CHECKSUMS, "is not there: the checkpoint is damaged"));
        }
        let state: RunState = serde_json::from_slice(&json).map_err(|error| broken(STATE, &error.to_string()))?;
        let tensors = |name: &str| -> Result<HashMap<String, Tensor>, TrainingError> {
            candle_core::safetensors::load_buffer(&file(name)?, &Device::Cpu)
                .map_err(|error| broken(name, &error.to_string()))
        };
        let best = state.best.as_ref().map(|_| tensors(BEST)).transpose()?;
        Ok(Self { parameters: tensors(PARAMETERS)?, optimizer: tensors(OPTIMIZER)?, best, state })
    }

    /// Writes it into `directory`, and removes older ones.
    ///
    /// # Errors
    /// If that fails; an older checkpoint is still there then.
    pub(super) fn write(&self, directory: &Path) -> Result<PathBuf, TrainingError> {
        let Position { epoch, step } = self.state.next;
        let path = directory.join(format!("epoch-{epoch:04}-step-{step:08}"));
        let partial = directory.join("partial");
        self.write_files(&partial)?;
        let publish = || {
            if path.exists() {
                // The same step again: the same content, unless a disk failed in between.
                fs::remove_dir_all(&path)?;
            }
            fs::rename(&partial, &path)?;
            sync(directory)?;
            let older = checkpoints(directory)?.into_iter().filter(|other| *other != path);
            older.into_iter().try_for_each(fs::remove_dir_all)
        };
        publish().map_err(at(&path))?;
        Ok(path)
    }

    fn write_files(&self, directory: &Path) -> Result<(), TrainingError> {
        if directory.exists() {
            fs::remove_dir_all(directory).map_err(at(directory))?;
        }
        fs::create_dir_all(directory).map_err(at(directory))?;
        let save = |name: &str, tensors: &HashMap<String, Tensor>| {
            let path = directory.join(name);
            tensor_file::write(tensors, &path).and_then(|()| sync(&path)).map_err(at(&path))
        };
        save(PARAMETERS, &self.parameters)?;
        save(OPTIMIZER, &self.optimizer)?;
        let mut names = vec![PARAMETERS, OPTIMIZER, STATE];
        if let Some(best) = &self.best {
            save(BEST, best)?;
            names.push(BEST);
        }
        let path = directory.join(STATE);
        write_json(&path, &self.state).map_err(at(&path))?;
        let mut sums = BTreeMap::new();
        for name in names {
            let path = directory.join(name);
            sums.insert(name, FileChecksum::of(&path).map_err(at(&path))?);
        }
        let path = directory.join(CHECKSUMS);
        write_json(&path, &sums).map_err(at(&path))?;
        sync(directory).map_err(at(directory))
    }

    /// Whether a run with these settings may continue from here.
    ///
    /// # Errors
    /// Names the first setting that differs. Only `epochs` may, where the learning rate doesn't follow from it: the
    /// best epoch is chosen by a comparison with those before, so what they are validated on has to stay, too.
    pub(super) fn check(&self, run: &RunState, directory: &Path) -> Result<(), TrainingError> {
        let differs = |what: &str, was: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
            let message = format!(
                "was trained with {what} {was}, this run has {is}: resume with the same settings, or start afresh with \
                 --force or another output"
            );
            Err(TrainingError::Checkpoint { path: directory.to_owned(), message })
        };
        if self.state.data_checksum != run.data_checksum {
            return differs("data set", &self.state.data_checksum, &run.data_checksum);
        }
        // The kind of model first: much of the recipe follows from it, and would be blamed.
        let kind = |model: &serde_json::Value| model.get("model").cloned().unwrap_or_default();
        let (was, is) = (kind(&self.state.model), kind(&run.model));
        if was != is {
            return differs("model", &was, &is);
        }
        let json = |value: &Recipe| serde_json::to_value(value).unwrap_or_default();
        for (what, was, is) in [
            ("recipe", json(&self.state.recipe), json(&run.recipe)),
            ("model", self.state.model.clone(), run.model.clone()),
        ] {
            let (Some(was), Some(is)) = (was.as_object(), is.as_object()) else {
                if was != is {
                    return differs(what, &was, &is);
                }
                continue;
            };
            for (key, was) in was {
                let is = is.get(key).unwrap_or(&serde_json::Value::Null);
                let may_differ = key == "epochs" && run.recipe.schedule == Schedule::Plateau;
                if was != is && !may_differ {
                    return differs(&format!("{what} {key}"), was, is);
                }
            }
        }
        let (was, is) = (&self.state.candidates, &run.candidates);
        if was != is {
            return differs("evaluation negatives (--negatives, --sampled-negatives, --negatives-seed)", was, is);
        }
        Ok(())
    }
}

/// What a checkpoint's files are by name; nothing if it has no such list.
fn checksums(path: &Path) -> Result<Option<BTreeMap<String, FileChecksum>>, TrainingError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
        Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| {
            let message = format!("{error}: the checkpoint is damaged");
            TrainingError::Checkpoint { path: path.to_owned(), message }
        }),
    }
}

/// Oldest first.
fn checkpoints(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("epoch-")));
    paths.sort();
    Ok(paths)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> TrainingError {
    let path = path.to_owned();
    move |source| TrainingError::Io { path, source }
}
