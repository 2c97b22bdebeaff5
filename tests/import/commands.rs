//! `sesrec synth` and `sesrec import`, as a user runs them.

use std::{fs, path::Path, process::Output};

use crate::{fixtures::*, program};

fn sesrec(args: &[&str]) -> Output {
    program::sesrec().args(args).output().unwrap()
}

#[test]
fn the_commands_tell_what_they_did_and_what_to_do_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (logs, data) = (path("the logs"), path("the data"));
    let output = sesrec(&["synth", "--users", "30", "--items", "200", "--seed", "5", "--out", &logs]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(&format!("sesrec import kuaisar '{logs}' --out")), "{text}");

    let output = sesrec(&["import", "kuaisar", &logs, "--out", &data]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(&format!("sesrec train --data '{data}' --out")), "{text}");
    let table: Vec<&str> = text.lines().take(2).collect();
    assert_eq!(table[0].len(), table[1].len(), "columns are aligned: {text}");
    assert!(table[0].contains("queries   actions S   actions R"), "{text}");
    assert!(table[1].trim_start().starts_with("30 "), "{text}");
    assert!(output.stderr.is_empty(), "no progress bar where there is no terminal");

    let again = sesrec(&["import", "kuaisar", &logs, "--out", &data]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--force"));
    assert!(sesrec(&["import", "kuaisar", &logs, "--out", &data, "--force", "--quiet"]).status.success());

    let rec = format!("{logs}/{REC}");
    let text = fs::read_to_string(&rec).unwrap().replacen(",1,0,", ",maybe,0,", 1);
    fs::write(&rec, text).unwrap();
    let bad = sesrec(&["import", "kuaisar", &logs, "--out", &path("other")]);
    let message = String::from_utf8(bad.stderr).unwrap();
    assert!(
        !bad.status.success() && message.contains("column click") && message.contains("--skip-bad-rows"),
        "{message}"
    );
    assert!(!Path::new(&path("other")).exists(), "nothing half-written is left");
    let skipped = sesrec(&["import", "kuaisar", &logs, "--out", &path("other"), "--skip-bad-rows", "1"]);
    let text = String::from_utf8(skipped.stdout).unwrap();
    assert!(
        skipped.status.success() && text.contains("1 bad rows were skipped") && text.contains("column click"),
        "{text}"
    );
}

#[test]
fn the_help_says_what_text_has_to_be_like() {
    let help = String::from_utf8(sesrec(&["import", "kuaisar", "--help"]).stdout).unwrap();
    assert!(help.contains("caption") && help.contains("segmented"), "{help}");
    // Wrapped by a narrow terminal, a table is none.
    let table =
        help.lines().skip_while(|line| !line.starts_with("  rec_inter.csv")).take_while(|line| !line.is_empty());
    let widths: Vec<usize> = table.map(|line| line.chars().count()).collect();
    assert!(widths.len() >= 4 && widths.iter().all(|&width| width <= 78), "{help}");
}

/// Whose directory is replaced under a shell sees nothing of it.
#[test]
fn the_present_directory_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let logs = write_logs(&LOGS);
    let logs = logs.path().to_str().unwrap();
    for out in [".", "..", "/"] {
        for args in [&["synth", "--force", "--out", out][..], &["import", "kuaisar", logs, "--force", "--out", out]] {
            let output = program::sesrec().args(args).current_dir(dir.path()).output().unwrap();
            let message = program::errors(&output);
            assert!(!output.status.success() && message.contains("name a directory that isn't there yet"), "{message}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
