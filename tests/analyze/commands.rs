//! `sesrec analyze`: each prints its table, and writes it, and its figure if it has one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use crate::{
    program::{self, errors},
    world::{fresh, world},
};

fn analyze(what: &str, out: &Path, flags: &[(&str, &Path)]) -> Output {
    let mut command = program::sesrec();
    command.args(["analyze", what]).arg("--out").arg(out);
    flags.iter().for_each(|(flag, value)| {
        command.arg(flag).arg(value);
    });
    command.output().unwrap()
}

/// Runs an analysis that succeeds and returns its CSV as rows of cells, the header first.
fn rows(what: &str, flags: &[(&str, &Path)]) -> (PathBuf, Vec<Vec<String>>) {
    let out = fresh(what);
    let output = analyze(what, &out, flags);
    assert!(output.status.success(), "{}", errors(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let markdown = fs::read_to_string(out.join(format!("{what}.md"))).unwrap();
    let table = markdown.split("\n\n").next().unwrap();
    assert!(table.starts_with('|') && printed.starts_with(table), "{printed}");
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(out.join(format!("{what}.csv"))).unwrap();
    let rows = reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
    (out, rows)
}

/// A cell by the texts that its row begins with and its column's name.
fn cell(rows: &[Vec<String>], row: &[&str], column: &str) -> String {
    let column = rows[0].iter().position(|name| name == column).unwrap_or_else(|| panic!("no {column}: {rows:?}"));
    let found = rows.iter().find(|cells| row.iter().zip(cells.iter()).all(|(wanted, cell)| wanted == cell));
    found.unwrap_or_else(|| panic!("no {row:?}: {rows:?}"))[column].clone()
}

fn number(rows: &[Vec<String>], row: &[&str], column: &str) -> f64 {
    let text = cell(rows, row, column);
    text.parse().unwrap_or_else(|_| panic!("{text:?} in {rows:?}"))
}

fn assert_figure(out: &Path, name: &str, label: &str) {
    let svg = fs::read_to_string(out.join(format!("{name}.svg"))).unwrap();
    assert!(svg.contains(label), "no {label:?} in {name}.svg");
    assert!(fs::read(out.join(format!("{name}.png"))).unwrap().starts_with(b"\x89PNG"));
}

/// Rows of truth.csv with these values.
fn planted(wanted: &[(&str, &str)]) -> f64 {
    let mut truth = csv::Reader::from_path(world().logs.join("truth.csv")).unwrap();
    let header = truth.headers().unwrap().clone();
    let matches = |row: &csv::StringRecord| {
        wanted.iter().all(|(column, value)| &row[header.iter().position(|name| name == *column).unwrap()] == *value)
    };
    truth.records().map(Result::unwrap).filter(matches).count() as f64
}

#[test]
fn statistics_are_those_of_the_logs() {
    let (_, rows) = rows("statistics", &[("--data", &world().data)]);
    assert_eq!(number(&rows, &["data"], "users"), 200.0);
    assert_eq!(number(&rows, &["data"], "items"), 300.0);
    assert_eq!(number(&rows, &["data"], "actions S"), planted(&[("event", "search")]));
    assert_eq!(number(&rows, &["data"], "actions R"), planted(&[("event", "recommendation")]));
}

#[test]
fn searches_have_the_planted_shares() {
    let (out, rows) = rows("searches", &[("--data", &world().data)]);
    assert_figure(&out, "searches", "share of all searches in %");
    let searches = planted(&[("event", "search")]);
    let passive = planted(&[("origin", "passive")]);
    assert_eq!(number(&rows, &["all"], "number"), searches);
    assert_eq!(number(&rows, &["passive"], "number"), passive);
    assert_eq!(number(&rows, &["spontaneous"], "number"), searches - passive);
    // What set a passive search off was clicked seconds before. Topics are the finest categories: interests of search
    // alone are dissimilar, and so are shared ones that are new, or that were not clicked for a week.
    assert!(number(&rows, &["passive"], "dissimilar of known") < 0.02, "{rows:?}");
    let planted_share =
        planted(&[("label", "dissimilar"), ("event", "search")]) / planted(&[("origin", "spontaneous")]);
    let estimate = number(&rows, &["spontaneous"], "dissimilar of known");
    assert!(estimate > 0.8 * planted_share && estimate < 0.7, "{estimate} {planted_share}");

    // With another source among them, written as people write lists; one that no search has is none of them.
    let two = ("--passive-sources", Path::new("RELATED_SEARCH, TRENDING"));
    let (out, more) = self::rows("searches", &[("--data", &world().data), two]);
    let of_sources = ["source RELATED_SEARCH", "source TRENDING"].map(|source| number(&more, &[source], "number"));
    assert_eq!(number(&more, &["passive"], "number"), of_sources.iter().sum::<f64>());
    assert!(of_sources[1] > 0.0, "{more:?}");
    let mistyped = ("--passive-sources", Path::new("RELATED_SEARCH,TRENDIGN"));
    let output = analyze("searches", &out, &[("--data", &world().data), mistyped]);
    let message = errors(&output);
    assert!(!output.status.success() && message.contains("no search has the source \"TRENDIGN\""), "{message}");
    assert!(message.contains("there are: ") && message.contains("TRENDING"), "{message}");

    let output = analyze("searches", &out, &[("--data", &world().data), ("--category", Path::new("colour"))]);
    assert!(!output.status.success());
    assert!(errors(&output).contains("category2 ("), "names what exists: {}", errors(&output));
}

#[test]
fn searches_without_a_click_are_told() {
    let (data, out) = (fresh("unclicked_data"), fresh("unclicked"));
    for entry in fs::read_dir(&world().data).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, data.join(path.file_name().unwrap())).unwrap();
    }
    let manifest = data.join("dataset.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    for (counted_as, told) in [("first-shown", true), ("keep", false)] {
        json["import"]["unclicked_searches"] = 1234.into();
        json["import"]["unclicked_searches_as"] = counted_as.into();
        fs::write(&manifest, json.to_string()).unwrap();
        let output = analyze("searches", &out, &[("--data", &data)]);
        assert!(output.status.success(), "{}", errors(&output));
        let note = fs::read_to_string(out.join("searches.md")).unwrap();
        let sentence = "1,234 searches without a click count by their first shown result.";
        assert_eq!(note.contains(sentence), told, "{note}");
    }
}

#[test]
fn interests_are_divided_by_sesrec_alone() {
    let flags = [("--model", &*world().bundle), ("--data", &*world().data)];
    let (out, rows) = rows("interests", &flags);
    assert_figure(&out, "interests", "dissimilar interests");
    for division in ["model", "at random"] {
        for interests in ["similar", "dissimilar"] {
            assert!(number(&rows, &[division, interests], "users") > 50.0, "{rows:?}");
            let mean = number(&rows, &[division, interests], "mean");
            assert!((0.0..=1.0).contains(&mean), "{rows:?}");
        }
    }
    let bins = fs::read_to_string(out.join("interests_bins.csv")).unwrap();
    let shares = bins.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse::<f64>().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-4, "{bins}");

    let output = analyze("interests", &out, &[("--model", &world().stamp), ("--data", &world().data)]);
    assert!(!output.status.success() && errors(&output).contains("is a stamp model"), "{}", errors(&output));
}

#[test]
fn alignment_shows_in_the_model_that_was_trained_for_it() {
    let out = fresh("alignment");
    let mut command = program::sesrec();
    command.args(["analyze", "alignment"]).arg("--model").arg(&world().unaligned).arg(&world().bundle);
    let output = command.arg("--data").arg(&world().data).arg("--out").arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert_figure(&out, "alignment", "cosine of query and clicked item");
    assert_figure(&out, "alignment", "unaligned");
    assert!(fs::read_to_string(out.join("alignment.md")).unwrap().contains("whiskers to the last values within 1.5"));
    let none = [("--model", &*world().bundle), ("--data", &*world().data), ("--max-pairs", Path::new("0"))];
    let refused = analyze("alignment", &out, &none);
    assert!(!refused.status.success() && errors(&refused).contains("must be at least 1"), "{}", errors(&refused));
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(out.join("alignment.csv")).unwrap();
    let rows: Vec<Vec<String>> = reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
    let nearer = |model: &str| number(&rows, &[model, "Q W, E", "clicked"], "clicked nearer");
    assert!(nearer("aligned") > 0.6 && nearer("aligned") > nearer("unaligned") + 0.05, "{rows:?}");
    assert_eq!(cell(&rows, &["aligned", "Q, E", "strangers"], "clicked nearer"), "");
}

#[test]
fn planted_interests_are_compared_with_the_truth_of_the_same_logs() {
    let truth = world().logs.join("truth.csv");
    let flags = [("--model", &*world().bundle), ("--data", &*world().data), ("--truth", &*truth)];
    let (out, rows) = rows("planted", &flags);
    for side in ["recommendations", "searches"] {
        assert!((0.0..=1.0).contains(&number(&rows, &[side], "AUC")), "{rows:?}");
        assert!(number(&rows, &[side], "AUC of category overlap") > 0.7, "{rows:?}");
        assert!((number(&rows, &[side], "AUC, labels shuffled") - 0.5).abs() < 0.1, "{rows:?}");
        assert!(number(&rows, &[side], "similar") > number(&rows, &[side], "dissimilar"), "{rows:?}");
    }
    // The model reads the newest 8 searches of a user: no more of them can be labelled.
    let labelled = ["similar", "dissimilar", "unlabelled"].map(|column| number(&rows, &["searches"], column));
    assert!(labelled.iter().sum::<f64>() <= 200.0 * 8.0, "{rows:?}");

    let text = fs::read_to_string(&truth).unwrap();
    let other = out.join("other.csv");
    let half: Vec<&str> = text.lines().take(text.lines().count() / 2).collect();
    fs::write(&other, half.join("\n")).unwrap();
    let output = analyze("planted", &out, &[flags[0], flags[1], ("--truth", &other)]);
    assert!(!output.status.success() && errors(&output).contains("the truth lacks events"), "{}", errors(&output));
    fs::write(&other, text.replacen(",similar,", ",alike,", 1)).unwrap();
    let output = analyze("planted", &out, &[flags[0], flags[1], ("--truth", &other)]);
    let message = errors(&output);
    assert!(!output.status.success() && message.contains("column label") && message.contains("alike"), "{message}");
}
