//! Ranking models behind two traits, and the directory they travel in.
//!
//! [`RankingModel`] answers: `encode` turns histories into user states, `score` ranks candidates against them.
//! [`TrainableModel`] learns. [`Bundle`] is a model with everything that serving needs.

mod bundle;
pub mod convert;
mod ranking;
pub mod sesrec;
mod trainable;

pub use ranking::{ModelError, RankingModel, ScoreRequest, UserState};
pub use trainable::{Losses, TrainableModel, TrainingBatch};
