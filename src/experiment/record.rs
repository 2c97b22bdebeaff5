//! One finished run.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    eval::{Metrics, Rank},
    model::ModelConfig,
    train::{Candidates, EpochReport, Recipe},
};

/// Everything that decides what a run finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// The model.
    pub model: ModelConfig,
    /// Of the code that learns it and ranks with it.
    #[serde(default, skip_serializing_if = "is_first")]
    pub revision: u32,
    /// The recipe, seed included.
    pub recipe: Recipe,
    /// Of the data set.
    pub data_checksum: String,
    /// What every user's clicked item is ranked among.
    pub candidates: Candidates,
}

/// Grows when the same model ranks otherwise than before. 1: by logits, which tell apart what probabilities round to
/// one.
const RANKING: u32 = 1;

/// A hash of a [`RunConfig`]: the run's file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunKey(String);

/// Settings that came later than the first finished runs, with the values that those had.
const LATER: [&str; 2] = [r#""item_projection":true,"#, r#""optimizer":"adam","#];

/// The first 20 digits of a hash of something's JSON without [`LATER`], so that a new version finds the runs of an old
/// one.
pub(super) fn hash<T: Serialize>(value: &T) -> String {
    let json = serde_json::to_string(value).expect("configurations and records have string keys only");
    let json = LATER.iter().fold(json, |json, setting| json.replace(setting, ""));
    blake3::hash(json.as_bytes()).to_hex()[..20].to_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_first(revision: &u32) -> bool {
    *revision == 0
}

impl RunConfig {
    /// What the program's code for a model is now.
    pub fn revision(model: &ModelConfig) -> u32 {
        RANKING + model.revision()
    }

    /// Equal for equal configurations.
    pub fn key(&self) -> RunKey {
        RunKey(hash(self))
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a run found, and what it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What was run.
    pub config: RunConfig,
    /// "sesrec 0.1.0".
    pub program: String,
    /// "cpu" or "cuda:N".
    pub device: String,
    /// How many threads computed.
    pub threads: usize,
    /// When it was finished, UTC.
    pub finished: String,
    /// Training and its validation.
    pub seconds: f64,
    /// The epoch whose weights were kept.
    pub best_epoch: usize,
    /// Every epoch.
    pub epochs: Vec<EpochReport>,
    /// Numbers that were learned.
    pub parameters: usize,
    /// The best epoch's.
    pub validation: Metrics,
    /// The kept weights'.
    pub test: Metrics,
    /// Each user's rank in the test, in the data set's order of users.
    #[serde(with = "compact")]
    pub ranks: Vec<Rank>,
}

/// As one line of numbers: a list would be a line each.
mod compact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Rank;

    pub fn serialize<S: Serializer>(ranks: &[Rank], serializer: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<String> = ranks.iter().map(|rank| rank.0.to_string()).collect();
        serializer.serialize_str(&texts.join(" "))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rank>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.split_whitespace().map(|rank| rank.parse().map(Rank).map_err(D::Error::custom)).collect()
    }
}
