//! What stops a run: a recipe that asks too much, a loss that is no number.

use std::sync::Arc;

use super::{
    factorisation::Factorisation,
    runs::{dataset, recipe, trainer, weights},
};
use crate::{data::EvaluationNegatives, train::Recipe};

#[test]
fn more_negatives_than_other_items_are_refused_before_training() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let recipe = Recipe { negatives: 60, ..recipe(1) };
    let trainer = trainer(&dataset, &negatives, recipe, directory.path());
    let error = trainer.run(&Factorisation::new(&dataset), None).unwrap_err().to_string();
    assert!(error.contains("negatives: is 60, but the data set has 60 items"), "{error}");
    assert!(!directory.path().join("tensorboard").exists(), "nothing was begun");
}

#[test]
fn nan_stops_the_run_and_leaves_the_weights() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let steps = 40 * 11 / 32 + 1;
    let until = |broken_step: usize| {
        let mut model = Factorisation::new(&dataset);
        model.broken_step = broken_step;
        let error = trainer(&dataset, &negatives, recipe(2), directory.path()).run(&model, None).unwrap_err();
        (error.to_string(), weights(&model))
    };
    let (error, broken) = until(steps + 4);
    assert!(error.starts_with("epoch 2, step 4: the loss total = NaN is not finite; the batch's users: u"), "{error}");
    assert!(error.contains(" and 16 more"), "{error}");

    let mut stopped = Factorisation::new(&dataset);
    let trainer = trainer(&dataset, &negatives, recipe(2), directory.path());
    stopped.stopping = Some((steps + 3, Arc::clone(&trainer.stop)));
    trainer.run(&stopped, None).unwrap();
    assert!(broken == weights(&stopped), "the weights of the step before");
}
