//! The trainer on a matrix factorisation: small enough to train in milliseconds, and a second model behind the traits.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use candle_core::{D, DType, Device, Tensor};

use super::*;
use crate::{
    data::{Dataset, EvaluationNegatives, HistoryBatch, HistoryLimits, Split, UserFeatures, UserRow, fixture},
    domain::{HistoryWeights, ItemAttention},
    model::{
        BatchPlan, HeldOutClick, Losses, ModelError, RankingModel, ScoreRequest, TrainableModel, TrainingBatch,
        UserState,
    },
    nn::{Dropout, Parameters, binary_cross_entropy},
};

const WIDTH: usize = 8;
const LIMITS: HistoryLimits = HistoryLimits { recommendations: 4, searches: 2, words: 1, clicks: 1 };

/// Not learned: the sum of the items that held-out users clicked, and a weight as it was then.
const FITTED: &str = "fitted";

fn first(table: &Tensor) -> f32 {
    table.flatten_all().unwrap().get(0).unwrap().to_scalar().unwrap()
}

/// Click probability = sigmoid(user · item).
struct Factorisation {
    parameters: Parameters,
    steps: AtomicUsize,
    /// At this step the loss is NaN.
    broken_step: usize,
    /// After this step the run is told to stop.
    stopping: Option<(usize, Arc<AtomicBool>)>,
}

impl Factorisation {
    fn new(dataset: &Dataset) -> Self {
        let table = |rows: usize, salt: usize| {
            let values: Vec<f32> =
                (0..rows * WIDTH).map(|n| (((n + 7 * salt) * 2_654_435_761) as f32).sin() * 0.1).collect();
            Tensor::from_vec(values, (rows, WIDTH), &Device::Cpu).unwrap()
        };
        let tensors = HashMap::from([
            ("users".to_owned(), table(dataset.catalogue.users.rows(), 1)),
            ("items".to_owned(), table(dataset.catalogue.items.rows(), 2)),
            (FITTED.to_owned(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap()),
        ]);
        let parameters = Parameters::partly_fixed(&tensors, |name| name == FITTED).unwrap();
        Self { parameters, steps: AtomicUsize::new(0), broken_step: usize::MAX, stopping: None }
    }

    fn table(&self, name: &str) -> &Tensor {
        self.parameters.get(name).unwrap().as_tensor()
    }
}

impl TrainableModel for Factorisation {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn limits(&self) -> HistoryLimits {
        LIMITS
    }

    fn batch_plan(&self) -> BatchPlan {
        BatchPlan::default()
    }

    fn logits(&self, history: &HistoryBatch, items: &[u32], dropout: &mut Dropout) -> Result<Tensor, ModelError> {
        let users: Vec<u32> = history
            .user_rows
            .iter()
            .map(|row| match row {
                UserRow::Known(row) => *row,
                UserRow::Mean => panic!("training users are known"),
            })
            .collect();
        let select = |table: &str, rows: &[u32]| self.table(table).index_select(&Tensor::new(rows, &Device::Cpu)?, 0);
        let vectors = dropout.apply(&select("users", &users)?)?.unsqueeze(1)?; // [B, 1, d]
        let items = select("items", items)?.reshape((users.len(), (), WIDTH))?; // [B, C, d]
        Ok(items.broadcast_mul(&vectors)?.sum(D::Minus1)?)
    }

    fn losses(&self, batch: &TrainingBatch, dropout: &mut Dropout) -> Result<Losses, ModelError> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((last, stop)) = &self.stopping {
            stop.store(step >= *last, Ordering::Relaxed);
        }
        let bce = binary_cross_entropy(&self.logits(&batch.history, &batch.candidates()?, dropout)?)?;
        let total = if step == self.broken_step { (&bce * f64::NAN)? } else { bce.clone() };
        Ok(Losses { total, parts: vec![("bce", bce)] })
    }

    fn fitted(&self) -> Vec<&'static str> {
        vec![FITTED]
    }

    fn fit_held_out(&self, clicks: &[HeldOutClick]) -> Result<(), ModelError> {
        let (_, fitted) = self.parameters.all().find(|(name, _)| *name == FITTED).unwrap();
        let sum: u32 = clicks.iter().map(|click| click.candidates[0]).sum();
        Ok(fitted.set(&Tensor::new(&[sum as f32, first(self.table("items"))], &Device::Cpu)?)?)
    }

    fn ranker(&self) -> Result<Box<dyn RankingModel>, ModelError> {
        let rows = |name: &str| self.table(name).to_vec2::<f32>();
        Ok(Box::new(FactorisationRanker { users: rows("users")?, items: rows("items")? }))
    }
}

struct FactorisationRanker {
    users: Vec<Vec<f32>>,
    items: Vec<Vec<f32>>,
}

impl RankingModel for FactorisationRanker {
    fn limits(&self) -> HistoryLimits {
        LIMITS
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn encode(&self, users: &[&UserFeatures]) -> Result<Vec<UserState>, ModelError> {
        let state = |user: &&UserFeatures| match user.user {
            UserRow::Known(row) => self.users[row as usize].clone(),
            UserRow::Mean => vec![0.0; WIDTH],
        };
        Ok(users.iter().map(|user| UserState::new(state(user), WIDTH * 4)).collect())
    }

    fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let score =
            |user: &[f32], item: u32| user.iter().zip(&self.items[item as usize]).map(|(a, b)| a * b).sum::<f32>();
        let scores = requests.iter().map(|request| {
            let user: &Vec<f32> = request.state.get();
            request.items.iter().map(|&item| score(user, item)).collect()
        });
        Ok(scores.collect())
    }

    fn explain(&self, _: &UserState, _: &[u32]) -> Result<(HistoryWeights, Vec<ItemAttention>), ModelError> {
        Ok(Default::default())
    }
}

/// Users of two tastes: even ones click even items, odd ones odd items.
fn dataset() -> Dataset {
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

fn recipe(epochs: usize) -> Recipe {
    Recipe { epochs, batch_size: 32, learning_rate: 0.02, alignment_negatives: 3, ..Recipe::default() }
}

fn trainer<'a>(
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

fn weights(model: &Factorisation) -> Vec<Vec<u32>> {
    let bits = |(_, var): (&str, &candle_core::Var)| -> Vec<u32> {
        var.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    model.parameters.all().map(bits).collect()
}

/// The epochs without what may differ between two runs that are the same: their speed.
fn timeless(outcome: &Outcome) -> Vec<EpochReport> {
    let epochs = outcome.epochs.iter();
    epochs.map(|epoch| EpochReport { seconds: 0.0, samples_per_second: 0.0, ..epoch.clone() }).collect()
}

fn checkpoint(directory: &Path) -> Option<Checkpoint> {
    Checkpoint::read_latest(&directory.join("checkpoints")).unwrap()
}

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
