//! How a Rank's cost grows: `cargo bench --bench growth`, into `target/growth` as CSV, Markdown and pictures.
//!
//! With candidates, history, callers at once, catalogue and users in the cache; Kuaishou's dimensions, random weights,
//! on the CPU, through the engine (no gRPC, no store). `RAYON_NUM_THREADS=1` (or 2) says how many threads compute.
//! `SESREC_GROWTH=candidates,catalogue` measures some curves only, `SESREC_GROWTH_ITEMS=100000` ends the catalogue's
//! earlier (default ten million, which wants 12 GB of memory), `SESREC_GROWTH_OUT=DIR` writes elsewhere. The sizes of a
//! curve take turns, so that their ratios hold on a machine that others use, too; each catalogue has a process of its
//! own, so that its memory can be told.

#[path = "support/ranks.rs"]
mod ranks;
#[path = "support/times.rs"]
mod times;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use ranks::{Answered, Ranks};
use sesrec::{
    data::UserFeatures,
    engine::EngineOptions,
    model::random,
    plot::{Axis, Figure, LineChart, LinePoint, LineSeries, Side},
    table::Table,
};
use times::{median, quantile, repeated};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Items of the catalogue, where that isn't what grows.
const ITEMS: usize = 100_000;
/// How often the sizes of a curve take turns.
const ROUNDS: usize = 5;
/// What a size may take per turn.
const TURN: Duration = Duration::from_millis(300);
/// Candidate lists that take turns.
const LISTS: u64 = 64;
/// The work of this process, where it is one of the catalogue's: "write DIR ITEMS" or "measure DIR ITEMS BYTES".
const TASK: &str = "SESREC_GROWTH_TASK";

type Measure = fn(&Ranks) -> Result<Curve>;
/// Those of one engine.
const CURVES: [(&str, Measure); 4] =
    [("candidates", candidates), ("history", history), ("callers", callers), ("users", users)];

fn main() -> Result<()> {
    // `cargo test --benches` and `--list` only ask whether it runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    if let Ok(task) = std::env::var(TASK) {
        return of_catalogue(&task.split(' ').collect::<Vec<_>>());
    }
    let out = std::env::var_os("SESREC_GROWTH_OUT").map_or_else(|| PathBuf::from("target/growth"), PathBuf::from);
    let wanted = std::env::var("SESREC_GROWTH").ok();
    let wanted = |curve: &str| wanted.as_deref().is_none_or(|list| list.split(',').any(|name| name == curve));
    println!("{} threads compute; into {}\n", rayon::current_num_threads(), out.display());
    let directory = tempfile::tempdir()?;
    if CURVES.iter().any(|(name, _)| wanted(name)) {
        let bundle = directory.path().join("bundle");
        random::bundle(ITEMS)?.write(&bundle)?;
        // Room for every user of the last curve.
        let options = EngineOptions { user_cache_bytes: 8 << 30, ..EngineOptions::default() };
        let ranks = Ranks::new(&bundle, &Device::Cpu, options)?;
        for (name, curve) in CURVES.into_iter().filter(|(name, _)| wanted(name)) {
            curve(&ranks)?.write(&out, name)?;
        }
    }
    if wanted("catalogue") {
        catalogue(directory.path())?.write(&out, "catalogue")?;
    }
    Ok(())
}

/// A measured curve.
struct Curve {
    /// Sizes as rows, measures as columns.
    table: Table,
    chart: LineChart,
}

impl Curve {
    /// From the names of sizes and, per size, its measures: those that have a side are drawn.
    fn new(
        x: &str,
        sizes: &[String],
        columns: &[(&str, Option<Side>)],
        rows: &[Vec<f64>],
        axes: [Option<&str>; 2],
    ) -> Self {
        let names = std::iter::once(x).chain(columns.iter().map(|(name, _)| *name));
        let mut table = Table::new(names);
        for (size, row) in sizes.iter().zip(rows) {
            table.push(std::iter::once(size.clone()).chain(row.iter().map(|&value| number(value))));
        }
        let drawn = columns.iter().enumerate().filter_map(|(n, (name, side))| Some((n, name, (*side)?)));
        let series = drawn.map(|(n, name, side)| LineSeries {
            name: (*name).to_owned(),
            side,
            points: rows.iter().map(|row| Some(LinePoint { mean: row[n], deviation: 0.0 })).collect(),
        });
        // From zero on, so that what looks flat is.
        let axis = |label: &str, of: Side| {
            let values = columns.iter().enumerate().filter(|(_, (_, side))| *side == Some(of));
            let most = values.flat_map(|(n, _)| rows.iter().map(move |row| row[n])).fold(0.0, f64::max);
            Axis::between(label, 0.0, 1.1 * most)
        };
        let chart = LineChart {
            x: x.to_owned(),
            ticks: sizes.to_vec(),
            left: axis(axes[0].unwrap_or_default(), Side::Left),
            right: axes[1].map(|label| axis(label, Side::Right)),
            series: series.collect(),
        };
        Self { table, chart }
    }

    fn write(&self, out: &Path, name: &str) -> Result<()> {
        println!("{}", self.table.markdown());
        self.table.write(out, name, "")?;
        Figure::Lines(self.chart.clone()).write(out, name)?;
        Ok(())
    }
}

/// To four digits.
fn number(value: f64) -> String {
    let decimals = (3.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 4.0) as usize;
    format!("{value:.decimals$}")
}

fn names(sizes: &[usize]) -> Vec<String> {
    let thousands = |size: usize| match size {
        0 => "0".to_owned(),
        _ if size.is_multiple_of(1_000_000) => format!("{}M", size / 1_000_000),
        _ if size.is_multiple_of(1_000) => format!("{}k", size / 1_000),
        _ => size.to_string(),
    };
    sizes.iter().map(|&size| thousands(size)).collect()
}

fn lists(items: usize, count: usize) -> Vec<Vec<u32>> {
    (0..LISTS).map(|seed| random::candidates(items, count, seed)).collect()
}

/// Microseconds of each of these calls, the median over all turns; a call is told how often it was called before.
fn in_turn(calls: &[impl Fn(usize) -> Result<()>]) -> Result<Vec<f64>> {
    let mut times = vec![vec![]; calls.len()];
    for _ in 0..ROUNDS {
        for (call, times) in calls.iter().zip(&mut times) {
            let mut turn = times.len();
            times.extend(repeated(5, TURN, || {
                turn += 1;
                call(turn)
            })?);
        }
    }
    let micros = times.iter_mut().map(|times| {
        times.sort();
        1e6 * median(times)
    });
    Ok(micros.collect())
}

fn candidates(ranks: &Ranks) -> Result<Curve> {
    const SIZES: [usize; 7] = [10, 30, 100, 300, 1_000, 3_000, 10_000];
    let user = random::user(ITEMS, 0);
    let lists = SIZES.map(|count| lists(ITEMS, count));
    let call = |size: usize, cached: bool| {
        let (lists, user) = (&lists[size], &user);
        move |turn: usize| ranks.rank(0, user, cached, &lists[turn % lists.len()])
    };
    let calls: Vec<_> = (0..SIZES.len()).flat_map(|size| [call(size, true), call(size, false)]).collect();
    let micros = in_turn(&calls)?;
    let rows: Vec<Vec<f64>> = SIZES
        .iter()
        .zip(micros.chunks(2))
        .map(|(&count, micros)| {
            let each = |n: usize| micros[n] / count as f64;
            vec![micros[0], micros[1], each(0), each(1)]
        })
        .collect();
    let columns = [
        ("cached user, µs", None),
        ("encoded anew, µs", None),
        ("cached user", Some(Side::Left)),
        ("encoded anew", Some(Side::Left)),
    ];
    Ok(Curve::new("candidates", &names(&SIZES), &columns, &rows, [Some("µs per candidate"), None]))
}

fn history(ranks: &Ranks) -> Result<Curve> {
    // Recommendations, and a sixth as many searches, up to what the model reads.
    const SIZES: [usize; 6] = [0, 6, 18, 36, 72, 150];
    let full = random::user(ITEMS, 0);
    let users = SIZES.map(|size| UserFeatures {
        recommendations: full.recommendations[..size].to_vec(),
        searches: full.searches[..size / 6].to_vec(),
        ..full.clone()
    });
    let lists = lists(ITEMS, 1_000);
    let call = |size: usize, cached: bool| {
        let (lists, user) = (&lists, &users[size]);
        move |turn: usize| ranks.rank(1_000 + size, user, cached, &lists[turn % lists.len()])
    };
    let calls: Vec<_> = (0..SIZES.len()).flat_map(|size| [call(size, true), call(size, false)]).collect();
    let micros = in_turn(&calls)?;
    let rows: Vec<Vec<f64>> = micros.chunks(2).map(<[f64]>::to_vec).collect();
    let sizes: Vec<String> = SIZES.iter().map(|size| format!("{size}+{}", size / 6)).collect();
    let columns = [("cached user", Some(Side::Left)), ("encoded anew", Some(Side::Left))];
    Ok(Curve::new("events of the history", &sizes, &columns, &rows, [Some("µs, 1,000 candidates"), None]))
}

fn callers(ranks: &Ranks) -> Result<Curve> {
    const SIZES: [usize; 6] = [1, 4, 16, 64, 256, 1_024];
    const ANSWERS: usize = 4_096;
    let users: Vec<UserFeatures> = (0..256).map(|seed| random::user(ITEMS, seed)).collect();
    let lists = lists(ITEMS, 100);
    ranks.callers(256, 1, &users, &lists)?; // encodes them
    let mut rounds = vec![vec![]; SIZES.len()];
    for _ in 0..ROUNDS {
        for (callers, rounds) in SIZES.iter().zip(&mut rounds) {
            let Answered { elapsed, times } = ranks.callers(*callers, ANSWERS / callers, &users, &lists)?;
            let rate = ANSWERS as f64 / elapsed.as_secs_f64();
            rounds.push([rate, 1e3 * median(&times), 1e3 * quantile(&times, 0.99)]);
        }
    }
    let rows: Vec<Vec<f64>> = rounds
        .iter()
        .map(|rounds| {
            let middle = |measure: usize| {
                let mut values: Vec<f64> = rounds.iter().map(|round| round[measure]).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            vec![middle(0), middle(1), middle(2)]
        })
        .collect();
    let columns = [("Ranks/s", Some(Side::Left)), ("p50, ms", Some(Side::Right)), ("p99, ms", Some(Side::Right))];
    let axes = [Some("Ranks/s of 100 candidates"), Some("ms")];
    Ok(Curve::new("callers at once", &names(&SIZES), &columns, &rows, axes))
}

fn users(ranks: &Ranks) -> Result<Curve> {
    const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 50_000];
    let lists = lists(ITEMS, 100);
    // Alike, but each with an encoding of its own in memory.
    let features: Vec<UserFeatures> = (0..64).map(|seed| random::user(ITEMS, seed)).collect();
    let user = |number: usize| (10_000 + number, &features[number % features.len()]);
    for number in 0..SIZES[SIZES.len() - 1] {
        let (id, features) = user(number);
        ranks.rank(id, features, true, &lists[0][..1])?;
    }
    let call = |size: usize| {
        let lists = &lists;
        move |turn: usize| {
            let (id, features) = user(turn.wrapping_mul(7_919) % SIZES[size]);
            ranks.rank(id, features, true, &lists[turn % lists.len()])
        }
    };
    let calls: Vec<_> = (0..SIZES.len()).map(call).collect();
    let micros = in_turn(&calls)?;
    let rows: Vec<Vec<f64>> = micros.iter().map(|&micros| vec![micros]).collect();
    let columns = [("cached user", Some(Side::Left))];
    Ok(Curve::new(
        "users that take turns, all cached",
        &names(&SIZES),
        &columns,
        &rows,
        [Some("µs, 100 candidates"), None],
    ))
}

fn catalogue(directory: &Path) -> Result<Curve> {
    const SIZES: [usize; 4] = [10_000, 100_000, 1_000_000, 10_000_000];
    let most = std::env::var("SESREC_GROWTH_ITEMS").map_or(Ok(usize::MAX), |most| most.parse())?;
    let sizes: Vec<usize> = SIZES.into_iter().filter(|&items| items <= most).collect();
    let budget = EngineOptions::default().item_table_bytes;
    let mut rows = vec![];
    for &items in &sizes {
        let bundle = directory.join(items.to_string());
        let task = |what: &str| -> Result<Vec<f64>> {
            let this = std::env::current_exe()?;
            let output = Command::new(this).arg("--bench").env(TASK, what).output()?;
            ensure!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout)?;
            text.split_whitespace().map(|number| number.parse().context("a number")).collect()
        };
        task(&format!("write {} {items}", bundle.display()))?;
        let table = task(&format!("measure {} {items} {budget}", bundle.display()))?;
        let computed = task(&format!("measure {} {items} 0", bundle.display()))?;
        let file = std::fs::metadata(bundle.join("model.safetensors"))?.len() as f64;
        std::fs::remove_dir_all(&bundle)?;
        // Milliseconds, seconds, megabytes.
        rows.push(vec![
            table[0] / 1e3,
            computed[0] / 1e3,
            table[1],
            computed[1],
            file / 1e6,
            table[2] / 1e6,
            computed[2] / 1e6,
        ]);
        println!("{items} items: {:?}", rows[rows.len() - 1]);
    }
    let columns = [
        ("within the budget", Some(Side::Left)),
        ("computed per request", Some(Side::Left)),
        ("load, s", None),
        ("load, computed, s", None),
        ("weights, MB", None),
        ("resident, MB", None),
        ("resident, computed, MB", None),
    ];
    Ok(Curve::new("items of the catalogue", &names(&sizes), &columns, &rows, [Some("ms, 1,000 candidates"), None]))
}

/// What a process of [`catalogue`] does.
fn of_catalogue(task: &[&str]) -> Result<()> {
    match *task {
        ["write", bundle, items] => {
            random::bundle(items.parse()?)?.write(bundle.as_ref())?;
            Ok(())
        }
        ["measure", bundle, items, budget] => {
            let options = EngineOptions { item_table_bytes: budget.parse()?, ..EngineOptions::default() };
            let ranks = Ranks::new(bundle.as_ref(), &Device::Cpu, options)?;
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
            let resident = 1024.0 * resident.and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(f64::NAN);
            let items = items.parse()?;
            let (user, lists) = (random::user(items, 0), lists(items, 1_000));
            let call = |turn: usize| ranks.rank(0, &user, true, &lists[turn % lists.len()]);
            let micros = in_turn(&[call])?[0];
            println!("{micros} {} {resident}", ranks.load_time().as_secs_f64());
            Ok(())
        }
        _ => anyhow::bail!("{TASK}: {task:?}"),
    }
}
