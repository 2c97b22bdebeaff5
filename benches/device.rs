//! Ranking on one device, usually a GPU, beside what the device can do: `cargo bench --features cuda --bench device`.
//!
//! Kuaishou's dimensions (d = 48, 150 + 25 events, head 364-200-80-1), random weights, 100,000 items.
//! `SESREC_BENCH_DEVICE` names the device (default `auto`); a CPU is measured in the same way with smaller batches.
//! With `SESREC_BENCH_ONCE=1` it only scores one full batch, for a profiler: `ncu --metrics gpu__time_duration.sum …`.

#[path = "support/ranks.rs"]
mod ranks;
#[path = "support/sizes.rs"]
mod sizes;
#[path = "support/times.rs"]
mod times;

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use candle_core::{DType, Device, Tensor};
use ranks::{Answered, Ranks};
use sesrec::{
    data::UserFeatures,
    engine::EngineOptions,
    model::{Bundle, ModelConfig, RankerOptions, RankingModel, ScoreRequest, UserState, random, sesrec::SesRecRanker},
    nn::{DeviceChoice, device_name, sigmoid},
};
use sizes::{FLOP_PER_CANDIDATE, ITEMS};
use times::{median, quantile, repeated};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Users that take turns.
const USERS: usize = 256;

/// How far scores may be from the CPU's; on an H200 they were 2.4e-7 away in f32 and 1.6e-4 in TF32.
const F32_TOLERANCE: f32 = 1e-5;
const TF32_TOLERANCE: f32 = 1e-3;

fn main() -> Result<()> {
    // `cargo test --benches` and `--list` only ask whether it runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let choice = std::env::var("SESREC_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    let device = choice.parse::<DeviceChoice>().map_err(|error| anyhow!(error))?.open()?;
    println!("device {}, {} threads for encoding\n", device_name(&device), rayon::current_num_threads());
    let bundle = random::bundle(ITEMS)?;
    let exact = bundle.ranker(&device, RankerOptions::default())?;
    let users: Vec<UserFeatures> = (0..USERS as u64).map(|seed| random::user(ITEMS, seed)).collect();
    if std::env::var_os("SESREC_BENCH_ONCE").is_some() {
        let states = exact.encode(&users.iter().collect::<Vec<_>>())?;
        let batch = Batch::new(131, 1_000);
        for _ in 0..2 {
            batch.score(&*exact, &states)?;
        }
        return Ok(());
    }
    let reduced = bundle.ranker(&device, RankerOptions { reduced_precision: true, ..RankerOptions::default() })?;
    let by_tensors = by_tensors(&bundle, &device)?;

    ceilings(&device)?;
    let rankers: [(&str, f32, &dyn RankingModel); 3] =
        [("f32", F32_TOLERANCE, &*exact), ("TF32", TF32_TOLERANCE, &*reduced), ("tensors", F32_TOLERANCE, &by_tensors)];
    parity(&bundle, &rankers, &users)?;
    scoring(&device, &*exact, &*reduced, &by_tensors, &users)?;
    encoding(&*exact, &by_tensors, &users)?;
    engine(&bundle, &device, &users)
}

fn by_tensors(bundle: &Bundle, device: &Device) -> Result<SesRecRanker> {
    let ModelConfig::Sesrec(config) = bundle.config.clone() else { anyhow::bail!("the random bundle is SESRec's") };
    Ok(SesRecRanker::of_tensors(config, bundle.catalogue.clone(), &bundle.tensors, device)?)
}

/// Requests with other candidates each.
struct Batch {
    lists: Vec<Vec<u32>>,
}

impl Batch {
    fn new(requests: usize, candidates: usize) -> Self {
        Self { lists: (0..requests as u64).map(|seed| random::candidates(ITEMS, candidates, seed)).collect() }
    }

    fn candidates(&self) -> usize {
        self.lists.iter().map(Vec::len).sum()
    }

    fn score(&self, model: &dyn RankingModel, states: &[UserState]) -> Result<Vec<Vec<f32>>> {
        let users = states.iter().cycle();
        let requests: Vec<_> = users.zip(&self.lists).map(|(state, items)| ScoreRequest { state, items }).collect();
        Ok(model.score(&requests)?)
    }
}

/// What a measurement may take.
const BUDGET: Duration = Duration::from_millis(400);

/// Waits for everything that was sent to the device.
fn finish(tensor: &Tensor) -> Result<()> {
    tensor.device().synchronize()?;
    Ok(())
}

fn ceilings(device: &Device) -> Result<()> {
    let small = device.is_cpu();
    let values: usize = if small { 1 << 24 } else { 1 << 28 };
    let a = Tensor::zeros(values, DType::F32, device)?;
    let copy = repeated(5, BUDGET, || finish(&a.copy()?))?;
    println!("copy of {} MiB: {:.0} GB/s read and written", values >> 18, 8.0 * values as f64 / median(&copy) / 1e9);
    let side = if small { 1024 } else { 8192 };
    let matrix = || Tensor::randn(0f32, 1f32, (side, side), device);
    let (a, b) = (matrix()?, matrix()?);
    for (name, reduced) in [("f32", false), ("TF32", true)] {
        if small && reduced {
            continue;
        }
        candle_core::cuda::set_gemm_reduced_precision_f32(reduced);
        let product = repeated(5, BUDGET, || finish(&a.matmul(&b)?))?;
        candle_core::cuda::set_gemm_reduced_precision_f32(false);
        println!(
            "product of {side}² matrices, {name}: {:.1} TFLOP/s",
            2.0 * (side as f64).powi(3) / median(&product) / 1e12
        );
    }
    Ok(())
}

/// The largest difference from the CPU's scores; an error where one is above its ranker's tolerance, or no number.
fn parity(bundle: &Bundle, rankers: &[(&str, f32, &dyn RankingModel)], users: &[UserFeatures]) -> Result<()> {
    let on_cpu = bundle.ranker(&Device::Cpu, RankerOptions::default())?;
    let batch = Batch::new(16, 1_000);
    let users: Vec<&UserFeatures> = users.iter().take(16).collect();
    // As answers have them.
    let scores = |name: &str, ranker: &dyn RankingModel| -> Result<Vec<f32>> {
        let mut scores = batch.score(ranker, &ranker.encode(&users)?)?.concat();
        sigmoid(&mut scores);
        ensure!(scores.len() == batch.candidates(), "{name}: {} scores", scores.len());
        // Asked before any maximum is taken: `f32::max` passes over NaN.
        ensure!(scores.iter().all(|score| score.is_finite()), "{name}: a score is no number");
        Ok(scores)
    };
    let expected = scores("CPU", &*on_cpu)?;
    let lowest = expected.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = expected.iter().copied().fold(0.0, f32::max);
    println!("\n{} scores from {lowest:.3} to {highest:.3}; largest difference from the CPU's:", expected.len());
    for &(name, tolerance, ranker) in rankers {
        let far = scores(name, ranker)?.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("    {name}: {far:.1e} (at most {tolerance:.0e})");
        ensure!(far <= tolerance, "{name}: scores differ by {far:e}, more than {tolerance:e}");
    }
    Ok(())
}

fn scoring(
    device: &Device,
    exact: &dyn RankingModel,
    reduced: &dyn RankingModel,
    by_tensors: &dyn RankingModel,
    users: &[UserFeatures],
) -> Result<()> {
    println!("\nscoring encoded users, host to host: median time, candidates/s, TFLOP/s as the model is written");
    println!("{:>20} {:>32} {:>32} {:>24}", "requests × candidates", "f32", "TF32", "by tensor operations");
    let users: Vec<&UserFeatures> = users.iter().collect();
    let states = [exact.encode(&users)?, reduced.encode(&users)?, by_tensors.encode(&users)?];
    let mut sizes = vec![(1, 10), (1, 100), (1, 1_000), (1, 10_000), (8, 1_000), (32, 1_000)];
    if !device.is_cpu() {
        sizes.extend([(131, 1_000), (256, 1_000), (1024, 1_000)]);
    }
    for (requests, candidates) in sizes {
        let batch = Batch::new(requests, candidates);
        print!("{:>20}", format!("{requests} × {candidates}"));
        for (n, model) in [exact, reduced, by_tensors].into_iter().enumerate() {
            if n == 1 && device.is_cpu() || n == 2 && requests > 131 {
                print!(" {:>32}", "");
                continue;
            }
            let times = repeated(3, BUDGET, || batch.score(model, &states[n]).map(drop))?;
            let rate = batch.candidates() as f64 / median(&times);
            let speed = if n == 2 { String::new() } else { format!(" {:5.2} T", rate * FLOP_PER_CANDIDATE / 1e12) };
            print!(" {:>32}", format!("{:9.1} us {:7.2} M/s{speed}", 1e6 * median(&times), rate / 1e6));
        }
        println!();
    }
    Ok(())
}

fn encoding(exact: &dyn RankingModel, by_tensors: &dyn RankingModel, users: &[UserFeatures]) -> Result<()> {
    println!("\nencoding users: median time, users/s                          by tensor operations");
    for count in [1, 8, 64, USERS] {
        let users: Vec<&UserFeatures> = users.iter().take(count).collect();
        print!("{count:>8}");
        for model in [exact, by_tensors] {
            let times = repeated(3, BUDGET, || model.encode(&users).map(drop).map_err(Into::into))?;
            print!(" {:9.1} us {:10.0}/s  ", 1e6 * median(&times), count as f64 / median(&times));
        }
        println!();
    }
    Ok(())
}

fn engine(bundle: &Bundle, device: &Device, users: &[UserFeatures]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("bundle");
    bundle.write(&path)?;
    let ranks = Ranks::new(&path, device, EngineOptions::default())?;
    println!("\nin the engine ({:.2} s to load)", ranks.load_time().as_secs_f64());
    let lists =
        [100, 1_000].map(|count| (0..64).map(|seed| random::candidates(ITEMS, count, seed)).collect::<Vec<_>>());
    for (name, cached) in [("user encoded anew", false), ("cached user", true)] {
        for lists in &lists {
            let mut turn = 0;
            let times = repeated(200, BUDGET, || {
                turn += 1;
                let user = turn % users.len();
                ranks.rank(user, &users[user], cached, &lists[turn % lists.len()])
            })?;
            let [p50, p99] = [0.5, 0.99].map(|part| 1e6 * quantile(&times, part));
            println!("    one Rank of {} candidates, {name}: p50 {p50:.0} us, p99 {p99:.0} us", lists[0].len());
        }
    }
    drop(ranks);
    for device_threads in [1, 2, 4] {
        let options = EngineOptions { device_threads: device_threads.try_into()?, ..EngineOptions::default() };
        let ranks = Ranks::new(&path, device, options)?;
        for callers in [64, 512] {
            let rounds = if device.is_cpu() { 4 } else { 100 };
            ranks.callers(callers, 1, users, &lists[1])?; // encodes them
            let Answered { elapsed, times } = ranks.callers(callers, rounds, users, &lists[1])?;
            let rate = (callers * rounds * 1_000) as f64 / elapsed.as_secs_f64();
            let [p50, p99] = [0.5, 0.99].map(|part| 1e3 * quantile(&times, part));
            println!(
                "    {device_threads} device threads, {callers} callers, cached users, 1,000 candidates each: {:.1} M \
                 candidates/s, p50 {p50:.2} ms, p99 {p99:.2} ms",
                rate / 1e6
            );
        }
    }
    Ok(())
}
