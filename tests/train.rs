//! Training end to end: SESRec through the trainer, and the command line.

#[path = "support/logs.rs"]
mod logs;
#[path = "support/program.rs"]
mod program;

use std::{collections::HashMap, fs, path::Path, process::Output, sync::Arc};

use candle_core::{Device, Tensor};
use logs::{workplace, write_logs};
use program::text;
use sesrec::{
    data::{
        Dataset, EvaluationNegatives,
        kuaisar::{self, ImportOptions},
    },
    model::{
        InputSizes, TrainableModel,
        sesrec::{SesRecConfig, SesRecTrainable},
    },
    train::{Checkpoint, Ending, Recipe, Reporting, Trainer, TrainingFiles},
};

fn dataset() -> Dataset {
    let directory = tempfile::tempdir().unwrap();
    write_logs(directory.path());
    kuaisar::read(directory.path(), &ImportOptions::default()).unwrap().dataset
}

fn model(dataset: &Dataset) -> SesRecTrainable {
    let config = SesRecConfig::for_catalogue(&dataset.catalogue, InputSizes::AMAZON);
    SesRecTrainable::new(config, Arc::clone(&dataset.catalogue), 5, &Device::Cpu).unwrap()
}

fn train(dataset: &Dataset, directory: &Path, epochs: usize, resume: bool) -> HashMap<String, Vec<u32>> {
    let model = model(dataset);
    let negatives = EvaluationNegatives::sampled(20, 1);
    let checkpoints = directory.join("checkpoints");
    let from = if resume { Checkpoint::read_latest(&checkpoints).unwrap() } else { None };
    assert_eq!(from.is_some(), resume);
    let trainer = Trainer {
        dataset,
        negatives: &negatives,
        recipe: Recipe { epochs, batch_size: 64, alignment_negatives: 32, ..Recipe::default() },
        model_config: serde_json::to_value(model.config()).unwrap(),
        files: TrainingFiles { checkpoints: Some(checkpoints), ..TrainingFiles::default() },
        reporting: Reporting::Silent,
        stop: Arc::default(),
    };
    let outcome = trainer.run(&model, from).unwrap();
    assert_eq!(outcome.ending, Ending::Completed);
    assert_eq!(outcome.epochs.len(), epochs);
    let names: Vec<&str> = outcome.epochs[0].losses.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.len() >= 4 && names[0] == "total", "{names:?}");
    let bits = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let snapshot = model.parameters().snapshot().unwrap();
    snapshot.iter().map(|(name, tensor)| (name.clone(), bits(tensor).into_iter().map(f32::to_bits).collect())).collect()
}

fn assert_equal(a: &HashMap<String, Vec<u32>>, b: &HashMap<String, Vec<u32>>) {
    assert_eq!(a.len(), b.len());
    for (name, values) in a {
        assert!(*values == b[name], "{name} differs");
    }
}

#[test]
fn sesrec_trains_repeatably_and_resumes_bit_for_bit() {
    let (dataset, directory) = (dataset(), tempfile::tempdir().unwrap());
    let straight = train(&dataset, &directory.path().join("straight"), 4, false);
    let again = train(&dataset, &directory.path().join("again"), 4, false);
    assert_equal(&straight, &again);
    let parts = directory.path().join("parts");
    train(&dataset, &parts, 2, false);
    let resumed = train(&dataset, &parts, 4, true);
    assert_equal(&straight, &resumed);
}

fn sesrec(directory: &Path, arguments: &[&str]) -> Output {
    program::sesrec().args(arguments).current_dir(directory).output().unwrap()
}

const TRAIN: [&str; 15] = [
    "train",
    "--data",
    "data",
    "--out",
    "bundle",
    "--epochs",
    "2",
    "--batch-size",
    "64",
    "--alignment-negatives",
    "32",
    "--sampled-negatives",
    "20",
    "--device",
    "cpu",
];

#[test]
fn train_and_evaluate_on_the_command_line() {
    let directory = workplace();
    let here = directory.path();

    // However its path ends, it is the same bundle.
    let output = sesrec(here, &TRAIN.map(|word| if word == "bundle" { "bundle/" } else { word }));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (table, progress) = (text(&output.stdout), text(&output.stderr));
    assert!(table.contains("NDCG@10") && table.contains("test") && table.contains("popularity"), "{table}");
    assert!(progress.contains("epoch   1: total") && progress.contains("epoch   2: total"), "{progress}");

    let metrics: serde_json::Value =
        serde_json::from_slice(&fs::read(here.join("bundle/metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["recipe"]["batch_size"], 64);
    assert_eq!(metrics["epochs"].as_array().unwrap().len(), 2);
    assert_eq!(metrics["test"]["users"], 48);
    assert!(metrics["data_checksum"].as_str().is_some_and(|checksum| checksum.len() > 8));

    // Evaluation of the bundle finds what training found.
    let evaluate = [
        "evaluate",
        "--model",
        "bundle",
        "--data",
        "data",
        "--sampled-negatives",
        "20",
        "--popularity",
        "--json",
        "result.json",
    ];
    let output = sesrec(here, &evaluate);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let result: serde_json::Value = serde_json::from_slice(&fs::read(here.join("result.json")).unwrap()).unwrap();
    assert_eq!(result["metrics"], metrics["test"]);
    assert_eq!(result["popularity"], metrics["popularity_test"]);
    assert_eq!(result["ranks"].as_object().unwrap().len(), 48);
    assert_eq!(result["learned"], false);
    let mrr: f64 = result["ranks"].as_object().unwrap().values().map(|rank| 1.0 / (rank.as_f64().unwrap() + 1.0)).sum();
    assert!((mrr / 48.0 - result["metrics"]["mrr"].as_f64().unwrap()).abs() < 1e-9);

    // Nothing is overwritten by accident; told to, the run goes on, whatever a configuration file says.
    let output = sesrec(here, &TRAIN);
    assert!(!output.status.success() && text(&output.stderr).contains("--resume"), "{}", text(&output.stderr));
    fs::write(here.join("sesrec.toml"), "[train]\nforce = true\n").unwrap();
    let told = ["--resume", "--config", "sesrec.toml"];
    let longer: Vec<&str> = TRAIN.iter().map(|&word| if word == "2" { "3" } else { word }).chain(told).collect();
    let output = sesrec(here, &longer);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let metrics: serde_json::Value =
        serde_json::from_slice(&fs::read(here.join("bundle/metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["epochs"].as_array().unwrap().len(), 3);
    assert!(!text(&output.stderr).contains("epoch   2: total"), "the first two were not repeated");

    // Another model is what is blamed, not what follows from it.
    let output = sesrec(here, &[&longer[..], &["--model", "sasrec"]].concat());
    let error = text(&output.stderr);
    assert!(error.contains(r#"with model "sesrec", this run has "sasrec""#) && error.contains("--force"), "{error}");

    // One weight that is not what was written.
    let entry = fs::read_dir(here.join("bundle.run/checkpoints")).unwrap().next().unwrap().unwrap();
    let weights = entry.path().join("parameters.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let output = sesrec(here, &longer);
    let error = text(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("parameters.safetensors: does not match its checksum"), "{error}");
    assert!(error.contains("start afresh with --force"), "{error}");
}

#[test]
fn one_run_at_a_time_trains_a_bundle() {
    let directory = workplace();
    let here = directory.path();
    fs::create_dir(here.join("bundle.run")).unwrap();
    // As the other run does.
    let lock = fs::File::create(here.join("bundle.run/.lock")).unwrap();
    lock.try_lock().unwrap();
    for again in [&[] as &[&str], &["--force"], &["--resume"]] {
        let output = sesrec(here, &[&TRAIN[..], again].concat());
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains("bundle.run: another training is running"), "{error}");
    }
    assert!(!here.join("bundle").exists());
}

#[test]
fn mistakes_on_the_command_line_say_what_to_do() {
    let directory = workplace();
    let here = directory.path();
    for (flags, expected) in [
        (&["--item-attributes", "id:32,colour:8"][..], "no attribute \"colour\""),
        (&["--heads", "5"], "num_heads 5"),
        (&["--dropout", "1"], "dropout: is 1"),
        (&["--negatives", "absent.txt"], "absent.txt"),
        (&["--training-negatives", "0"], "--training-negatives"),
        (&["--training-negatives", "100000"], "--training-negatives: is 100000, but the data set has 60 items"),
        (&["--min-learning-rate", "1"], "--min-learning-rate: is 1.0, must be from 0 to the learning rate"),
        (&["--heads", "0"], "--heads"),
        (&["--run-dir", "./bundle/run"], "choose another --run-dir"),
    ] {
        let arguments: Vec<&str> = TRAIN.iter().chain(flags).copied().collect();
        let output = sesrec(here, &arguments);
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{flags:?}: {error}");
        assert!(!here.join("bundle").exists() && !here.join("bundle.run").exists(), "{flags:?}");
    }
    for out in [".", "..", "/"] {
        let output = sesrec(here, &TRAIN.map(|word| if word == "bundle" { out } else { word }));
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains("name a directory that isn't there yet"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_says_how_to_continue_and_does() {
    use std::{process::Stdio, time::Duration};

    let directory = workplace();
    let here = directory.path();
    let arguments: Vec<&str> = TRAIN.iter().map(|&word| if word == "2" { "1000" } else { word }).collect();
    let mut command = program::sesrec();
    command.args(&arguments).current_dir(here).stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = program::Running::start(&mut command);
    let checkpoints = here.join("bundle.run/checkpoints");
    let first_epoch = || {
        fs::read_dir(&checkpoints).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("epoch-"))
        })
    };
    for _ in 0..3000 {
        if first_epoch() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(first_epoch(), "no epoch was finished within five minutes");
    running.signal("INT");
    let output = running.output();
    let error = text(&output.stderr);
    assert!(!output.status.success());
    assert!(
        error.contains("Continue exactly there with") && error.contains("--epochs 1000") && error.contains("--resume"),
        "{error}"
    );
    assert!(!here.join("bundle").exists());

    let position = Checkpoint::read_latest(&checkpoints).unwrap().unwrap().position();
    let epochs = (position.epoch + 1).to_string();
    let arguments: Vec<&str> =
        TRAIN.iter().map(|&word| if word == "2" { &*epochs } else { word }).chain(["--resume"]).collect();
    let output = sesrec(here, &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(here.join("bundle/model.safetensors").exists());
}
