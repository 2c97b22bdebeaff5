//! Small data sets in memory, for unit tests.

use std::sync::Arc;

use super::{Catalogue, Dataset, EntityTable, Vocabulary};

pub(crate) use super::UserLog as User;

impl User {
    /// Clicks at times 10, 20, ... and no search.
    pub(crate) fn clicking(items: &[u32]) -> Self {
        let recommendations = items.iter().enumerate().map(|(n, &item)| (10 * (n as i64 + 1), item)).collect();
        Self { recommendations, searches: vec![] }
    }
}

/// Items "i1".. in rows 1.., queries "q1".. of one word each, users "u0"..
pub(crate) fn dataset(items: usize, queries: usize, users: impl IntoIterator<Item = User>) -> Dataset {
    let users: Vec<User> = users.into_iter().collect();
    let named = |prefix: &str, first: usize, count: usize| -> Vocabulary {
        (first..first + count).map(|n| format!("{prefix}{n}")).collect()
    };
    let catalogue = Catalogue {
        items: EntityTable { ids: named("i", 1, items), ..EntityTable::padded() },
        users: EntityTable { ids: named("u", 0, users.len()), ..EntityTable::default() },
        queries: EntityTable {
            ids: named("q", 1, queries),
            words: (1..=queries as u32).map(|word| [word]).collect(),
            ..EntityTable::padded()
        },
        words: EntityTable { ids: named("q", 1, queries), ..EntityTable::padded() },
        sources: EntityTable { ids: named("source", 0, 1), ..EntityTable::default() },
        ..Catalogue::default()
    };
    Dataset { checksum: "fixture".into(), ..Dataset::from_logs(Arc::new(catalogue), users) }
}
