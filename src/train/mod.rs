//! Learning: from a data set to the weights of a bundle.
//!
//! [`Recipe`] has every hyper-parameter, its defaults are the release's. [`Trainer`] runs it on any
//! [`TrainableModel`](crate::model::TrainableModel): the loader assembles batches in a thread of its own, Adam steps,
//! what a model fits instead of learning is fitted after each epoch, which is then validated, recorded for TensorBoard
//! and saved as a checkpoint. [`SpeedTest`] times such steps.
//!
//! Everything random is a function of (seed, purpose, epoch, step): there is no generator whose position would have to
//! be saved, and a resumed run is the run that was never interrupted, bit for bit.

mod checkpoint;
mod error;
mod loader;
mod outcome;
mod progress;
mod randomness;
mod recipe;
mod refit;
mod report;
mod run;
mod schedule;
mod speed;
mod step;
mod substitution;
mod tensorboard;
#[cfg(test)]
mod tests;
mod trainer;

pub use checkpoint::{Candidates, Checkpoint, Position};
pub use error::TrainingError;
pub use outcome::{Best, Ending, EpochReport, Outcome};
pub use progress::Reporting;
pub use recipe::{
    NegativeSampling, Optimizer, Order, OwnClicks, Recipe, RecipeError, Schedule, Selection, TrainingTargets,
};
pub use report::{LearnedFrom, TrainingReport};
pub use schedule::{EarlyStop, ReduceOnPlateau, cosine};
pub use speed::SpeedTest;
pub use tensorboard::EventWriter;
pub use trainer::{Trainer, TrainingFiles};
