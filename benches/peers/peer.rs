//! Our side of `benches/peers/compare.py`.
//!
//! `peer prepare DIR CANDIDATES...` writes a bundle with random weights, and a user and candidates as rows, to `DIR`.
//! `peer serve DIR CANDIDATES...` answers lines on standard input: `scores N` with the scores of the N candidates, and
//! `time N REPEATS` with the seconds that as many Ranks took, the user encoded anew in each.

use std::{
    io::{BufRead, Write},
    path::Path,
    time::Instant,
};

use candle_core::Device;
use sesrec::{
    data::UserRow,
    model::{Bundle, RankerOptions, ScoreRequest, random},
    nn::sigmoid,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ITEMS: usize = 100_000;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    // `cargo bench` and `cargo test --benches` add these.
    let of_cargo = |argument: &String| argument == "--bench" || argument == "--test";
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !of_cargo(argument)).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["prepare", dir, candidates @ ..] if !candidates.is_empty() => prepare(Path::new(dir), &counts(candidates)?),
        ["serve", dir, candidates @ ..] if !candidates.is_empty() => serve(Path::new(dir), &counts(candidates)?),
        [] => {
            println!("run benches/peers/run.sh");
            Ok(())
        }
        _ => Err("peer prepare|serve DIR CANDIDATES...".into()),
    }
}

fn counts(arguments: &[&str]) -> Result<Vec<usize>, Error> {
    arguments.iter().map(|count| count.parse::<usize>().map_err(|error| format!("{count}: {error}").into())).collect()
}

fn lists(counts: &[usize]) -> Vec<Vec<u32>> {
    counts.iter().map(|&count| random::candidates(ITEMS, count, count as u64)).collect()
}

fn prepare(dir: &Path, counts: &[usize]) -> Result<(), Error> {
    let bundle = random::bundle(ITEMS)?;
    bundle.write(&dir.join("bundle"))?;
    let user = random::user(ITEMS, 0);
    let UserRow::Known(user_row) = user.user else { return Err("the random user has no row".into()) };
    let table = |table: &sesrec::data::EntityTable| {
        let attributes = table.attributes.iter().map(|a| (a.name.clone(), a.values.clone().into()));
        serde_json::Value::Object(attributes.collect())
    };
    let searches = user.searches.iter().map(|search| {
        serde_json::json!({
            "query": search.query, "words": search.words, "source": search.source, "clicks": search.clicks,
        })
    });
    let case = serde_json::json!({
        "item_attributes": table(&bundle.catalogue.items),
        "user_attributes": table(&bundle.catalogue.users),
        "user": user_row,
        "recommendations": user.recommendations,
        "searches": searches.collect::<Vec<_>>(),
        "candidates": lists(counts),
    });
    Ok(std::fs::write(dir.join("case.json"), case.to_string())?)
}

fn serve(dir: &Path, counts: &[usize]) -> Result<(), Error> {
    let bundle = Bundle::read(&dir.join("bundle"))?;
    let model = bundle.ranker(&Device::Cpu, RankerOptions::default())?;
    let (user, lists) = (random::user(ITEMS, 0), lists(counts));
    let rank = |items: &[u32]| {
        let state = model.encode(&[&user])?.remove(0);
        let mut scores = model.score(&[ScoreRequest { state: &state, items }])?.remove(0);
        sigmoid(&mut scores);
        Ok::<_, Error>(scores)
    };
    let list = |count: &str| {
        let count = count.parse::<usize>()?;
        lists.iter().find(|list| list.len() == count).ok_or_else(|| Error::from(format!("no list of {count}")))
    };
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["scores", count] => {
                let scores: Vec<String> = rank(list(count)?)?.iter().map(f32::to_string).collect();
                writeln!(output, "{}", scores.join(" "))?;
            }
            ["time", count, repeats] => {
                let (list, repeats) = (list(count)?, repeats.parse::<u32>()?);
                let start = Instant::now();
                for _ in 0..repeats {
                    std::hint::black_box(rank(list)?);
                }
                writeln!(output, "{}", start.elapsed().as_secs_f64())?;
            }
            _ => return Err(format!("not understood: {line}").into()),
        }
        output.flush()?;
    }
    Ok(())
}
