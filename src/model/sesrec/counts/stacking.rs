//! What counts weigh beside what was learned: fitted to clicks that were not learned from (stacked generalisation,
//! Wolpert 1992).
//!
//! Of a click's candidates, z is what the model has learned of each, x its counts. The probability of the clicked one
//! is the softmax of s·z + v·x; s and v are those of the highest probability of all clicks, each with a normal prior
//! around "no counts": s = 1, v = 0. The counts then weigh v / s, which orders the same and leaves z as it is. (s is
//! usually below 1: a model is surer of itself than clicks which it hasn't seen justify.)

use crate::nn::solve_symmetric;

/// One click: a row per candidate, the clicked one's first; a row is z, then the counts.
pub(in crate::model::sesrec) type Choice = Vec<Vec<f32>>;

/// Of the prior, 1 / variance: a hundred clicks and more outweigh it, a dozen don't.
const PRECISION: f64 = 10.0;
/// Newton's method needs some ten steps.
const STEPS: usize = 50;
/// The least s: below it the model has learned nothing that counts could be measured by.
const LEAST_SCALE: f64 = 0.1;

/// What each of the counts weighs.
pub(in crate::model::sesrec) fn weights(choices: &[Choice], counts: usize) -> Vec<f32> {
    let at = most_probable(choices, counts);
    let scale = at[0].max(LEAST_SCALE);
    at[1..].iter().map(|weight| (weight / scale) as f32).collect()
}

/// s, then v.
fn most_probable(choices: &[Choice], counts: usize) -> Vec<f64> {
    let mut at = vec![0.0; 1 + counts];
    at[0] = 1.0;
    let mut here = Objective::at(choices, &at);
    for _ in 0..STEPS {
        let mut step = here.gradient.clone();
        solve_symmetric(step.len(), |row, column| here.hessian[row][column], &mut step);
        // Twice what the step promises to gain.
        let promise: f64 = step.iter().zip(&here.gradient).map(|(step, slope)| step * slope).sum();
        if promise <= 1e-9 * here.value.max(1.0) {
            break;
        }
        // The objective is convex: a part of the step always gains, short of rounding.
        let shorter = std::iter::successors(Some(1.0), |length| Some(length / 2.0)).take(30);
        let next = shorter
            .map(|length| at.iter().zip(&step).map(|(at, step)| at - length * step).collect::<Vec<f64>>())
            .map(|next| (Objective::at(choices, &next), next))
            .find(|(there, _)| there.value < here.value);
        let Some((there, next)) = next else { break };
        (here, at) = (there, next);
    }
    at
}

/// The negative logarithm of all clicks' probability and of the prior, and its derivatives.
struct Objective {
    value: f64,
    gradient: Vec<f64>,
    /// Symmetric.
    hessian: Vec<Vec<f64>>,
}

impl Objective {
    fn at(choices: &[Choice], at: &[f64]) -> Self {
        let columns = at.len();
        let prior = |n: usize| if n == 0 { 1.0 } else { 0.0 };
        let mut here = Self {
            value: at.iter().enumerate().map(|(n, at)| PRECISION / 2.0 * (at - prior(n)).powi(2)).sum(),
            gradient: at.iter().enumerate().map(|(n, at)| PRECISION * (at - prior(n))).collect(),
            hessian: (0..columns)
                .map(|n| (0..columns).map(|m| if n == m { PRECISION } else { 0.0 }).collect())
                .collect(),
        };
        let (mut chances, mut mean) = (vec![], vec![0.0; columns]);
        for choice in choices {
            let Some(clicked) = choice.first() else { continue };
            chances.clear();
            chances.extend(choice.iter().map(|row| row.iter().zip(at).map(|(&x, at)| f64::from(x) * at).sum::<f64>()));
            let (own, highest) = (chances[0], chances.iter().copied().fold(f64::MIN, f64::max));
            chances.iter_mut().for_each(|chance| *chance = (*chance - highest).exp());
            let total: f64 = chances.iter().sum();
            here.value += highest + total.ln() - own;
            mean.fill(0.0);
            for (row, chance) in choice.iter().zip(&chances) {
                let chance = chance / total;
                for (n, &x) in row.iter().enumerate() {
                    let expected = chance * f64::from(x);
                    mean[n] += expected;
                    here.hessian[n].iter_mut().zip(row).for_each(|(sum, &y)| *sum += expected * f64::from(y));
                }
            }
            for (n, &expected) in mean.iter().enumerate() {
                here.gradient[n] += expected - f64::from(clicked[n]);
                here.hessian[n].iter_mut().zip(&mean).for_each(|(sum, other)| *sum -= expected * other);
            }
        }
        here
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    /// Clicks by the softmax of these weights over z and the counts, which are standard normal but for `scale`.
    fn clicks(truth: &[f64], number: usize, scale: f32) -> Vec<Choice> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut normal = || {
            let (radius, angle): (f32, f32) = (rng.random_range(f32::MIN_POSITIVE..1.0), rng.random());
            (-2.0 * radius.ln()).sqrt() * (std::f32::consts::TAU * angle).cos()
        };
        let mut rows = vec![];
        for _ in 0..number {
            let choice: Choice = (0..8).map(|_| (0..truth.len()).map(|_| scale * normal()).collect()).collect();
            rows.push(choice);
        }
        for choice in &mut rows {
            // The highest of utilities with Gumbel noise is a draw from the softmax.
            let utility = |row: &Vec<f32>, noise: f64| {
                row.iter().zip(truth).map(|(&x, w)| f64::from(x) * w).sum::<f64>() - (-noise.ln()).ln()
            };
            let utilities: Vec<f64> = choice.iter().map(|row| utility(row, rng.random_range(1e-12..1.0))).collect();
            let clicked = (0..choice.len()).max_by(|&a, &b| utilities[a].total_cmp(&utilities[b])).unwrap();
            choice.swap(0, clicked);
        }
        rows
    }

    #[test]
    fn planted_weights_are_found_relative_to_the_scale() {
        // The model is twice as sure as it should be.
        let found = weights(&clicks(&[0.5, 0.4, 0.0, -0.2], 20_000, 1.0), 3);
        for (found, planted) in found.iter().zip([0.8, 0.0, -0.4]) {
            assert!((found - planted).abs() < 0.06, "{found} in place of {planted}");
        }
    }

    #[test]
    fn few_clicks_say_little() {
        assert_eq!(weights(&[], 2), [0.0, 0.0]);
        let found = weights(&clicks(&[1.0, 0.0], 3, 1.0), 1);
        assert!(found[0].abs() < 0.3, "{found:?}");
    }

    #[test]
    fn a_model_that_has_learned_nothing_or_the_opposite_is_no_measure() {
        let opposite = weights(&clicks(&[-2.0, 1.0], 2_000, 1.0), 1);
        assert!(opposite[0].is_finite() && opposite[0] > 1.0, "{opposite:?}");
        let constant: Vec<Choice> = clicks(&[0.0, 1.0], 2_000, 1.0)
            .into_iter()
            .map(|choice| choice.into_iter().map(|row| vec![3.0, row[1]]).collect())
            .collect();
        assert!((weights(&constant, 1)[0] - 1.0).abs() < 0.1);
    }

    #[test]
    fn certainty_does_not_overflow() {
        let choices: Vec<Choice> =
            (0..10).map(|_| vec![vec![-80.0, 50.0], vec![80.0, 0.0], vec![0.0, -50.0]]).collect();
        assert!(weights(&choices, 1)[0].is_finite());
    }

    proptest! {
        /// At the minimum the slope is zero, and any other place is higher.
        #[test]
        fn it_is_the_minimum(
            choices in proptest::collection::vec(proptest::collection::vec([-3.0_f32..3.0, -2.0_f32..2.0], 2..6), 1..30),
            away in [-0.1_f64..0.1, -0.1_f64..0.1],
        ) {
            let choices: Vec<Choice> =
                choices.into_iter().map(|rows| rows.into_iter().map(Vec::from).collect()).collect();
            let at = most_probable(&choices, 1);
            let least = Objective::at(&choices, &at);
            prop_assert!(least.gradient.iter().all(|slope| slope.abs() < 1e-2), "{:?}", least.gradient);
            let elsewhere: Vec<f64> = at.iter().zip(away).map(|(at, away)| at + away).collect();
            prop_assert!(Objective::at(&choices, &elsewhere).value >= least.value - 1e-6);
        }
    }
}
