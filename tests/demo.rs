//! The newcomer's command, on small logs: from nothing to an answer that moved, and again on what is there.

use std::{path::Path, process::Command};

/// Runs the demo to its end; returns what it prints.
fn demo(dir: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sesrec"))
        .args(["demo", "--once", "--users", "250", "--items", "400", "--listen", "127.0.0.1:0", "--dir"])
        .arg(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The numbers in the line that begins with `name`, after the last occurrence of `heading`.
fn row(printed: &str, heading: &str, name: &str) -> Vec<f64> {
    let (_, section) = printed.rsplit_once(heading).unwrap();
    let line = section.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn from_logs_to_an_answer_that_moved() {
    let dir = tempfile::tempdir().unwrap();
    let first = demo(dir.path());

    // Eight epochs on a few hundred users already beat popularity: NDCG@10 is the second number.
    let (bundle, popularity) = (row(&first, "── 4.", "bundle"), row(&first, "── 4.", "popularity"));
    assert!(bundle[1] > popularity[1], "{bundle:?} {popularity:?}");

    // The user's log and the four new searches are stored, and the searched topic's items score higher for it.
    assert_eq!(first.matches("\"APPLIED\"").count(), 2, "{first}");
    let (_, moved) = first.rsplit_once("items of the searched topic").unwrap();
    let scores = moved.split_once("score ").unwrap().1.lines().next().unwrap();
    let (before, after) = scores.split_once(" → ").unwrap();
    assert!(before.parse::<f64>().unwrap() < after.parse::<f64>().unwrap(), "{scores}");
    assert!(first.contains("similar") && first.contains("grpcurl -plaintext"), "{first}");

    let second = demo(dir.path());
    assert_eq!(second.matches("is there already: reusing it").count(), 3, "{second}");
    assert_eq!(row(&second, "── 4.", "bundle"), bundle);
    assert_eq!(second.matches("\"APPLIED\"").count(), 2, "another user's story: {second}");
}
