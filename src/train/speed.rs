//! How fast a model learns by a recipe: steps of an epoch, timed, nothing kept.

use std::{
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use super::{Position, Recipe, TrainingError, loader::Loader, step::Learner};
use crate::{
    data::{Dataset, Featurizer},
    model::{TrainableModel, TrainingBatch},
};

/// Places of the epoch that batches are taken from, evenly spread over it: in the order of users, neighbours are alike.
const PLACES: usize = 4;
/// Batches that follow each other there: by length, short and long ones come in random order.
const EACH: usize = 8;
/// Batches of these that steps are taken with.
const TYPICAL: usize = 8;
/// Steps that are timed at least.
const LEAST: usize = 2;

/// Times a model's steps by a recipe.
#[derive(Debug, Clone, Copy)]
pub struct SpeedTest<'a> {
    /// What is learned from.
    pub dataset: &'a Dataset,
    /// How.
    pub recipe: &'a Recipe,
    /// Whose batches are taken, from 1.
    pub epoch: usize,
    /// For how long, about: however short, two steps are timed.
    pub budget: Duration,
}

impl SpeedTest<'_> {
    /// Samples per second of each step: losses, gradients and the optimizer's move of the weights; after a step that
    /// warms up. A sample is what the model has as an example ([`Examples`](crate::model::Examples)), a target with its
    /// negatives for most. Not in it: assembling batches, which the loader does meanwhile in training, what the model
    /// made of the data set when it was built, and what follows an epoch. The model's weights have moved afterwards.
    ///
    /// # Errors
    /// If there is nothing to learn from, or a step fails; see [`TrainingError`].
    pub fn rates(&self, model: &dyn TrainableModel) -> Result<Vec<f64>, TrainingError> {
        let batches = self.batches(model)?;
        let mut learner = Learner::new(model, self.dataset, self.recipe)?;
        let (mut rates, started) = (vec![], Instant::now());
        for (step, batch) in batches.iter().cycle().enumerate() {
            let begun = Instant::now();
            learner.step(batch, Position { epoch: self.epoch, step })?;
            if step > 0 {
                rates.push(batch.positives.len() as f64 / begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE));
            }
            if rates.len() >= LEAST && started.elapsed() >= self.budget {
                break;
            }
        }
        Ok(rates)
    }

    /// Full batches of the epoch whose histories are nearly as long as the mean, the nearest first: however few there
    /// is time for, they stand for all.
    fn batches(&self, model: &dyn TrainableModel) -> Result<Vec<TrainingBatch>, TrainingError> {
        let featurizer = Featurizer::new(Arc::clone(&self.dataset.catalogue), model.limits());
        let loader = Loader::new(self.dataset, featurizer, self.recipe, model.batch_plan())?;
        // A smaller last one is left out, unless there is no other.
        let full = (loader.targets() / self.recipe.batch_size).max(1);
        let mut batches = vec![];
        for place in 0..PLACES {
            let (first, end) = (place * full / PLACES, (place + 1) * full / PLACES);
            let count = EACH.min(end - first);
            let stretch = |stream: Receiver<TrainingBatch>| stream.iter().take(count).collect::<Vec<_>>();
            batches.extend(loader.stream(self.epoch, first, stretch));
        }
        let length = |batch: &TrainingBatch| batch.history.rec_len + batch.history.src_len;
        let mean = batches.iter().map(length).sum::<usize>() / batches.len();
        batches.sort_by_key(|batch| length(batch).abs_diff(mean));
        batches.truncate(TYPICAL);
        Ok(batches)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{
        data::{Split, fixture},
        model::{InputConfig, InputSizes, ModelKind},
        train::{Order, TrainingTargets},
    };

    /// Users of 4 to 12 clicks: targets with 1 to 9 before them, 3.7 in the mean.
    fn dataset() -> Dataset {
        let users = (0..200u32).map(|user| {
            let clicks: Vec<u32> = (0..4 + user % 9).map(|n| 1 + (user * 7 + n) % 40).collect();
            fixture::User::clicking(&clicks)
        });
        fixture::dataset(40, 5, users)
    }

    fn model(dataset: &Dataset) -> Box<dyn TrainableModel> {
        let inputs = InputConfig::for_catalogue(&dataset.catalogue, InputSizes::AMAZON);
        ModelKind::Stamp.config(inputs, InputSizes::AMAZON.heads).new_trainable(dataset, 1, &Device::Cpu).unwrap()
    }

    fn recipe(batch_size: usize, order: Order) -> Recipe {
        Recipe { batch_size, order, targets: TrainingTargets::All, ..Recipe::default() }
    }

    #[test]
    fn batches_stand_for_the_epoch() {
        let dataset = dataset();
        let model = model(&dataset);
        let batches = |recipe: &Recipe, epoch: usize| {
            SpeedTest { dataset: &dataset, recipe, epoch, budget: Duration::ZERO }.batches(&*model).unwrap()
        };
        let by_length = recipe(8, Order::ByLength);
        let typical = batches(&by_length, 1);
        assert_eq!(typical.len(), TYPICAL);
        for batch in &typical {
            assert_eq!((batch.positives.len(), batch.negatives.len()), (8, 8 * by_length.negatives));
            assert!(batch.history.rec_len.abs_diff(4) <= 2, "{}", batch.history.rec_len);
        }
        let positives = |batches: &[TrainingBatch]| -> Vec<Vec<u32>> {
            batches.iter().map(|batch| batch.positives.clone()).collect()
        };
        assert_eq!(positives(&typical), positives(&batches(&by_length, 1)), "the same again");
        assert_ne!(positives(&typical), positives(&batches(&by_length, 2)));
        // One full batch and a smaller one; one that is not full.
        let targets = dataset.targets(Split::Train).len();
        for (batch_size, expected) in [(targets - 1, targets - 1), (targets + 1, targets)] {
            let batches = batches(&recipe(batch_size, Order::Shuffled), 1);
            assert_eq!(batches.iter().map(|batch| batch.positives.len()).collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn two_steps_are_timed_however_short_the_time() {
        let dataset = dataset();
        let (model, recipe) = (model(&dataset), recipe(8, Order::Shuffled));
        let weights = || model.parameters().snapshot().unwrap();
        let values = |name: &str| weights()[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let before = values("mlp_a.weight");
        let test = SpeedTest { dataset: &dataset, recipe: &recipe, epoch: 1, budget: Duration::ZERO };
        let rates = test.rates(&*model).unwrap();
        assert_eq!(rates.len(), LEAST);
        assert!(rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{rates:?}");
        assert_ne!(values("mlp_a.weight"), before, "they are steps");
    }
}
