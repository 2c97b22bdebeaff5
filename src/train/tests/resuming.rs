//! Runs that go on from a checkpoint, and checkpoints that no run goes on from.

use std::sync::Arc;

use super::{
    factorisation::Factorisation,
    runs::{checkpoint, dataset, recipe, timeless, trainer, weights},
};
use crate::{
    data::EvaluationNegatives,
    train::{Checkpoint, Ending, Position, Recipe, Schedule, Trainer},
};

#[test]
fn resuming_continues_exactly() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let straight = Factorisation::new(&dataset);
    let expected = trainer(&dataset, &negatives, recipe(4), &directory.path().join("a")).run(&straight, None).unwrap();

    let part = directory.path().join("b");
    let first = Factorisation::new(&dataset);
    trainer(&dataset, &negatives, recipe(2), &part).run(&first, None).unwrap();
    assert!(weights(&first) != weights(&straight));
    let second = Factorisation::new(&dataset);
    let outcome = trainer(&dataset, &negatives, recipe(4), &part).run(&second, checkpoint(&part)).unwrap();
    assert!(weights(&second) == weights(&straight), "2 epochs and 2 more are 4, bit for bit");
    assert_eq!(timeless(&outcome), timeless(&expected));
    assert_eq!(outcome.best.unwrap().epoch, expected.best.unwrap().epoch);
    let left: Vec<_> = std::fs::read_dir(part.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["epoch-0005-step-00000000"], "older checkpoints are gone");
}

#[test]
fn stopping_within_an_epoch_and_resuming_continues_exactly() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let straight = Factorisation::new(&dataset);
    let expected = trainer(&dataset, &negatives, recipe(3), &directory.path().join("a")).run(&straight, None).unwrap();

    let part = directory.path().join("b");
    let interrupted = trainer(&dataset, &negatives, recipe(3), &part);
    let mut first = Factorisation::new(&dataset);
    let steps = 40 * 11 / 32 + 1;
    first.stopping = Some((steps + 3, Arc::clone(&interrupted.stop)));
    let outcome = interrupted.run(&first, None).unwrap();
    let path = part.join("checkpoints/epoch-0002-step-00000003");
    assert_eq!(outcome.ending, Ending::Interrupted { checkpoint: Some(path.clone()) });
    assert!(path.join("state.json").exists());
    assert_eq!(checkpoint(&part).unwrap().position(), Position { epoch: 2, step: 3 });

    let second = Factorisation::new(&dataset);
    let outcome = trainer(&dataset, &negatives, recipe(3), &part).run(&second, checkpoint(&part)).unwrap();
    assert!(weights(&second) == weights(&straight));
    assert_eq!(timeless(&outcome), timeless(&expected));
}

/// What ends without a word (here by an error) goes on from the last of the steps that are kept.
#[test]
fn checkpoints_within_an_epoch_are_written_as_often_as_asked() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let straight = Factorisation::new(&dataset);
    trainer(&dataset, &negatives, recipe(2), &directory.path().join("a")).run(&straight, None).unwrap();
    for (every, expected) in [(0, None), (3, Some(Position { epoch: 1, step: 6 }))] {
        let part = directory.path().join(every.to_string());
        let mut trainer = trainer(&dataset, &negatives, recipe(2), &part);
        trainer.files.checkpoint_steps = every;
        let mut broken = Factorisation::new(&dataset);
        broken.broken_step = 8;
        trainer.run(&broken, None).unwrap_err();
        assert_eq!(checkpoint(&part).map(|checkpoint| checkpoint.position()), expected);
        let resumed = Factorisation::new(&dataset);
        trainer.run(&resumed, checkpoint(&part)).unwrap();
        assert!(weights(&resumed) == weights(&straight), "every {every}");
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let model = Factorisation::new(&dataset);
    trainer(&dataset, &negatives, recipe(1), directory.path()).run(&model, None).unwrap();
    let refused = |change: &dyn Fn(&mut Trainer<'_>)| {
        let mut trainer = trainer(&dataset, &negatives, recipe(2), directory.path());
        change(&mut trainer);
        trainer.run(&model, checkpoint(directory.path())).unwrap_err().to_string()
    };
    let error = refused(&|trainer| trainer.recipe.batch_size = 16);
    assert!(error.contains("recipe batch_size 32, this run has 16"), "{error}");
    let error = refused(&|trainer| trainer.model_config = serde_json::json!({"model": "other"}));
    assert!(error.contains(r#"with model "factorisation", this run has "other""#), "{error}");
    // What else follows from the model is not what is blamed.
    let error = refused(&|trainer| {
        trainer.model_config = serde_json::json!({"model": "other"});
        trainer.recipe.dropout = 0.5;
    });
    assert!(error.contains(r#"with model "factorisation""#) && error.contains("--force"), "{error}");
    let error = refused(&|trainer| trainer.recipe.validation_users = 9);
    assert!(error.contains("recipe validation_users 0, this run has 9"), "{error}");
    // Whose rate at a step follows from how many there are.
    let cosine = Recipe { schedule: Schedule::Cosine, ..recipe(1) };
    let longer = Recipe { epochs: 2, ..cosine.clone() };
    let path = directory.path().join("cosine");
    trainer(&dataset, &negatives, cosine, &path).run(&model, None).unwrap();
    let error = trainer(&dataset, &negatives, longer, &path).run(&model, checkpoint(&path)).unwrap_err().to_string();
    assert!(error.contains("recipe epochs 1, this run has 2"), "{error}");
    for other in [EvaluationNegatives::sampled(10, 1), EvaluationNegatives::sampled(20, 2)] {
        let trainer = trainer(&dataset, &other, recipe(2), directory.path());
        let error = trainer.run(&model, checkpoint(directory.path())).unwrap_err().to_string();
        assert!(error.contains("with evaluation negatives (--negatives, --sampled-negatives, "), "{error}");
        assert!(error.contains(" 800 items for 40 users"), "{error}");
    }
    let mut other = dataset.clone();
    other.checksum = "another".into();
    let error = trainer(&other, &negatives, recipe(2), directory.path()).run(&model, checkpoint(directory.path()));
    assert!(error.unwrap_err().to_string().contains("data set fixture, this run has another"));
}

/// Most of what is damaged could be read, and learned on from.
#[test]
fn a_damaged_checkpoint_is_refused_by_its_file() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let model = Factorisation::new(&dataset);
    trainer(&dataset, &negatives, recipe(1), directory.path()).run(&model, None).unwrap();
    let checkpoints = directory.path().join("checkpoints");
    let path = checkpoints.join("epoch-0002-step-00000000");
    let refused = || Checkpoint::read_latest(&checkpoints).unwrap_err().to_string();
    let files = ["parameters.safetensors", "optimizer.safetensors", "best.safetensors", "state.json", "checksums.json"];
    for name in files {
        let file = path.join(name);
        let whole = std::fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        // The last digit of a weight or of a number, which still is one.
        let place = damaged.iter().rposition(|byte| !b"}]\n \"".contains(byte)).unwrap();
        damaged[place] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        let error = refused();
        let named = if name == "checksums.json" { "checkpoint is damaged" } else { name };
        assert!(error.contains(named) && error.contains("does not match its checksum"), "{name}: {error}");
        std::fs::write(&file, whole).unwrap();
    }
    assert!(checkpoint(directory.path()).is_some(), "as it was written, it is read");
    std::fs::remove_file(path.join("checksums.json")).unwrap();
    assert!(refused().contains("checksums.json: is not there"), "{}", refused());
    let state = std::fs::read_to_string(path.join("state.json")).unwrap();
    std::fs::write(path.join("state.json"), state.replace("\"format\": 4", "\"format\": 3")).unwrap();
    assert!(refused().contains("has format 3, this version reads 4"), "{}", refused());
}
