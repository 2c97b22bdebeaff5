//! What is learned, for how long, and what validation says of it.

use super::{
    factorisation::Factorisation,
    runs::{dataset, recipe, trainer, weights},
};
use crate::{
    data::EvaluationNegatives,
    train::{Ending, Recipe},
};

#[test]
fn learns_the_planted_tastes() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let model = Factorisation::new(&dataset);
    let outcome = trainer(&dataset, &negatives, recipe(12), directory.path()).run(&model, None).unwrap();
    assert_eq!(outcome.ending, Ending::Completed);
    assert_eq!(outcome.epochs.len(), 12);
    let (first, last) = (&outcome.epochs[0], &outcome.epochs[11]);
    assert!(last.losses[1].1 < 0.8 * first.losses[1].1, "{:?} → {:?}", first.losses, last.losses);
    let best = outcome.best.unwrap();
    let highest = outcome.epochs.iter().map(|epoch| epoch.validation.unwrap().mrr).fold(0.0, f64::max);
    assert_eq!(best.validation.unwrap().mrr, highest);
    assert_eq!(best.validation, outcome.epochs[best.epoch - 1].validation);
    // Of 20 negatives about 10 are of the other taste; without knowing it the expected MRR is 0.17.
    assert!(highest > 0.25, "{highest}");
    let events = std::fs::read_dir(directory.path().join("tensorboard")).unwrap().next().unwrap().unwrap();
    assert!(events.metadata().unwrap().len() > 12 * 100, "losses and metrics were recorded");
}

#[test]
fn the_same_seed_gives_the_same_weights() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let run = |seed: u64, name: &str| {
        let model = Factorisation::new(&dataset);
        let recipe = Recipe { seed, ..recipe(2) };
        trainer(&dataset, &negatives, recipe, &directory.path().join(name)).run(&model, None).unwrap();
        weights(&model)
    };
    let first = run(7, "a");
    assert!(first == run(7, "b"), "equal seeds, equal bits");
    assert!(first != run(8, "c"), "the seed matters");
}

#[test]
fn stops_early_once_the_rate_is_at_its_floor() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    // Nothing is learned at such a rate, so no epoch after the first is better.
    let recipe = Recipe {
        learning_rate: 1e-7,
        min_learning_rate: 1e-8,
        plateau_patience: 1,
        early_stop_patience: 2,
        ..recipe(30)
    };
    let model = Factorisation::new(&dataset);
    let outcome = trainer(&dataset, &negatives, recipe, directory.path()).run(&model, None).unwrap();
    assert_eq!(outcome.ending, Ending::EarlyStop);
    // Epochs 2 and 3 are bad: the rate falls to the floor. 4 and 5 are bad at the floor.
    assert_eq!(outcome.epochs.len(), 5, "{:?}", outcome.epochs);
    assert_eq!(outcome.best.unwrap().epoch, 1);
}

#[test]
fn validation_can_be_limited_to_some_users() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let recipe = Recipe { validation_users: 9, ..recipe(1) };
    let model = Factorisation::new(&dataset);
    let outcome = trainer(&dataset, &negatives, recipe, directory.path()).run(&model, None).unwrap();
    assert_eq!(outcome.epochs[0].validation.unwrap().users, 9);
}
