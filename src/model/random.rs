//! A model with random weights at the release's dimensions for KuaiSAR, and histories that fill them: what the
//! benchmarks measure, since time depends on sizes only.

use std::sync::Arc;

use candle_core::Device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Bundle, InputSizes, ModelConfig, ModelError, sesrec::SesRecConfig};
use crate::data::{Attribute, Catalogue, Dataset, EntityTable, SearchFeatures, UserFeatures, UserRow};

const USERS: usize = 10_000;
const QUERIES: usize = 10_000;
const WORDS: usize = 1_000;
const SOURCES: usize = 4;

/// The id of an item of [`bundle`].
pub fn item_id(number: usize) -> String {
    format!("item{number}")
}

/// With as many items as wanted.
///
/// # Errors
/// If the tensors can't be made.
pub fn bundle(items: usize) -> Result<Bundle, ModelError> {
    let attribute = |name: &str, rows: u32, values: usize| Attribute {
        name: name.into(),
        rows,
        values: (0..values as u32).map(|value| value % rows).collect(),
    };
    let named = |prefix: &str, count: usize| (0..count).map(|n| format!("{prefix}{n}")).collect();
    let words_of = |query: usize| format!("word{} word{}", query % WORDS, query / WORDS);
    let catalogue = Catalogue {
        items: EntityTable {
            ids: (0..items).map(item_id).collect(),
            attributes: vec![attribute("type", 9, items + 1), attribute("category", 101, items + 1)],
            ..EntityTable::padded()
        },
        users: EntityTable {
            ids: named("user", USERS),
            attributes: vec![
                attribute("gender", 3, USERS),
                attribute("age", 8, USERS),
                attribute("search_level", 4, USERS),
            ],
            ..EntityTable::default()
        },
        queries: EntityTable {
            ids: (0..QUERIES).map(words_of).collect(),
            words: (0..QUERIES).map(|query| [query % WORDS, query / WORDS].map(|word| word as u32 + 1)).collect(),
            ..EntityTable::padded()
        },
        words: EntityTable { ids: named("word", WORDS), ..EntityTable::padded() },
        sources: EntityTable { ids: named("source", SOURCES), ..EntityTable::default() },
        ..Catalogue::default()
    };
    let config = ModelConfig::Sesrec(SesRecConfig::for_catalogue(&catalogue, InputSizes::KUAISHOU));
    let catalogue = Arc::new(catalogue);
    let weights = config.new_trainable(&Dataset::empty(catalogue.clone()), 1, &Device::Cpu)?.parameters().snapshot()?;
    Bundle::new(config, catalogue, weights, None)
}

/// A user of [`bundle`] with full histories.
pub fn user(items: usize, seed: u64) -> UserFeatures {
    let limits = InputSizes::KUAISHOU.limits;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = |count: usize, of: usize| (0..count).map(|_| rng.random_range(1..=of as u32)).collect::<Vec<_>>();
    UserFeatures {
        user: UserRow::Known(rows(1, USERS - 1)[0]),
        recommendations: rows(limits.recommendations, items),
        searches: (0..limits.searches)
            .map(|number| SearchFeatures {
                query: rows(1, QUERIES)[0],
                words: rows(1 + number % limits.words, WORDS),
                source: (number % SOURCES) as u32,
                clicks: rows(number % 3, items),
                place: 0,
            })
            .collect(),
        as_of: None,
    }
}

/// Rows of candidates.
pub fn candidates(items: usize, count: usize, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(1..=items as u32)).collect()
}
