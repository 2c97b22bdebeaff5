//! Learning in two rounds.

use std::sync::atomic::Ordering;

use super::{
    factorisation::{FITTED, Factorisation, first},
    runs::{checkpoint, dataset, recipe, timeless, trainer},
};
use crate::{
    data::{EvaluationNegatives, Split},
    train::{Ending, Order, Outcome, Recipe},
};

#[test]
fn a_refit_learns_the_validation_interactions_too() {
    let (dataset, negatives, directory) =
        (dataset(), EvaluationNegatives::sampled(20, 1), tempfile::tempdir().unwrap());
    let recipe = Recipe { refit: true, order: Order::ByLength, ..recipe(3) };
    let run = |name: &str, recipe: &Recipe, stop: bool| {
        let trainer = trainer(&dataset, &negatives, recipe.clone(), &directory.path().join(name));
        let model = Factorisation::new(&dataset);
        let rebuilt: std::cell::RefCell<Vec<usize>> = Default::default();
        let outcome = trainer.fit(&model, checkpoint(&directory.path().join(name)), |dataset| {
            rebuilt.borrow_mut().push(dataset.targets(Split::Train).len());
            trainer.stop.store(stop, Ordering::Relaxed);
            Ok(Box::new(Factorisation::new(dataset)))
        });
        (outcome.unwrap(), rebuilt.into_inner())
    };
    let values = |outcome: &Outcome| -> Vec<f32> {
        outcome.best.as_ref().unwrap().tensors["items"].flatten_all().unwrap().to_vec1().unwrap()
    };
    let (once, rebuilt) = run("once", &Recipe { refit: false, ..recipe.clone() }, false);
    assert!(rebuilt.is_empty());
    let (twice, rebuilt) = run("twice", &recipe, false);
    assert_eq!(rebuilt, [dataset.targets(Split::Train).len() + dataset.targets(Split::Validation).len()]);
    assert_eq!(timeless(&once), timeless(&twice), "what validation says is the first round's");
    assert_eq!(once.best.as_ref().unwrap().epoch, twice.best.as_ref().unwrap().epoch);
    assert_ne!(values(&once), values(&twice));

    // Stopped in the second round: it goes on there.
    assert!(twice.best.as_ref().unwrap().epoch > 1, "or there is nothing to stop in");
    let (stopped, _) = run("stopped", &recipe, true);
    let Ending::Interrupted { checkpoint: Some(path) } = stopped.ending else { panic!("{:?}", stopped.ending) };
    let (resumed, _) = run("stopped", &recipe, false);
    assert_eq!(resumed.ending, Ending::Completed);
    assert_eq!(values(&resumed), values(&twice), "bit for bit");
    // Where that can't be read, the round begins anew.
    let (_, _) = run("damaged", &recipe, true);
    let path = directory.path().join("damaged").join(path.strip_prefix(directory.path().join("stopped")).unwrap());
    std::fs::write(path.join("state.json"), "{").unwrap();
    assert_eq!(values(&run("damaged", &recipe, false).0), values(&twice));

    // A refit has nothing that it could be fitted to: it keeps what was fitted to validation in the first round.
    let clicked: u32 = dataset.targets(Split::Validation).iter().map(|&target| dataset.item(target)).sum();
    let after_best = [clicked as f32, first(&once.best.as_ref().unwrap().tensors["items"])];
    for outcome in [&once, &twice, &resumed] {
        assert_eq!(outcome.best.as_ref().unwrap().tensors[FITTED].to_vec1::<f32>().unwrap(), after_best);
    }
}
