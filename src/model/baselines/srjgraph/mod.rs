//! SRJGraph (Zhao et al., WSDM 2022): a graph of users and items, whose edges are clicks with the query that led to
//! them, or none for recommendations. A pair is scored from both ends' neighbours.
//!
//! ```text
//!  user ◀── up to 25 items it clicked          item ◀── the user who clicked it last ◀── up to 25 items of that user
//! ```
//!
//! A user's own items are the history it is asked with: the live one in serving. The rest is a [`Graph`] of all
//! training clicks, which travels with the weights. Each question sees only what is older than itself
//! ([`UserFeatures::as_of`](crate::data::UserFeatures)), in training and evaluation alike: a target's own edge, and
//! every later one, isn't there yet.
//!
//! Otherwise than in the authors' code, an edge's query is its embedding as all models here have it (its words' mean
//! included) where theirs adds up ten terms, "no query" is the table's row 0, and Adam learns it in place of Adagrad.

mod aggregator;
mod config;
mod graph;
mod head;
mod neighbourhood;
mod network;

pub use aggregator::{Aggregate, Aggregator, Neighbours};
pub use config::SrjGraphConfig;
pub use graph::{Edge, Graph};
pub use head::Head;
pub use neighbourhood::{GraphUsers, Hops, Neighbourhoods};
pub use network::{PairVectors, SrjGraph, Task};
