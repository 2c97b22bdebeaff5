//! The stages of a Rank beside what the machine can do: `cargo bench --bench stages`.
//!
//! Kuaishou's dimensions (d = 48, 150 + 25 events, head 364-200-80-1), random weights, 100,000 items, other candidates
//! with every call. `RAYON_NUM_THREADS=1` (or 2) says how many threads take part, in our code and in the matrix product
//! beside it. The summary at the end measures stages and product in turn: its ratios hold on a machine that others use,
//! too.

#[path = "support/sizes.rs"]
mod sizes;

use std::{
    cell::Cell,
    sync::LazyLock,
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};
use divan::{Bencher, counter::ItemsCount};
use sesrec::model::{
    Bundle, ModelConfig, RankerOptions, RankingModel, ScoreRequest, UserState, random, sesrec::SesRecRanker,
};
use sizes::{FLOP_PER_CANDIDATE, ITEMS};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows and columns of the matrix product.
const SIDE: usize = 1024;
const ROUNDS: usize = 40;

static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| random::bundle(ITEMS).expect("a bundle"));
static MODEL: LazyLock<Box<dyn RankingModel>> =
    LazyLock::new(|| BUNDLE.ranker(&Device::Cpu, RankerOptions::default()).expect("a model"));
static TENSORS: LazyLock<SesRecRanker> = LazyLock::new(|| {
    let ModelConfig::Sesrec(config) = BUNDLE.config.clone() else { unreachable!("the random bundle is SESRec's") };
    SesRecRanker::of_tensors(config, BUNDLE.catalogue.clone(), &BUNDLE.tensors, &Device::Cpu).expect("a model")
});

fn main() {
    divan::main();
    // `cargo test --benches` and `--list` only ask whether it runs.
    if std::env::args().any(|argument| argument == "--bench") && !std::env::args().any(|argument| argument == "--list")
    {
        summary();
    }
}

/// A user and candidate lists, which take turns so that item vectors don't just sit in the cache.
struct Case {
    state: UserState,
    lists: Vec<Vec<u32>>,
    turn: Cell<usize>,
}

impl Case {
    fn new(model: &dyn RankingModel, count: usize) -> Self {
        let lists = (0..64).map(|seed| random::candidates(ITEMS, count, seed)).collect();
        Self { state: encode(model, 0), lists, turn: Cell::new(0) }
    }

    fn score(&self, model: &dyn RankingModel) -> Vec<Vec<f32>> {
        let turn = self.turn.replace((self.turn.get() + 1) % self.lists.len());
        model.score(&[ScoreRequest { state: &self.state, items: &self.lists[turn] }]).expect("scores")
    }
}

fn encode(model: &dyn RankingModel, seed: u64) -> UserState {
    model.encode(&[&random::user(ITEMS, seed)]).expect("an encoded user").remove(0)
}

/// One full history, not cached.
#[divan::bench(sample_count = 200)]
fn encode_user(bencher: Bencher<'_, '_>) {
    let user = random::user(ITEMS, 0);
    bencher.bench_local(|| MODEL.encode(&[&user]).expect("an encoded user"));
}

/// The same through tensor operations, as on a GPU.
#[divan::bench(sample_count = 50)]
fn encode_user_by_tensors(bencher: Bencher<'_, '_>) {
    let user = random::user(ITEMS, 0);
    bencher.bench_local(|| TENSORS.encode(&[&user]).expect("an encoded user"));
}

#[divan::bench(args = [10, 100, 1_000, 10_000], sample_count = 100)]
fn score(bencher: Bencher<'_, '_>, candidates: usize) {
    let case = Case::new(&**MODEL, candidates);
    bencher.counter(ItemsCount::new(candidates)).bench_local(|| case.score(&**MODEL));
}

#[divan::bench(args = [10, 100, 1_000, 10_000], sample_count = 20)]
fn score_by_tensors(bencher: Bencher<'_, '_>, candidates: usize) {
    let case = Case::new(&*TENSORS, candidates);
    bencher.counter(ItemsCount::new(candidates)).bench_local(|| case.score(&*TENSORS));
}

/// The machine's own matrix product (the gemm crate, through candle).
#[divan::bench(sample_count = 20)]
fn sgemm_1024(bencher: Bencher<'_, '_>) {
    let (a, b) = matrices();
    bencher.bench_local(|| a.matmul(&b).expect("a product"));
}

fn matrices() -> (Tensor, Tensor) {
    let random = || Tensor::randn(0f32, 1f32, (SIDE, SIDE), &Device::Cpu).expect("a matrix");
    (random(), random())
}

/// Everything in turn, and what the ratios are.
fn summary() {
    let (a, b) = matrices();
    let model = &**MODEL;
    let user = random::user(ITEMS, 0);
    let cases: Vec<Case> = [10, 100, 1_000, 10_000].map(|count| Case::new(model, count)).into();
    let mut times: Vec<Vec<Duration>> = vec![vec![]; 2 + cases.len()];
    for _ in 0..ROUNDS {
        times[0].push(timed(|| a.matmul(&b).expect("a product")));
        times[1].push(timed(|| model.encode(&[&user]).expect("an encoded user")));
        for (case, times) in cases.iter().zip(&mut times[2..]) {
            times.push(timed(|| case.score(model)));
        }
    }
    times.iter_mut().for_each(|times| times.sort());
    let [median, best] =
        [ROUNDS / 2, 0].map(|rank| times.iter().map(|times| times[rank].as_secs_f64()).collect::<Vec<f64>>());
    let peak = |seconds: &[f64]| 2.0 * (SIDE as f64).powi(3) / seconds[0] / 1e9;
    println!("\n{ROUNDS} rounds in turn, {} threads            median       best", rayon::current_num_threads());
    println!("sgemm 1024                         {:7.1}    {:7.1} GFLOP/s", peak(&median), peak(&best));
    println!("encode one user                    {:7.0}    {:7.0} us", 1e6 * median[1], 1e6 * best[1]);
    for (n, case) in cases.iter().enumerate() {
        let count = case.lists[0].len();
        println!("score {count:6} candidates            {:7.0}    {:7.0} us", 1e6 * median[2 + n], 1e6 * best[2 + n]);
        let share = |seconds: &[f64]| count as f64 * FLOP_PER_CANDIDATE / seconds[2 + n] / 1e9 / peak(seconds);
        println!("    of the product's speed         {:7.2}    {:7.2}", share(&median), share(&best));
    }
    println!("({FLOP_PER_CANDIDATE} floating-point operations per candidate, as the model is written)");
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed()
}
