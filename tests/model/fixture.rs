//! A small catalogue, users of every kind, and a training batch of them.

use std::sync::Arc;

use proptest::prelude::*;
use sesrec::{
    data::{
        Attribute, Catalogue, Dataset, EntityTable, HistoryBatch, HistoryLimits, SearchFeatures, UserFeatures, UserLog,
        UserRow,
    },
    model::{InputConfig, InputSizes, SearchExamples, TrainingBatch},
};

pub const ITEMS: u32 = 40;
pub const USERS: u32 = 7;
pub const QUERIES: u32 = 12;
pub const WORDS: u32 = 9;

pub fn catalogue() -> Arc<Catalogue> {
    let table = |first_row: u32, count: u32, attributes: &[(&str, u32)]| EntityTable {
        ids: (0..count).map(|n| format!("e{n}")).collect(),
        first_row,
        attributes: attributes
            .iter()
            .map(|&(name, rows)| Attribute {
                name: name.into(),
                rows,
                values: (0..count + first_row).map(|n| n % rows).collect(),
            })
            .collect(),
        ..EntityTable::default()
    };
    let words_of = |query: u32| (0..query % 4).map(move |n| 1 + (query + n) % WORDS);
    let words = (1..=QUERIES).map(|query| words_of(query).collect::<Vec<u32>>()).collect();
    let item_words = (1..=ITEMS).map(|item| words_of(item).take(2).collect::<Vec<u32>>()).collect();
    Arc::new(Catalogue {
        items: EntityTable { words: item_words, ..table(1, ITEMS, &[("cate", 5)]) },
        users: table(0, USERS, &[("age", 3)]),
        queries: EntityTable { words, ..table(1, QUERIES, &[]) },
        words: table(1, WORDS, &[]),
        sources: table(0, 2, &[]),
        ..Catalogue::default()
    })
}

/// What the users have done: overlapping clicks, so that graphs have edges, and searches of some.
pub fn dataset() -> Dataset {
    let user = |user: u32| UserLog {
        recommendations: (0..6).map(|n| (i64::from(10 * n + user), 1 + (user * 3 + n) % ITEMS)).collect(),
        searches: (0..user % 3).map(|n| (i64::from(15 * n + 5), 1 + (user + n) % QUERIES, vec![1 + n, 9])).collect(),
    };
    Dataset::from_logs(catalogue(), (0..USERS).map(user))
}

pub const LIMITS: HistoryLimits = HistoryLimits { recommendations: 9, searches: 6, words: 3, clicks: 2 };

/// The sizes that models are tested with.
pub fn inputs() -> (InputConfig, usize) {
    let sizes = InputSizes { item: (12, 4), user: (6, 2), query: (6, 5), heads: 2, limits: LIMITS };
    (InputConfig::for_catalogue(&catalogue(), sizes), sizes.heads)
}

/// After `place` recommendations.
pub fn search(query: u32, clicks: &[u32], place: u32) -> SearchFeatures {
    let words = (0..query % 3).map(|n| 1 + (query + n) % WORDS).collect();
    SearchFeatures { query, words, source: query % 2, clicks: clicks.to_vec(), place }
}

pub fn user(row: UserRow, recommendations: &[u32], searches: &[(u32, &[u32])]) -> UserFeatures {
    let searches = searches.iter().zip(0..);
    let places = |n: u32| n.min(recommendations.len() as u32);
    let searches = searches.map(|(&(query, clicks), n)| search(query, clicks, places(n))).collect();
    UserFeatures { user: row, recommendations: recommendations.to_vec(), searches, as_of: None }
}

pub fn some_users() -> Vec<UserFeatures> {
    vec![
        user(UserRow::Known(1), &[1, 2, 3, 4, 5, 6, 7, 8, 9], &[(3, &[4, 5]), (0, &[]), (4, &[9])]),
        user(UserRow::Known(2), &[7], &[(1, &[])]),
        user(UserRow::Known(0), &[], &[(1, &[3]), (5, &[2, 6])]),
        user(UserRow::Mean, &[12, 13, 40], &[]),
        user(UserRow::Known(6), &[], &[]),
    ]
}

pub fn batch(users: &[UserFeatures]) -> TrainingBatch {
    let count = users.len() as u32;
    let rows = |rows: u32, step: u32, count: u32| (0..count).map(|n| 1 + (n * step) % rows).collect();
    let history = HistoryBatch::padded_to_longest(users, LIMITS);
    TrainingBatch {
        original_items: vec![],
        history_negatives: rows(ITEMS, 11, history.rec_items.len() as u32),
        history,
        positives: (0..count).map(|n| 1 + n).collect(),
        negatives: rows(ITEMS, 7, 4 * count),
        alignment_items: rows(ITEMS, 5, 16),
        alignment_queries: rows(QUERIES, 5, 16),
        searches: SearchExamples {
            queries: rows(QUERIES, 5, count),
            clicked: rows(ITEMS, 3, count),
            negatives: rows(ITEMS, 11, 4 * count),
            histories: None,
        },
    }
}

pub fn any_user() -> impl Strategy<Value = UserFeatures> {
    let row = prop_oneof![3 => (0..USERS).prop_map(UserRow::Known), 1 => Just(UserRow::Mean)];
    let clicks = proptest::collection::vec(1..=ITEMS, 0..=LIMITS.clicks);
    let searches = proptest::collection::vec((0..=QUERIES, clicks), 0..=LIMITS.searches);
    let recommendations = proptest::collection::vec(1..=ITEMS, 0..=LIMITS.recommendations);
    (row, recommendations, searches).prop_map(|(row, recommendations, searches)| {
        let searches: Vec<(u32, &[u32])> = searches.iter().map(|(query, clicks)| (*query, &clicks[..])).collect();
        user(row, &recommendations, &searches)
    })
}
