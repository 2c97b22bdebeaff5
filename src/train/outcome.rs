//! What a run made: its epochs, its best weights, why it ended.

use std::{collections::HashMap, path::PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::eval::Metrics;

/// One epoch of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// From 1.
    pub epoch: usize,
    /// Adam's step size during it.
    pub learning_rate: f64,
    /// Means over its examples, by name.
    pub losses: Vec<(String, f64)>,
    /// After it; nothing in a refit, which has learned from all that there was to validate on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Metrics>,
    /// Of its training, validation not included.
    pub seconds: f64,
    /// Training examples per second.
    pub samples_per_second: f64,
}

/// The epoch whose weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct BestEpoch {
    pub epoch: usize,
    pub validation: Option<Metrics>,
}

/// The best weights of a run.
#[derive(Debug, Clone)]
pub struct Best {
    /// After which epoch.
    pub epoch: usize,
    /// Its metrics; nothing in a refit.
    pub validation: Option<Metrics>,
    /// The weights.
    pub tensors: HashMap<String, Tensor>,
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All epochs are done.
    Completed,
    /// Validation has stopped getting better.
    EarlyStop,
    /// It was told to stop; it can be resumed where a checkpoint was written.
    Interrupted {
        /// The checkpoint.
        checkpoint: Option<PathBuf>,
    },
}

/// What a run made.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Why it ended.
    pub ending: Ending,
    /// The best weights; nothing if the run was interrupted: those so far are in the checkpoint, where there is one.
    pub best: Option<Best>,
    /// Every finished epoch.
    pub epochs: Vec<EpochReport>,
    /// Time spent, over all parts of a resumed run.
    pub seconds: f64,
}

/// Sums over an epoch's examples, of which some part may lie before a resume.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct EpochSums {
    losses: Vec<(String, f64)>,
    pub samples: u64,
    pub seconds: f64,
}

impl EpochSums {
    pub fn add(&mut self, values: &[(String, f64)], samples: usize) {
        if self.losses.is_empty() {
            self.losses = values.iter().map(|(name, _)| (name.clone(), 0.0)).collect();
        }
        self.losses.iter_mut().zip(values).for_each(|((_, sum), (_, value))| *sum += value * samples as f64);
        self.samples += samples as u64;
    }

    pub fn means(&self) -> impl Iterator<Item = (&str, f64)> {
        self.losses.iter().map(|(name, sum)| (name.as_str(), sum / self.samples.max(1) as f64))
    }
}
