//! From the PyTorch release's files to a bundle: a state dict, a configuration, CSV catalogues.

mod catalogue;
mod error;
mod item_table;
mod sources;
mod weights;

pub use catalogue::read_catalogue;
pub use error::ConvertError;
pub use sources::{Sources, convert};
pub use weights::read_weights;
