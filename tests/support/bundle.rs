//! A bundle on disk with random weights: what a server process loads.

use std::{path::Path, sync::Arc};

use candle_core::Device;
use sesrec::{
    data::{Attribute, Catalogue, Dataset, EntityTable},
    model::{Bundle, InputSizes, ModelConfig, sesrec::SesRecConfig},
};

/// Items `i1` to `i200`, users `u1` to `u50`, two words, no known query.
pub fn write(path: &Path) {
    let attribute = |rows: u32, values: u32| Attribute {
        name: "kind".into(),
        rows,
        values: (0..values).map(|n| n % rows).collect(),
    };
    let catalogue = Arc::new(Catalogue {
        items: EntityTable {
            ids: (1..=200).map(|n| format!("i{n}")).collect(),
            attributes: vec![attribute(9, 201)],
            ..EntityTable::padded()
        },
        users: EntityTable {
            ids: (1..=50).map(|n| format!("u{n}")).collect(),
            attributes: vec![attribute(3, 50)],
            ..EntityTable::default()
        },
        queries: EntityTable {
            ids: ["red shoes"].into_iter().collect(),
            words: [[1, 2]].into_iter().collect(),
            ..EntityTable::padded()
        },
        words: EntityTable { ids: ["red", "shoes"].into_iter().collect(), ..EntityTable::padded() },
        sources: EntityTable { ids: ["search_box"].into_iter().collect(), ..EntityTable::default() },
        ..Catalogue::default()
    });
    let config = ModelConfig::Sesrec(SesRecConfig::for_catalogue(&catalogue, InputSizes::KUAISHOU));
    let model = config.new_trainable(&Dataset::empty(catalogue.clone()), 1, &Device::Cpu).expect("a model");
    let weights = model.parameters().snapshot().expect("its weights");
    Bundle::new(config, catalogue, weights, None).expect("a bundle").write(path).expect("written");
}
