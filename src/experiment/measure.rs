//! What models take, measured when a table is made, on one thread and all rows in turn: runs are made at different
//! times, on machines that do other things.

use std::{sync::atomic::Ordering, time::Duration};

use super::{ExperimentError, Runner, ServingCost, Variant, progress::Bars};
use crate::{
    model::{ModelError, RankerOptions},
    train::SpeedTest,
};

/// How often each row has its turn; the median turn counts.
const TURNS: u32 = 3;

impl Runner<'_> {
    /// How many samples per second each of these learns from by its recipe: the median step's, in each of three turns
    /// from new weights and on batches of another epoch, for as long as the budget says (but two steps at least). What
    /// a sample is, and what is in its time, [`SpeedTest::rates`] says. Nothing is written. `None` if it was told to
    /// stop.
    ///
    /// # Errors
    /// If a model can't be made, or fails.
    pub fn training_speeds(&self, variants: &[Variant], budget: Duration) -> Result<Option<Vec<f64>>, ExperimentError> {
        let bars = Bars::new(self.progress, TURNS as usize * variants.len(), "speeds of training");
        let mut turns = vec![vec![]; variants.len()];
        for epoch in 1..=TURNS as usize {
            for (Variant { name, model, recipe, .. }, turns) in variants.iter().zip(&mut turns) {
                if self.stop.load(Ordering::Relaxed) {
                    bars.finish();
                    return Ok(None);
                }
                bars.begin(name);
                // Made anew each time: all of them with their optimizers take more memory than a training does.
                let model = model.new_trainable(self.dataset, recipe.seed, &self.device)?;
                let test = SpeedTest { dataset: self.dataset, recipe, epoch, budget };
                turns.push(median(on_one_thread(|| test.rates(&*model))?));
                bars.advance();
            }
        }
        bars.finish();
        Ok(Some(turns.into_iter().map(median).collect()))
    }

    /// How fast each of these answers, for as long each as the budget says; with weights as they begin, since time
    /// depends on sizes only. `None` if it was told to stop.
    ///
    /// # Errors
    /// If a model can't be made, or fails.
    pub fn serving_costs(
        &self,
        variants: &[Variant],
        budget: Duration,
    ) -> Result<Option<Vec<ServingCost>>, ExperimentError> {
        let stopped = || self.stop.load(Ordering::Relaxed);
        if stopped() {
            return Ok(None);
        }
        let ranker = |variant: &Variant| {
            let weights = variant.model.new_trainable(self.dataset, 1, &self.device)?.parameters().snapshot()?;
            variant.model.ranker(self.dataset.catalogue.clone(), &weights, &self.device, RankerOptions::default())
        };
        let rankers = variants.iter().map(ranker).collect::<Result<Vec<_>, _>>()?;
        let mut turns = vec![vec![]; variants.len()];
        for _ in 0..TURNS {
            for (ranker, turns) in rankers.iter().zip(&mut turns) {
                if stopped() {
                    return Ok(None);
                }
                turns.push(ServingCost::measure(&**ranker, self.dataset, budget / TURNS)?);
            }
        }
        Ok(Some(turns.iter().map(|turns| ServingCost::median(turns)).collect()))
    }
}

/// Work in a pool of one thread: matrix products find no other inside.
pub(super) fn on_one_thread<T: Send, E: From<ModelError> + Send>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.map_err(|error| ModelError::Tensor(candle_core::Error::wrap(error)))?;
    pool.install(work)
}

/// The middle one, of two the larger; 0 of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
