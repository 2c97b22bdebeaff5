//! How fast a trained model answers.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::measure::{median, on_one_thread};
use crate::{
    data::{Dataset, Featurizer, Split, UserFeatures},
    model::{ModelError, RankingModel, ScoreRequest},
};

/// Candidates of a request.
const CANDIDATES: usize = 100;
/// Requests of a call, as the engine's micro-batches bring them together.
const REQUESTS: usize = 16;
/// Different users that ask.
const USERS: usize = 512;

/// Candidates per second on one thread, in calls of 16 requests with 100 candidates each: the median call's.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ServingCost {
    /// With every user encoded anew.
    pub candidates_per_second: f64,
    /// With users encoded before, as the engine's cache has them.
    pub cached_user: f64,
}

impl ServingCost {
    /// Asks the model for about `budget` about test users of the data set.
    ///
    /// # Errors
    /// If the model fails.
    pub fn measure(model: &dyn RankingModel, dataset: &Dataset, budget: Duration) -> Result<Self, ModelError> {
        let featurizer = Featurizer::new(dataset.catalogue.clone(), model.limits());
        let targets = dataset.targets(Split::Test);
        let step = targets.len().div_ceil(USERS).max(1);
        let users: Vec<UserFeatures> = targets
            .iter()
            .step_by(step)
            // As a server asks: now, not at some time of the past.
            .map(|&target| UserFeatures { as_of: None, ..dataset.features(target, &featurizer) })
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (first, end) = (dataset.catalogue.items.first_row, dataset.catalogue.items.rows() as u32);
        let items: Vec<u32> = (0..CANDIDATES).map(|_| rng.random_range(first..end)).collect();
        on_one_thread(|| {
            let calls: Vec<Vec<&UserFeatures>> =
                users.iter().collect::<Vec<_>>().chunks(REQUESTS).map(<[_]>::to_vec).collect();
            let anew = median_rate(budget / 2, &calls, |users| {
                let states = model.encode(users)?;
                score(model, &states, &items)
            })?;
            let encoded: Vec<_> = calls.iter().map(|users| model.encode(users)).collect::<Result<_, _>>()?;
            let cached = median_rate(budget / 2, &encoded, |states| score(model, states, &items))?;
            Ok(Self { candidates_per_second: anew, cached_user: cached })
        })
    }

    /// Of several measurements.
    pub(super) fn median(costs: &[Self]) -> Self {
        let of_all = |of: fn(&Self) -> f64| median(costs.iter().map(of).collect());
        Self {
            candidates_per_second: of_all(|cost| cost.candidates_per_second),
            cached_user: of_all(|cost| cost.cached_user),
        }
    }
}

/// How many candidates that were.
fn score(model: &dyn RankingModel, states: &[crate::model::UserState], items: &[u32]) -> Result<usize, ModelError> {
    let requests: Vec<ScoreRequest<'_>> = states.iter().map(|state| ScoreRequest { state, items }).collect();
    Ok(model.score(&requests)?.iter().map(Vec::len).sum())
}

/// Of calls in turn, for as long as the budget lasts; every call is made once before, to warm up.
fn median_rate<C>(
    budget: Duration,
    calls: &[C],
    mut answer: impl FnMut(&C) -> Result<usize, ModelError>,
) -> Result<f64, ModelError> {
    let (started, mut rates, mut warm) = (Instant::now(), vec![], false);
    while !calls.is_empty() && (rates.is_empty() || started.elapsed() < budget) {
        for call in calls {
            let begun = Instant::now();
            let candidates = answer(call)? as f64;
            if warm {
                rates.push(candidates / begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE));
            }
            if warm && started.elapsed() >= budget {
                break;
            }
        }
        warm = true;
    }
    Ok(median(rates))
}
