//! Why something can't be analysed.

use crate::{data::DatasetError, eval::RowMapError, model::ModelError};

/// Why something can't be analysed.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// No such attribute, or none at all.
    #[error("{0}")]
    Category(String),
    /// A model without the parts that are looked at.
    #[error("bundle {bundle:?} is a {kind} model: only SESRec has {what}")]
    NotSesrec {
        /// Which bundle.
        bundle: String,
        /// What it is.
        kind: String,
        /// What it lacks.
        what: &'static str,
    },
    /// A model of other rows.
    #[error(
        "bundle {0:?} was made from another data set (its items, users, queries or words differ): analyse it on the data \
         set that it was trained on"
    )]
    OtherCatalogue(String),
    /// A model and a data set that have nothing in common.
    #[error(transparent)]
    Rows(#[from] RowMapError),
    /// Nothing to show.
    #[error("{0}")]
    Nothing(String),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file can't be read.
    #[error(transparent)]
    Data(#[from] DatasetError),
}

impl From<candle_core::Error> for AnalysisError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
