//! What the paper's evaluation shows of data and models, computed on anyone's: tables and figures without training.
//!
//! | module | in the paper |
//! |---|---|
//! | `statistics` | Table 1: how large the data is |
//! | `searches` | Fig. 1b: spontaneous or passive, similar or dissimilar to what recommendation shows |
//! | `interests` | Fig. 3: do similar interests agree on categories, and dissimilar ones not? |
//! | `alignment` | Fig. 4: do queries lie near the items that were clicked for them? |
//! | `planted` | does co-attention find what `sesrec synth` planted? |
//!
//! Each returns its numbers; tables ([`crate::table`]) and figures ([`crate::plot`]) are made of them.

mod alignment;
mod categories;
mod error;
mod events;
mod interests;
mod measures;
mod planted;
mod searches;
mod statistics;
#[cfg(test)]
mod tests;

pub use alignment::{Alignment, AlignmentOptions, Cosines, Pairs, alignment_figure, alignment_table};
pub use categories::Categories;
pub use error::AnalysisError;
pub use events::{WeighedEvents, WeighedUsers};
pub use interests::{Divergences, InterestDivergences};
pub use measures::{box_summary, jensen_shannon, quantile, roc_auc};
pub use planted::{PlantedAgreement, SideAgreement};
pub use searches::{SearchGroup, SearchShares};
pub use statistics::statistics_table;
