//! Logs in KuaiSAR's layout (<https://kuaisar.github.io/detailed_statistics.html>) → [`Dataset`](super::Dataset).
//!
//! Four files, plain or gzipped, columns found by their names, others ignored:
//!
//! | file | columns that are read |
//! |---|---|
//! | `rec_inter.csv` | `user_id`, `item_id`, `timestamp` (ms), `click` |
//! | `src_inter.csv` | `user_id`, `search_session_id`, `search_session_timestamp` (ms), `keyword`, `search_source`, `item_id`, `click_cnt` |
//! | `item_features.csv` | `item_id`, `item_type`, `first_level_category_id`, `second_level_category_id`, `caption` where there is one, and [`ImportOptions::item_columns`] |
//! | `user_features.csv` | `user_id` and every other column, each an attribute |
//!
//! - Recommendations with `click` = 1 are the interactions. A search is all rows with its user and session id, in any
//!   order; its clicks are the distinct items with `click_cnt` > 0, in file order; one without a click follows
//!   [`UnclickedSearches`].
//! - Users and queries are those of kept actions; items are those of `item_features.csv` and any other clicked one.
//! - Row 0 of every attribute means unknown: a missing value, or an item or user without a feature row.
//!
//! Rows are streamed. In memory are the vocabularies, 16 bytes per click and about 40 per search.

mod attributes;
mod import;
mod interactions;
pub(super) mod log;
mod report;

pub use attributes::ItemColumn;
pub use import::{ImportOptions, Imported, UnclickedSearches, read};
pub use log::SpreadRows;
pub use report::{Report, searches_by_first_shown};
