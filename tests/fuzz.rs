//! The fuzz targets' bodies on random bytes, on damaged good ones, and on the corpus that fuzzing has left: no panic.

#[path = "../fuzz/bodies.rs"]
mod bodies;
#[path = "support/damage.rs"]
mod damage;

use std::{fs, path::Path};

use damage::damaged;
use proptest::test_runner::{Config, TestRunner};

/// The corpus of a target; with the inputs that once broke it.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

/// Runs a body on the corpus, then on `cases` inputs that are random, or seeds with some bytes changed.
fn exercise(body: fn(&[u8]), mut seeds: Vec<Vec<u8>>, cases: u32) {
    seeds.iter().for_each(|seed| body(seed));
    seeds.push(vec![]);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&damaged(seeds), |bytes| {
            body(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn requests() {
    exercise(bodies::request, corpus("request"), 4000);
}

#[test]
fn stored_values() {
    exercise(bodies::stored_value, corpus("stored_value"), 4000);
}

#[test]
fn csv_import() {
    exercise(bodies::csv_import, [corpus("csv_import"), bodies::csv_seeds()].concat(), 300);
}

#[test]
fn bundles() {
    exercise(bodies::bundle, [corpus("bundle"), bodies::bundle_seeds()].concat(), 150);
}

/// `cargo test --test fuzz seeds -- --ignored` before fuzzing.
#[test]
#[ignore = "writes seeds to fuzz/seeds, for a fuzzer to begin with"]
fn seeds() {
    for (target, seeds) in [("bundle", bodies::bundle_seeds()), ("csv_import", bodies::csv_seeds())] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        fs::create_dir_all(&directory).unwrap();
        for (n, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(n.to_string()), seed).unwrap();
        }
    }
}
