//! From logs to what the model reads: import, vocabularies, splits, features.
//!
//! `kuaisar` (CSV logs) or `synthetic` (planted interests) → [`Dataset`] (a directory of Parquet files) →
//! [`UserFeatures`] → [`HistoryBatch`]. Serving enters at [`Featurizer`], with a raw history instead of a data set:
//! from there on training and serving are one code path.

mod batch;
mod beginning;
mod catalogue;
mod catalogue_io;
mod checksum;
mod dataset;
mod dataset_io;
mod featurize;
#[cfg(test)]
pub(crate) mod fixture;
pub mod kuaisar;
mod negatives;
mod neighbours;
mod parquet_io;
mod popularity_sampler;
mod progress;
mod staging;
pub mod synthetic;
mod tokenizer;
mod user_log;
mod vocabulary;

pub use batch::HistoryBatch;
pub(crate) use beginning::{BYTE_ORDER_MARK, NoText, lines_before_row, without_mark};
pub use catalogue::{Attribute, Catalogue, EntityTable, ITEM_WORDS, WordLists};
pub use catalogue_io::CATALOGUE_FORMAT_VERSION;
pub use checksum::FileChecksum;
pub use dataset::{Dataset, DatasetError, SearchClick, Split, Statistics, Target};
pub use dataset_io::{AttributeValues, DATASET_FORMAT_VERSION, DATASET_MANIFEST, LogNames};
pub use featurize::{
    Featurized, Featurizer, HistoryLimits, RowHistory, RowSearch, SearchFeatures, UserFeatures, UserRow,
};
pub use negatives::{EvaluationNegatives, NegativesError};
pub use neighbours::Neighbours;
pub use popularity_sampler::PopularitySampler;
pub use progress::Progress;
pub use staging::{Existing, StagedDirectory};
pub use tokenizer::Tokenizer;
pub use user_log::UserLog;
pub use vocabulary::Vocabulary;
