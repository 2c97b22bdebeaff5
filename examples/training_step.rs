//! Milliseconds per training step at the release's Amazon sizes: `cargo run --release --example training_step`.
//!
//! Batch 256, d = 32, 15 + 15 events, one click per search (3,840 alignment pairs), 1,024 sampled negatives, 12,000
//! items. Random data: a step's cost doesn't depend on what is learned.

use std::{sync::Arc, time::Instant};

use candle_core::Device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sesrec::{
    data::{Catalogue, EntityTable, HistoryBatch, SearchFeatures, UserFeatures, UserRow},
    model::{
        InputSizes, SearchExamples, TrainableModel, TrainingBatch,
        sesrec::{SesRecConfig, SesRecTrainable},
    },
    nn::{Adam, AdamOptions, Dropout},
};

const USERS: u32 = 22_000;
const ITEMS: u32 = 12_000;
const QUERIES: u32 = 3_000;
const WORDS: u32 = 4_000;
const BATCH: usize = 256;
const NEGATIVES: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let steps: u32 = std::env::args().nth(1).map_or(Ok(30), |steps| steps.parse())?;
    let table = |first_row, count: u32| EntityTable {
        ids: (0..count).map(|n| n.to_string()).collect(),
        first_row,
        ..EntityTable::default()
    };
    let catalogue = Arc::new(Catalogue {
        items: table(1, ITEMS),
        users: table(0, USERS),
        queries: EntityTable {
            words: (0..QUERIES).map(|query| [0, 1, 2, 3, 4].map(|n| 1 + (5 * query + n) % WORDS)).collect(),
            ..table(1, QUERIES)
        },
        words: table(1, WORDS),
        sources: table(0, 1),
        ..Catalogue::default()
    });
    let config = SesRecConfig::for_catalogue(&catalogue, InputSizes::AMAZON);
    let limits = config.inputs.limits;
    let model = SesRecTrainable::new(config, catalogue, 0, &Device::Cpu)?;
    let mut adam = Adam::new(model.parameters(), AdamOptions::default())?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let users: Vec<_> = (0..BATCH)
        .map(|_| {
            let searches = (0..limits.searches).map(|_| SearchFeatures {
                query: rng.random_range(1..=QUERIES),
                words: (0..5).map(|_| rng.random_range(1..=WORDS)).collect(),
                source: 0,
                clicks: vec![rng.random_range(1..=ITEMS)],
                place: 0,
            });
            let searches = searches.collect();
            let recommendations = (0..limits.recommendations).map(|_| rng.random_range(1..=ITEMS)).collect();
            UserFeatures { user: UserRow::Known(rng.random_range(0..USERS)), recommendations, searches, as_of: None }
        })
        .collect();
    let mut rows = |count: usize, of: u32| (0..count).map(|_| rng.random_range(1..=of)).collect::<Vec<_>>();
    let batch = TrainingBatch {
        history: HistoryBatch::padded_to_longest(&users, limits),
        positives: rows(BATCH, ITEMS),
        negatives: rows(4 * BATCH, ITEMS),
        original_items: vec![],
        history_negatives: vec![],
        alignment_items: rows(NEGATIVES, ITEMS),
        alignment_queries: rows(NEGATIVES, QUERIES),
        searches: SearchExamples::default(),
    };
    let (mut forward, mut backward, mut update) = (0.0, 0.0, 0.0);
    for step in 0..steps + 3 {
        let start = Instant::now();
        let losses = model.losses(&batch, &mut Dropout::seeded(0.1, u64::from(step)))?;
        let losses_done = start.elapsed();
        let gradients = losses.total.backward()?;
        let gradients_done = start.elapsed();
        adam.step(&gradients.into())?;
        let done = start.elapsed();
        // The first steps warm caches and threads up.
        if step >= 3 {
            forward += losses_done.as_secs_f64();
            backward += (gradients_done - losses_done).as_secs_f64();
            update += (done - gradients_done).as_secs_f64();
        }
    }
    let ms = |seconds: f64| 1000.0 * seconds / f64::from(steps);
    println!(
        "{:.1} ms per step of {BATCH} (forward {:.1}, backward {:.1}, Adam {:.1})",
        ms(forward + backward + update),
        ms(forward),
        ms(backward),
        ms(update)
    );
    Ok(())
}
