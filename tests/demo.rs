//! The newcomer's command, on small logs: from nothing to an answer that moved, and again on what is there.
#![cfg(unix)]

#[path = "support/program.rs"]
mod program;

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use program::{Running, errors};

fn command(dir: &Path, listen: &str) -> Command {
    let mut command = program::sesrec();
    command.args(["demo", "--users", "250", "--items", "400", "--listen", listen, "--dir"]).arg(dir);
    command
}

/// Runs the demo to its end; returns what it prints.
fn demo(dir: &Path) -> String {
    let output = command(dir, "127.0.0.1:0").arg("--once").output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Starts the demo, to be watched.
fn start(dir: &Path, listen: &str) -> Running {
    Running::start(command(dir, listen).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// Reads what the demo prints until a line begins with `beginning`.
fn wait_for(running: &mut Child, beginning: &str) -> String {
    let mut printed = String::new();
    let mut lines = BufReader::new(running.stdout.as_mut().unwrap());
    while !printed.lines().last().is_some_and(|line| line.starts_with(beginning)) {
        if lines.read_line(&mut printed).unwrap() == 0 {
            let mut errors = String::new();
            running.stderr.as_mut().unwrap().read_to_string(&mut errors).unwrap();
            panic!("{beginning:?} was never printed: {printed}\n{errors}");
        }
    }
    printed
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

    // Its commands can be pasted: there is no `sesrec` on the PATH of those who have just built it.
    let program = Path::new(env!("CARGO_BIN_EXE_sesrec"));
    let program = program.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(program).display();
    for line in [format!("$ {program} train --data"), format!("$ {program} serve"), format!("{program} rank --server")]
    {
        assert!(first.contains(&line), "{line} is not in {first}");
    }

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

    // Nothing of other flags is reused in silence.
    let other = command(dir.path(), "127.0.0.1:0").args(["--once", "--seed", "8"]).output().unwrap();
    let message = String::from_utf8(other.stderr).unwrap();
    assert!(!other.status.success() && message.contains("or use the same flags"), "{message}");

    // What is there is reused. After the story it serves, wherever it was told to, until it is told to stop.
    let listen = if TcpListener::bind("[::1]:0").is_ok() { "[::1]:0" } else { "0.0.0.0:0" };
    let mut running = start(dir.path(), listen);
    let second = wait_for(&mut running, "serving on ");
    running.signal("TERM");
    let output = running.output();
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(second.matches("is there already: reusing it").count(), 3, "{second}");
    assert_eq!(row(&second, "── 4.", "bundle"), bundle);
    assert_eq!(second.matches("\"APPLIED\"").count(), 2, "another user's story: {second}");
}

#[test]
fn ctrl_c_ends_the_demo_while_it_trains() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = start(dir.path(), "127.0.0.1:0");
    wait_for(&mut running, "── 3.");
    // Where the data set is told, training listens for signals.
    let mut told = BufReader::new(running.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    running.signal("INT");
    let mut printed = String::new();
    running.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    told.read_to_string(&mut line).unwrap();
    assert!(!running.wait().unwrap().success());
    assert!(line.contains("the same command goes on from here"), "{line}");
    assert!(!printed.contains("── 4.") && !dir.path().join("bundle").exists(), "{printed}");
}
