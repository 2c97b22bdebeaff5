//! Ranking models behind two traits, and the directory they travel in.
//!
//! [`sesrec`] is the paper's model, [`baselines`] are those that it is compared with. Both share the input layer
//! ([`InputConfig`], [`Embeddings`], [`HistoryVectors`]); an `Architecture` is what each of them provides.
//!
//! [`RankingModel`] answers: `encode` turns histories into user states, `score` ranks candidates against them.
//! [`TrainableModel`] learns. [`Bundle`] is a model with everything that serving needs; [`ModelConfig`] says which
//! model.

mod architecture;
pub mod baselines;
mod bundle;
mod config;
pub mod convert;
mod inputs;
mod manifest;
pub mod random;
mod ranking;
pub mod sesrec;
mod setting;
pub(crate) mod tensor_file;
mod trainable;
mod weights;

pub(crate) use architecture::Architecture;
pub use bundle::{Bundle, BundleError};
pub use config::{ModelConfig, ModelKind};
pub use inputs::{
    AttributeConfig, Embeddings, HistoryVectors, HostEmbeddings, InputConfig, InputSizes, ItemRows, QueryFeatures,
    TableConfig,
};
pub use manifest::Manifest;
pub use ranking::{ModelError, RankerOptions, RankingModel, ScoreRequest, UserState};
pub use setting::Setting;
pub use trainable::{
    BatchPlan, Examples, Extras, HeldOutClick, HistoryPadding, Losses, SearchExamples, Substitution, TrainableModel,
    TrainingBatch,
};
pub use weights::{Parameter, ParameterList, Role, Weights, check, initialise, time_from_words, time_words};
