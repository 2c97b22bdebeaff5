//! `sesrec experiment` end to end: tables, runs that are not made twice, declarations that are refused.

#[path = "support/logs.rs"]
mod logs;
#[path = "support/program.rs"]
mod program;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use logs::workplace;
use program::text;

const PROTOCOL: [&str; 16] = [
    "--data",
    "data",
    "--out",
    "out",
    "--epochs",
    "1",
    "--batch-size",
    "64",
    "--alignment-negatives",
    "32",
    "--sampled-negatives",
    "20",
    "--device",
    "cpu",
    "--serving-seconds",
    "0",
];

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = program::sesrec();
    command.arg("experiment").args(arguments).args(PROTOCOL).current_dir(directory);
    command
}

fn experiment(directory: &Path, arguments: &[&str]) -> Output {
    command(directory, arguments).output().unwrap()
}

fn success(directory: &Path, arguments: &[&str]) -> String {
    let output = experiment(directory, arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The files of finished runs, by name.
fn runs(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("out/runs")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
}

/// A column of a CSV file by row name, where it has a value.
fn column(path: &Path, name: &str) -> Vec<(String, f64)> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let column = reader.headers().unwrap().iter().position(|header| header == name).unwrap();
    let rows = reader.records().map(|record| record.unwrap());
    rows.filter_map(|row| Some((row[0].to_owned(), row[column].parse().ok()?))).collect()
}

const TABLE2: [&str; 5] = ["table2", "--models", "stamp,sesrec", "--seeds", "1,2"];

#[test]
fn table2_is_made_once() {
    let directory = workplace();
    let here = directory.path();
    let table = here.join("out/table2.csv");
    let told = success(here, &TABLE2);
    assert!(told.contains("4 runs: 4 trained, 0 were there"), "{told}");

    // The table is what the runs say, and the runs what their ranks say.
    let files = runs(here);
    assert_eq!(files.len(), 4);
    let mut mrr = vec![];
    for file in &files {
        let run: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let run = &run["run"];
        let ranks: Vec<f64> = run["ranks"].as_str().unwrap().split(' ').map(|rank| rank.parse().unwrap()).collect();
        assert_eq!(ranks.len(), 48);
        let mean = ranks.iter().map(|rank| 1.0 / (rank + 1.0)).sum::<f64>() / 48.0;
        assert!((mean - run["test"]["mrr"].as_f64().unwrap()).abs() < 1e-9);
        assert_eq!(run["config"]["candidates"]["items"], 48 * 20);
        assert!(run["seconds"].as_f64().unwrap() > 0.0 && run["parameters"].as_u64().unwrap() > 1000);
        mrr.push((run["config"]["model"]["model"].as_str().unwrap().to_owned(), mean));
    }
    let means = column(&table, "MRR");
    let names: Vec<&str> = means.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["popularity", "hand-made score", "stamp", "sesrec"]);
    for (name, found) in &means[2..] {
        let [a, b] = mrr.iter().filter(|(model, _)| model == name).map(|(_, mean)| *mean).collect::<Vec<_>>()[..]
        else {
            panic!("{name} has not two runs")
        };
        assert!((found - (a + b) / 2.0).abs() < 1e-9, "{name}");
        let deviation = column(&table, "MRR deviation").iter().find(|(row, _)| row == name).unwrap().1;
        assert!((deviation - (a - b).abs() / 2f64.sqrt()).abs() < 1e-9, "{name}");
    }
    for rates in ["candidates/s", "candidates/s, cached user"] {
        let rates = column(&table, rates);
        assert_eq!(rates.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["stamp", "sesrec"]);
        assert!(rates.iter().all(|(_, rate)| *rate > 0.0), "{rates:?}");
    }
    let page = fs::read_to_string(here.join("out/table2.md")).unwrap();
    for part in ["| popularity ", "| hand-made score ", " ± ", "**", "<u>", "p < 0.01", "seeds 1, 2", "checksum"] {
        assert!(page.contains(part), "{part} is missing in:\n{page}");
    }
    assert!(page.contains("models under one protocol") && page.contains("is ranked among 20 negatives"), "{page}");
    assert!(page.contains("users by row: nothing (stamp); id 32 (sesrec)") && !page.contains("loss by row"), "{page}");
    let tests = fs::read_to_string(here.join("out/table2.significance.csv")).unwrap();
    // The best with the second best; where the hand-made score is one of them, the trained ones with each other, too.
    let counted = tests.lines().skip(1).filter(|line| line.contains("stamp") && line.contains("sesrec")).count();
    assert_eq!(counted, 6, "{tests}");

    // Nothing is made twice; what is missing or damaged is, and comes out the same.
    let first = means;
    let told = success(here, &TABLE2);
    assert!(told.contains("4 runs: 0 trained, 4 were there"), "{told}");
    fs::remove_file(&files[0]).unwrap();
    let damaged = fs::read_to_string(&files[1]).unwrap();
    fs::write(&files[1], damaged.replacen("\"best_epoch\": 1", "\"best_epoch\": 2", 1)).unwrap();
    fs::write(&files[2], &damaged[..damaged.len() / 2]).unwrap();
    let told = success(here, &TABLE2);
    assert!(told.contains("4 runs: 3 trained, 1 were there"), "{told}");
    assert_eq!(column(&table, "MRR"), first);
    assert_eq!(runs(here), files);

    // One more seed costs one more run per model.
    let told = success(here, &["table2", "--models", "stamp", "--seeds", "1,2,3"]);
    assert!(told.contains("3 runs: 1 trained, 2 were there"), "{told}");
}

/// Nobody is to take a lead that comes of settings for one of the architecture.
#[test]
fn what_the_recipe_gives_to_some_models_alone_is_told() {
    let directory = workplace();
    let here = directory.path();
    let told = success(here, &["table2", "--models", "stamp,sesrec", "--seeds", "1", "--recipe", "best"]);
    assert!(told.contains("settings of its own to sesrec (") && told.contains("prediction_loss=softmax"), "{told}");
    let page = fs::read_to_string(here.join("out/table2.md")).unwrap();
    assert!(page.contains("by recipes that differ") && !page.contains("under one protocol"), "{page}");
    assert!(page.contains("loss by row: bce (stamp); softmax (sesrec)"), "{page}");
}

#[test]
fn a_study_without_a_finished_run_leaves_the_table_of_an_earlier_one() {
    let directory = workplace();
    let here = directory.path();
    let study = ["table2", "--models", "stamp", "--seeds", "1"];
    success(here, &study);
    let files = ["table2.md", "table2.csv", "table2.significance.csv"].map(|file| here.join("out").join(file));
    let tables = || files.each_ref().map(|file| fs::read_to_string(file).unwrap());
    let before = tables();
    // No number is finite after such a step.
    let output = experiment(here, &[&study[..], &["--learning-rate", "1e30"]].concat());
    let error = text(&output.stderr);
    assert!(!output.status.success() && error.contains("1 of 1 runs failed"), "{error}");
    assert_eq!(tables(), before);
}

#[test]
fn grids_run_and_mistakes_are_named() {
    let directory = workplace();
    let here = directory.path();
    let grid = |text: &str| {
        fs::write(here.join("grid.toml"), text).unwrap();
        experiment(here, &["grid", "grid.toml"])
    };
    let output = grid("seeds = [7]\n[model]\nmodel = \"stamp\"\n[recipe]\nlearning_rate = [0.001, 0.01]\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("2 runs: 2 trained"), "{}", text(&output.stdout));
    let rates = column(&here.join("out/grid.csv"), "learning_rate");
    assert_eq!(rates.iter().map(|(_, rate)| *rate).collect::<Vec<_>>(), [0.001, 0.01]);
    assert!(text(&output.stdout).contains("Validation selects learning_rate=0.01"), "{}", text(&output.stdout));

    let made = runs(here).len();
    for (text_of, expected) in [
        ("[model]\nthreshhold = \"mean\"", "sesrec has no setting \"threshhold\"; it has: "),
        ("[model]\nloss_weights.alpha = 1", "sesrec has no setting \"loss_weights.alpha\""),
        ("[model]\nthreshold = [\"mean\", \"mode\"]", "threshold=mode"),
        ("[model]\nmodel = \"sasrek\"", "model.model: \"sasrek\" is none of: sesrec, "),
        ("[model]\nnum_heads = [4, 5]", "not divisible by num_heads 5"),
        ("[recipe]\nlearning_rat = 1", "there is no setting \"learning_rat\"; there are: "),
        ("[recipe]\nlearning_rate = \"fast\"", "learning_rate=fast"),
        ("[recipe]\nlearning_rate = -1", "learning rate: is -1"),
        ("[recipe]\nseed = 1", "seed: the seeds are a list"),
        ("[recipe]\nepochs = []", "recipe.epochs: the list has no value"),
        ("[modell]\nmodel = \"stamp\"", "modell"),
        ("seeds = [1, 1]", "a seed stands twice"),
    ] {
        let output = grid(text_of);
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{text_of}: {error}");
        assert!(text_of.starts_with("seeds") || error.contains("grid.toml"), "{text_of}: {error}");
    }
    assert_eq!(runs(here).len(), made, "nothing was trained");
}

#[test]
fn studies_share_runs_and_weights_are_drawn() {
    let directory = workplace();
    let here = directory.path();
    // The defaults of both weights: the same model, once.
    let told = success(here, &["weights", "--alphas", "0.1", "--betas", "0.001", "--seeds", "5"]);
    assert!(told.contains("2 runs: 1 trained, 1 were there"), "{told}");
    let page = fs::read_to_string(here.join("out/weights.md")).unwrap();
    let selected = "Validation selects α = 0.1 by NDCG@10 and MRR; β = 0.001 by NDCG@10 and MRR.";
    assert!(page.contains(selected) && told.contains(selected), "{page}");
    for name in ["weights_alpha", "weights_beta"] {
        assert!(page.contains(&format!("]({name}.svg)")), "{page}");
        let svg = fs::read_to_string(here.join(format!("out/{name}.svg"))).unwrap();
        assert!(svg.contains("NDCG@10") && svg.contains("MRR"));
        assert!(fs::metadata(here.join(format!("out/{name}.png"))).unwrap().len() > 1000);
    }
    // The last step of the ablation is that model, too.
    let told = success(here, &["ablation", "--seeds", "5"]);
    assert!(told.contains("4 runs: 3 trained, 1 were there"), "{told}");
    let tests = fs::read_to_string(here.join("out/ablation.significance.csv")).unwrap();
    assert_eq!(tests.lines().count(), 1 + 6 + 3 * 6, "{tests}");
    let parameters = column(&here.join("out/ablation.csv"), "parameters");
    assert!(parameters[0].1 < parameters[3].1 && parameters[0].1 == parameters[2].1, "{parameters:?}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_experiment_keeps_what_is_finished() {
    use std::{process::Stdio, time::Duration};

    let directory = workplace();
    let here = directory.path();
    let seeds: Vec<String> = (1..=400).map(|seed: u32| seed.to_string()).collect();
    // The last of them is there already.
    success(here, &["table2", "--models", "stamp", "--seeds", "400"]);
    let mut command = command(here, &["table2", "--models", "stamp", "--seeds", &seeds.join(",")]);
    let running = program::Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let some = || here.join("out/runs").exists() && runs(here).len() >= 3;
    for _ in 0..6000 {
        if some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(some(), "no two runs were finished within five minutes");
    // Meanwhile nobody else writes there.
    let refused = experiment(here, &["table2", "--models", "stamp"]);
    assert!(text(&refused.stderr).contains("another experiment is running"), "{}", text(&refused.stderr));
    running.signal("INT");
    let output = running.output();
    let error = text(&output.stderr);
    assert!(!output.status.success() && error.contains("the same command goes on"), "{error}");
    let finished = runs(here).len();
    assert!((3..400).contains(&finished));
    let page = fs::read_to_string(here.join("out/table2.md")).unwrap();
    assert!(page.contains(&format!("**incomplete**: {finished} of 400 runs")), "{page}");

    let told = success(here, &["table2", "--models", "stamp", "--seeds", &seeds[..finished].join(",")]);
    assert!(told.contains(&format!("{finished} runs: 1 trained, {} were there", finished - 1)), "{told}");
}
