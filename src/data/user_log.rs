//! Interactions that are in rows already, as a data set in memory.

use std::sync::Arc;

use super::{Catalogue, Dataset};

/// One user's interactions, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserLog {
    /// Clicked recommendations: time (milliseconds since 1970) and item row.
    pub recommendations: Vec<(i64, u32)>,
    /// Searches: time, query row, clicked item rows.
    pub searches: Vec<(i64, u32, Vec<u32>)>,
}

impl Dataset {
    /// The logs of the catalogue's users, in their rows' order. All searches begin as the catalogue's default.
    pub fn from_logs(catalogue: Arc<Catalogue>, users: impl IntoIterator<Item = UserLog>) -> Self {
        let source = catalogue.default_source;
        let mut dataset = Self::empty(catalogue);
        let columns = Arc::make_mut(&mut dataset.columns);
        for UserLog { recommendations, searches } in users {
            for (time, item) in recommendations {
                columns.rec_times.push(time);
                columns.rec_items.push(item);
            }
            for (time, query, clicks) in searches {
                columns.src_times.push(time);
                columns.src_queries.push(query);
                columns.src_sources.push(source);
                columns.clicks.extend(clicks);
                columns.click_ends.push(columns.clicks.len() as u64);
            }
            columns.rec_ends.push(columns.rec_items.len() as u64);
            columns.src_ends.push(columns.src_times.len() as u64);
        }
        dataset.count();
        dataset
    }
}
