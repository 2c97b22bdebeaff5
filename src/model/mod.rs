//! Ranking models behind two traits, and the directory they travel in.
//!
//! [`RankingModel`] answers: `encode` turns histories into user states, `score` ranks candidates against them.
//! [`TrainableModel`] learns. [`Bundle`] is a model with everything that serving needs; [`ModelConfig`] says which model.

mod bundle;
mod config;
pub mod convert;
mod manifest;
mod ranking;
pub mod sesrec;
mod trainable;

pub use bundle::{Bundle, BundleError};
pub use config::ModelConfig;
pub use manifest::Manifest;
pub use ranking::{ModelError, RankingModel, ScoreRequest, UserState};
pub use trainable::{Losses, TrainableModel, TrainingBatch};
