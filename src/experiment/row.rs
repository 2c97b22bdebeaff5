//! A line of a table: what the seeds found together.

use super::{RunRecord, ServingCost, Spread, Variant};
use crate::eval::{Metrics, Rank, UserRank};

/// How many metrics there are.
pub(super) const METRICS: usize = Metrics::NAMES.len();

/// What the seeds found together.
#[derive(Debug, Clone)]
pub struct Row {
    /// What tables call it.
    pub name: String,
    /// What sets it apart from other rows.
    pub settings: Vec<(String, String)>,
    /// How many seeds that is; 0 where nothing is random.
    pub seeds: usize,
    /// Test metrics, in the order of [`Metrics::NAMES`].
    pub metrics: [Spread; METRICS],
    /// Validation metrics of what was trained.
    pub validation: Option<[Spread; METRICS]>,
    /// What training and serving it takes.
    pub costs: Option<Costs>,
    /// Test ranks by seed, then by user.
    ranks: Vec<Vec<Rank>>,
}

/// What a model takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// Of training and its validation, as long as it took when each run was made.
    pub seconds: Spread,
    /// The epoch whose weights were kept.
    pub best_epoch: Spread,
    /// Numbers that were learned.
    pub parameters: usize,
    /// Of training, where it was measured: see [`Runner::training_speeds`](super::Runner::training_speeds).
    pub samples_per_second: Option<f64>,
    /// Where it was measured.
    pub serving: Option<ServingCost>,
}

impl Row {
    /// Of a variant's finished runs; nothing without any.
    pub fn of_runs(variant: &Variant, runs: &[RunRecord]) -> Option<Self> {
        let parameters = runs.first()?.parameters;
        let spread = |of: fn(&RunRecord) -> f64| Spread::of(runs.iter().map(of));
        Some(Self {
            name: variant.name.clone(),
            settings: variant.settings.clone(),
            seeds: runs.len(),
            metrics: spreads(runs.iter().map(|run| run.test)),
            validation: Some(spreads(runs.iter().map(|run| run.validation))),
            costs: Some(Costs {
                seconds: spread(|run| run.seconds),
                best_epoch: spread(|run| run.best_epoch as f64),
                parameters,
                samples_per_second: None,
                serving: None,
            }),
            ranks: runs.iter().map(|run| run.ranks.clone()).collect(),
        })
    }

    /// Of a ranking in which nothing is random.
    pub fn of_ranks(name: &str, ranks: &[UserRank]) -> Self {
        let ranks: Vec<Rank> = ranks.iter().map(|user| user.rank).collect();
        Self {
            name: name.to_owned(),
            settings: vec![],
            seeds: 0,
            metrics: spreads([Metrics::of(ranks.iter().copied())]),
            validation: None,
            costs: None,
            ranks: vec![ranks],
        }
    }

    /// Whether both are the same rankings.
    pub(super) fn has_runs_of(&self, other: &Self) -> bool {
        self.ranks == other.ranks
    }

    /// A metric of each user, averaged over the seeds.
    pub(super) fn per_user(&self, metric: usize) -> Vec<f64> {
        let users = self.ranks.first().map_or(0, Vec::len);
        let value = |rank: Rank| Metrics::of([rank]).values()[metric];
        let mean = |user: usize| {
            // In one order: the same ranks by other seeds are the same mean to the last bit, and no difference to a
            // test.
            let mut values: Vec<f64> = self.ranks.iter().map(|ranks| value(ranks[user])).collect();
            values.sort_by(f64::total_cmp);
            values.iter().sum::<f64>() / values.len() as f64
        };
        (0..users).map(mean).collect()
    }
}

fn spreads(metrics: impl IntoIterator<Item = Metrics>) -> [Spread; METRICS] {
    let values: Vec<[f64; METRICS]> = metrics.into_iter().map(|metrics| metrics.values()).collect();
    std::array::from_fn(|metric| Spread::of(values.iter().map(|values| values[metric])))
}
