//! The paper's evaluation on any data set: what is declared is trained with every seed under one protocol, and reported
//! with deviations and significance.
//!
//! [`Variant`]s are declared by [`studies`] (the paper's tables) or by a file ([`Grid`]), from one [`Base`] →
//! [`Runner`] trains each with each seed, unless [`RunStore`] has that run already → [`RunRecord`]s, one file per run →
//! [`Row`]s, which [`Report`] prints and [`Comparison`] tests. What models cost is measured when the table is made.
//!
//! Whatever a study selects, it selects on validation; the test interactions are only reported.

mod comparison;
mod error;
mod figure;
mod grid;
mod measure;
mod progress;
mod protocol;
mod record;
mod report;
mod row;
mod runner;
mod serving;
mod statistics;
mod store;
pub mod studies;
#[cfg(test)]
mod tests;
mod variant;

pub use comparison::Comparison;
pub use error::ExperimentError;
pub use figure::line_chart;
pub use grid::Grid;
pub use protocol::{differences, protocol};
pub use record::{RunConfig, RunKey, RunRecord};
pub use report::{Columns, Report};
pub use row::{Costs, Row};
pub use runner::{Finished, Plan, Runner};
pub use serving::ServingCost;
pub use statistics::{PairedTest, Spread, paired_t_test, wilcoxon_signed_rank};
pub use store::RunStore;
pub use variant::{Base, Changes, Variant};
