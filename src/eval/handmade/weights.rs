//! How the parts are weighed.

use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::score::Scored;
use crate::eval::{EvaluationError, Metrics, Rank};

/// What remains of an event's share with each event after it.
const DECAYS: [f32; 6] = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
/// Weights that are tried besides 0: powers of two.
const EXPONENTS: std::ops::RangeInclusive<i32> = -14..=7;

/// Weights beside popularity's, which is 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HandmadeWeights {
    /// γ.
    pub decay: f32,
    /// a, of shared terms.
    pub overlap: f32,
    /// b, of co-occurrence.
    pub co_occurrence: f32,
}

impl HandmadeWeights {
    /// The best by coordinate ascent for each decay. `parts` gives the users' candidates for a decay.
    pub(super) fn pick(
        parts: impl Fn(f32) -> Result<Vec<Scored>, EvaluationError>,
        selection: impl Fn(&Metrics) -> f64,
    ) -> Result<Self, EvaluationError> {
        let mut best: Option<(f64, Self)> = None;
        for decay in DECAYS {
            let users = parts(decay)?;
            let value = |weights: Self| selection(&weights.metrics(&users));
            let mut weights = Self { decay, overlap: 0.0, co_occurrence: 0.0 };
            let mut reached = value(weights);
            loop {
                let before = reached;
                let parts: [fn(&mut Self) -> &mut f32; 2] =
                    [|weights| &mut weights.overlap, |weights| &mut weights.co_occurrence];
                for of in parts {
                    for tried in std::iter::once(0.0).chain(EXPONENTS.map(|exponent| 2f32.powi(exponent))) {
                        let mut changed = weights;
                        *of(&mut changed) = tried;
                        let value = value(changed);
                        if value > reached {
                            (reached, weights) = (value, changed);
                        }
                    }
                }
                if reached <= before {
                    break;
                }
            }
            if best.is_none_or(|(value, _)| reached > value) {
                best = Some((reached, weights));
            }
        }
        Ok(best.expect("there are decays").1)
    }

    fn metrics(self, users: &[Scored]) -> Metrics {
        let ranks: Vec<Rank> = users.par_iter().map(|parts| self.rank(parts)).collect();
        Metrics::of(ranks)
    }
}

impl fmt::Display for HandmadeWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { decay, overlap, co_occurrence } = self;
        write!(f, "ln(1 + clicks) + {overlap} · shared terms + {co_occurrence} · co-occurrence, decay {decay}")
    }
}
