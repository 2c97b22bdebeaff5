//! A data set, a recipe and a run, as the tests begin with them, and what they compare afterwards.

use std::{path::Path, sync::Arc};

use super::factorisation::Factorisation;
use crate::{
    data::{Dataset, EvaluationNegatives, fixture},
    train::{Checkpoint, EpochReport, Outcome, Recipe, Reporting, Trainer, TrainingFiles},
};

/// Users of two tastes: even ones click even items, odd ones odd items.
pub(super) fn dataset() -> Dataset {
    fixture::dataset(
        60,
        4,
        (0..40u32).map(|user| {
            let items: Vec<u32> = (0..14).map(|n| 1 + (2 * ((user * 11 + n * 5) % 30) + user % 2) % 60).collect();
            let mut logs = fixture::User::clicking(&items);
            logs.searches.push((5, 1 + user % 4, vec![items[0]]));
            logs
        }),
    )
}

pub(super) fn recipe(epochs: usize) -> Recipe {
    Recipe { epochs, batch_size: 32, learning_rate: 0.02, alignment_negatives: 3, ..Recipe::default() }
}

pub(super) fn trainer<'a>(
    dataset: &'a Dataset,
    negatives: &'a EvaluationNegatives,
    recipe: Recipe,
    directory: &Path,
) -> Trainer<'a> {
    Trainer {
        dataset,
        negatives,
        recipe,
        model_config: serde_json::json!({"model": "factorisation"}),
        files: TrainingFiles {
            checkpoints: Some(directory.join("checkpoints")),
            tensorboard: Some(directory.join("tensorboard")),
            log_steps: 5,
            ..TrainingFiles::default()
        },
        reporting: Reporting::Silent,
        stop: Arc::default(),
    }
}

pub(super) fn weights(model: &Factorisation) -> Vec<Vec<u32>> {
    let bits = |(_, var): (&str, &candle_core::Var)| -> Vec<u32> {
        var.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    model.parameters.all().map(bits).collect()
}

/// The epochs without what may differ between two runs that are the same: their speed.
pub(super) fn timeless(outcome: &Outcome) -> Vec<EpochReport> {
    let epochs = outcome.epochs.iter();
    epochs.map(|epoch| EpochReport { seconds: 0.0, samples_per_second: 0.0, ..epoch.clone() }).collect()
}

pub(super) fn checkpoint(directory: &Path) -> Option<Checkpoint> {
    Checkpoint::read_latest(&directory.join("checkpoints")).unwrap()
}
