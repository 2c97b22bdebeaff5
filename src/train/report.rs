//! `metrics.json` of a bundle: written by a training, read by an evaluation.

use serde::{Deserialize, Deserializer, Serialize};

use super::{EpochReport, Recipe};
use crate::{data::Statistics, eval::Metrics};

/// `metrics.json` of a bundle: how good it is, and how to make it again.
#[derive(Debug, Serialize)]
pub struct TrainingReport<'a> {
    /// "sesrec 0.1.0".
    pub program: String,
    /// Of the data set.
    pub data_checksum: &'a str,
    /// What is in the data set.
    pub data_statistics: Statistics,
    /// "cpu" or "cuda:N".
    pub device: String,
    /// How it was learned, seed included.
    pub recipe: &'a Recipe,
    /// What the clicked items were ranked among.
    pub negatives: String,
    /// The epoch whose weights were kept.
    pub best_epoch: usize,
    /// The best epoch's.
    pub validation: Metrics,
    /// The kept weights'.
    pub test: Metrics,
    /// Popularity's on the same candidates.
    pub popularity_test: Metrics,
    /// Every epoch.
    pub epochs: &'a [EpochReport],
    /// Training and its validation.
    pub seconds: f64,
}

/// What a model has learned from, as its [`TrainingReport`] says. The rest of a report is not looked at: other versions'
/// have other fields, and recipes with other settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LearnedFrom {
    /// Of the data set.
    pub data_checksum: String,
    #[serde(default, deserialize_with = "lenient")]
    recipe: ReportedRecipe,
}

/// What counts of the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
struct ReportedRecipe {
    #[serde(default)]
    refit: bool,
}

impl LearnedFrom {
    /// Of a bundle's `metrics.json`; nothing if that is not a training's report.
    pub fn of(metrics: &serde_json::Value) -> Option<Self> {
        Self::deserialize(metrics).ok()
    }

    /// Whether the validation interactions are among it (`--refit`).
    pub fn has_validation(&self) -> bool {
        self.recipe.refit
    }
}

/// A recipe that says nothing of this kind is one from before there was anything to say.
fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ReportedRecipe, D::Error> {
    let recipe = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(recipe).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(metrics: &Value) -> Option<(String, bool)> {
        LearnedFrom::of(metrics).map(|learned| (learned.data_checksum.clone(), learned.has_validation()))
    }

    #[test]
    fn what_is_written_is_read() {
        for refit in [false, true] {
            let report = TrainingReport {
                program: "sesrec".into(),
                data_checksum: "abc",
                data_statistics: Statistics::default(),
                device: "cpu".into(),
                recipe: &Recipe { refit, ..Recipe::default() },
                negatives: "99 sampled".into(),
                best_epoch: 1,
                validation: Metrics::default(),
                test: Metrics::default(),
                popularity_test: Metrics::default(),
                epochs: &[],
                seconds: 1.0,
            };
            assert_eq!(read(&serde_json::to_value(&report).unwrap()), Some(("abc".to_owned(), refit)));
        }
    }

    #[test]
    fn other_versions_reports_are_read_and_other_files_are_none() {
        for (metrics, refit) in [
            (json!({"data_checksum": "abc"}), false),
            (json!({"data_checksum": "abc", "recipe": {"refit": true, "other": 1}, "best_epoch": "last"}), true),
            (json!({"data_checksum": "abc", "recipe": {"refit": "yes"}}), false),
            (json!({"data_checksum": "abc", "recipe": null}), false),
        ] {
            assert_eq!(read(&metrics), Some(("abc".to_owned(), refit)), "{metrics}");
        }
        for metrics in [json!({}), json!({"data_checksum": 7}), json!("a text"), json!(null)] {
            assert_eq!(read(&metrics), None, "{metrics}");
        }
    }
}
