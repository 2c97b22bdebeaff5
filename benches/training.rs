//! A training step beside the length of the item table: `RAYON_NUM_THREADS=1 cargo bench --bench training`.
//!
//! SESRec at Kuaishou's dimensions, 64 full histories a step whose items are among the first 10,000 of every catalogue,
//! so that all catalogues see the same batches. Catalogues and optimizers take turns, so that ratios hold on a machine
//! that others use, too.

use std::time::{Duration, Instant};

use candle_core::Device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sesrec::{
    data::HistoryBatch,
    model::{InputSizes, ModelConfig, SearchExamples, TrainableModel, TrainingBatch, random, sesrec::SesRecTrainable},
    nn::{Adam, AdamOptions, Dropout},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CATALOGUES: [usize; 3] = [10_000, 100_000, 1_000_000];
const USED: usize = 10_000;
const USERS: usize = 64;
const ROUNDS: usize = 15;

fn main() {
    // `cargo test --benches` and `--list` only ask whether it runs.
    let arguments: Vec<String> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") || arguments.iter().any(|argument| argument == "--list")
    {
        return;
    }
    let mut runs: Vec<Run> =
        [false, true].iter().flat_map(|&lazy| CATALOGUES.map(|items| Run::new(items, lazy))).collect();
    for round in 0..=ROUNDS as u64 {
        let batch = batch(round);
        for run in &mut runs {
            let time = run.step(&batch);
            if round > 0 {
                run.times.push(time);
            }
        }
    }
    println!(
        "\n{ROUNDS} steps in turn, {} threads                  median       best   to 10,000 items",
        rayon::current_num_threads()
    );
    for runs in runs.chunks_mut(CATALOGUES.len()) {
        let mut first = None;
        for run in runs {
            run.times.sort();
            let (median, best) = (run.times[ROUNDS / 2].as_secs_f64(), run.times[0].as_secs_f64());
            let first = *first.get_or_insert(median);
            let name = if run.lazy { "lazy-adam" } else { "adam" };
            println!(
                "{name:10} {:9} items {:14.1} ms {:7.1} ms {:12.2}x",
                run.items,
                1e3 * median,
                1e3 * best,
                median / first
            );
        }
    }
}

struct Run {
    items: usize,
    lazy: bool,
    model: SesRecTrainable,
    adam: Adam,
    times: Vec<Duration>,
}

impl Run {
    fn new(items: usize, lazy: bool) -> Self {
        let bundle = random::bundle(items).expect("a bundle");
        let ModelConfig::Sesrec(config) = bundle.config.clone() else { unreachable!("the random bundle is SESRec's") };
        let model = SesRecTrainable::from_tensors(config, bundle.catalogue.clone(), &bundle.tensors, &Device::Cpu);
        let model = model.expect("a model");
        let adam = Adam::new(model.parameters(), AdamOptions { lazy, ..AdamOptions::default() }).expect("an optimizer");
        Self { items, lazy, model, adam, times: vec![] }
    }

    fn step(&mut self, batch: &TrainingBatch) -> Duration {
        let start = Instant::now();
        let losses = self.model.losses(batch, &mut Dropout::seeded(0.1, 1)).expect("losses");
        let gradients = self.adam.backward(&losses.total).expect("gradients");
        self.adam.step(&gradients).expect("a step");
        start.elapsed()
    }
}

fn batch(seed: u64) -> TrainingBatch {
    let users: Vec<_> = (0..USERS as u64).map(|user| random::user(USED, seed * USERS as u64 + user)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = |count: usize| (0..count).map(|_| rng.random_range(1..=USED as u32)).collect::<Vec<u32>>();
    TrainingBatch {
        history: HistoryBatch::padded_to_longest(&users, InputSizes::KUAISHOU.limits),
        positives: rows(USERS),
        negatives: rows(4 * USERS),
        original_items: vec![],
        history_negatives: vec![],
        alignment_items: rows(1024),
        alignment_queries: rows(1024),
        searches: SearchExamples::default(),
    }
}
