//! What candidates have of a history that is counted instead of learned.
//!
//! Embeddings of a few dozen numbers blur which of thousands of words two texts share, and which of millions of pairs
//! of items the same users click. [`shared_words`] and [`clicked_together`] count these. Each is a mean over events
//! that fades with their age, so that for scoring a user is a map from words, and one from items, to what they add
//! ([`UserCounts`]).
//!
//! The losses know nothing of them. A model knows the clicks that it learns from by heart, so that beside it counts
//! would seem worth little, and where they explain a click, they would leave nothing of it to the embeddings. What they
//! weigh is fitted to clicks that were not learned from ([`stacking`]).

mod clicked_together;
mod combined;
mod decay;
mod shared_words;
mod stacking;

pub(super) use combined::{Counts, UserCounts, choice};
pub(super) use stacking::weights as fitted_weights;
