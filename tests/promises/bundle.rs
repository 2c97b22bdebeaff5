//! Small bundles of a real model, and what they answer.

use std::{path::Path, sync::Arc};

use candle_core::Device;
use sesrec::{
    data::{Catalogue, EntityTable, HistoryLimits},
    model::{
        Bundle, InputSizes, ModelConfig, TrainableModel,
        sesrec::{SesRecConfig, SesRecTrainable},
    },
};

pub const ITEMS: usize = 40;
/// What the model reads of a history's recommendations.
pub const READ: usize = 30;

pub fn item(number: usize) -> String {
    format!("i{}", number % ITEMS)
}

/// SESRec with random weights; another seed is another model. Replaces what is there.
pub fn write(path: &Path, seed: u64) -> String {
    let ids = |prefix: &str, count: usize| (0..count).map(|n| format!("{prefix}{n}")).collect();
    let catalogue = Catalogue {
        items: EntityTable { ids: ids("i", ITEMS), ..EntityTable::padded() },
        users: EntityTable { ids: ids("u", 4), ..EntityTable::default() },
        queries: EntityTable { ids: ids("w", 5), words: (1..=5).map(|word| [word]).collect(), ..EntityTable::padded() },
        words: EntityTable { ids: ids("w", 5), ..EntityTable::padded() },
        sources: EntityTable { ids: ids("s", 2), ..EntityTable::default() },
        ..Catalogue::default()
    };
    let limits = HistoryLimits { recommendations: READ, searches: 6, words: 3, clicks: 2 };
    let sizes = InputSizes { item: (12, 4), user: (6, 2), query: (6, 5), heads: 2, limits };
    let config = SesRecConfig::for_catalogue(&catalogue, sizes);
    let catalogue = Arc::new(catalogue);
    let weights = SesRecTrainable::new(config.clone(), catalogue.clone(), seed, &Device::Cpu).unwrap();
    let weights = weights.parameters().snapshot().unwrap();
    let bundle = Bundle::new(ModelConfig::Sesrec(config), catalogue, weights, None).unwrap();
    bundle.write(path).unwrap().to_string()
}
