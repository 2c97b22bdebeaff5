//! Parity with the authors' release: every folder of golden values, every intermediate, every gradient, one Adam step,
//! and the command-line route.
//!
//! `SESREC_GOLDEN` names the folders (default `../shared/golden`), `SESREC_TEST_DEVICE` the device (default `cpu`).

#[path = "support/device.rs"]
mod device;
#[path = "support/program.rs"]
mod program;
#[path = "support/skip.rs"]
mod skip;
#[path = "support/golden.rs"]
mod support;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use candle_core::{DType, Device, IndexOp, Tensor};
use sesrec::{
    data::{Catalogue, HistoryBatch, SearchFeatures, UserFeatures, UserRow},
    model::{
        ModelConfig, RankerOptions, RankingModel, ScoreRequest, SearchExamples, TrainableModel, TrainingBatch,
        convert::read_catalogue,
        sesrec::{Network, SesRecConfig, SesRecRanker, SesRecTrainable, TrainingOutputs, triplet_hinge},
    },
    nn::{Adam, AdamOptions, Dropout},
};

type Tensors = HashMap<String, Tensor>;

struct Golden {
    dir: PathBuf,
    config: SesRecConfig,
    catalogue: Arc<Catalogue>,
    weights: Tensors,
    inputs: Tensors,
    outputs: Tensors,
    device: Device,
}

/// Every golden folder, read.
fn folders() -> Vec<Golden> {
    support::folders().into_iter().map(Golden::read).collect()
}

#[test]
fn a_directory_without_golden_values_does_not_pass() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    std::fs::create_dir(directory.path().join("empty")).unwrap();
    for root in [directory.path(), &absent] {
        assert!(std::panic::catch_unwind(|| support::folders_in(root)).is_err(), "{}", root.display());
    }
    std::fs::write(directory.path().join("empty/config.json"), "{}").unwrap();
    assert_eq!(support::folders_in(directory.path()), [directory.path().join("empty")]);
}

impl Golden {
    fn read(dir: PathBuf) -> Self {
        println!("{}", dir.display());
        let load = |name: &str| candle_core::safetensors::load(dir.join(name), &Device::Cpu).unwrap();
        let config = ModelConfig::from_json(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
        let catalogue = Arc::new(read_catalogue(&dir.join("catalog"), &config).unwrap());
        let ModelConfig::Sesrec(config) = config else { panic!("{} has another model", dir.display()) };
        let device = device::test_device().clone();
        let (weights, inputs, outputs) =
            (load("weights.safetensors"), load("inputs.safetensors"), load("outputs.safetensors"));
        Self { config, catalogue, weights, inputs, outputs, device, dir }
    }

    fn input(&self, name: &str) -> Vec<u32> {
        let values = self.inputs[name].flatten_all().unwrap().to_vec1::<i64>().unwrap();
        values.into_iter().map(|value| u32::try_from(value).unwrap()).collect()
    }

    fn users(&self) -> Vec<UserFeatures> {
        let limits = self.config.inputs.limits;
        let (items, queries) = (self.input("rec_items"), self.input("src_query_ids"));
        let (sources, words) = (self.input("src_sources"), self.input("src_query_words"));
        let (clicks, users) = (self.input("src_clicked_items"), self.input("user"));
        // The fixtures mark padding by id 0, at the end; no real event of theirs has it.
        let real = |rows: &[u32]| -> Vec<u32> { rows.iter().copied().take_while(|&row| row != 0).collect() };
        let user = |n: usize| {
            let first = n * limits.searches;
            let searches = real(&queries[first..first + limits.searches]).into_iter().enumerate().map(|(at, query)| {
                let event = first + at;
                SearchFeatures {
                    query,
                    words: real(&words[event * limits.words..(event + 1) * limits.words]),
                    source: sources[event],
                    clicks: real(&clicks[event * limits.clicks..(event + 1) * limits.clicks]),
                    place: 0,
                }
            });
            UserFeatures {
                user: UserRow::Known(users[n]),
                recommendations: real(&items[n * limits.recommendations..(n + 1) * limits.recommendations]),
                searches: searches.collect(),
                as_of: None,
            }
        };
        (0..users.len()).map(user).collect()
    }

    fn training_batch(&self) -> TrainingBatch {
        TrainingBatch {
            history: HistoryBatch::padded_to_limits(&self.users(), self.config.inputs.limits),
            positives: self.input("train_positive"),
            negatives: self.input("train_negatives"),
            original_items: vec![],
            history_negatives: vec![],
            alignment_items: self.input("align_negative_items"),
            alignment_queries: self.input("align_negative_queries"),
            searches: SearchExamples::default(),
        }
    }

    fn trainable(&self) -> SesRecTrainable {
        let catalogue = self.catalogue.clone();
        SesRecTrainable::from_tensors(self.config.clone(), catalogue, &self.weights, &self.device).unwrap()
    }

    fn ranker(&self, weights: &Tensors) -> SesRecRanker {
        let (config, catalogue) = (self.config.clone(), self.catalogue.clone());
        SesRecRanker::new(config, catalogue, weights, &self.device, RankerOptions::default()).unwrap()
    }

    fn scores(&self, weights: &Tensors) -> Tensor {
        let (ranker, users) = (self.ranker(weights), self.users());
        let states = ranker.encode(&users.iter().collect::<Vec<_>>()).unwrap();
        let candidates = self.input("candidates");
        let lists = candidates.chunks(candidates.len() / users.len());
        let requests: Vec<_> = states.iter().zip(lists).map(|(state, items)| ScoreRequest { state, items }).collect();
        let scores = ranker.score(&requests).unwrap();
        candle_nn::ops::sigmoid(&Tensor::new(scores, &Device::Cpu).unwrap()).unwrap()
    }

    #[track_caller]
    fn compare(&self, name: &str, ours: &Tensor, tolerance: f64) {
        let expected = self.outputs[name].to_dtype(DType::F32).unwrap();
        assert_eq!(ours.dims(), expected.dims(), "{name}");
        let far = distance(ours, &expected);
        println!("  {name}: {far:.1e}");
        assert!(far <= tolerance, "{}: {name} differs by {far:e}", self.dir.display());
    }
}

/// The largest absolute difference; NaN counts as infinite.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let flat = |t: &Tensor| t.to_device(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let differences = flat(a).into_iter().zip(flat(b)).map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(0.0, |max, x| if x.is_nan() { f64::INFINITY } else { max.max(x) })
}

fn forward(golden: &Golden, model: &SesRecTrainable) -> TrainingOutputs {
    model.forward(&golden.training_batch(), &mut Dropout::off()).unwrap()
}

#[test]
fn intermediates() {
    for golden in folders() {
        let model = golden.trainable();
        let network: &Network = model.network();
        let batch = golden.training_batch().history;
        let candidates = golden.input("candidates");
        let encoded = network.encode(&batch, &[&candidates], &mut Dropout::off()).unwrap();
        let inputs = &encoded.inputs;
        golden.compare("rec_input_embedding", &inputs.rec_items, 1e-5);
        golden.compare("query_embedding_plus_source", &inputs.queries_and_sources, 1e-5);
        golden.compare("clicked_item_embedding", &inputs.clicked_items, 1e-5);
        golden.compare("user_embedding", &inputs.users, 1e-5);
        for (name, side) in [("rec", &encoded.rec), ("src", &encoded.src)] {
            golden.compare(&format!("{name}_encoded"), &side.events.encoded, 1e-5);
            golden.compare(&format!("{name}_coattention"), &side.interests.weights, 1e-5);
            let mask = |mask: &sesrec::nn::Mask| mask.tensor(&Device::Cpu).unwrap();
            golden.compare(&format!("{name}_positive_mask"), &mask(&side.interests.positive), 0.0);
            golden.compare(&format!("{name}_negative_mask"), &mask(&side.interests.negative), 0.0);
            let hinge = triplet_hinge(side, golden.config.triplet_margin).unwrap();
            golden.compare(&format!("{name}_triplet_hinge"), &hinge, 1e-5);
        }
        let candidates = network.candidates(&encoded, 2).unwrap();
        let rows = golden.training_batch().candidates().unwrap();
        let first = candidates.i((.., 0..1)).unwrap().contiguous().unwrap();
        golden.compare("first_candidate_embedding", &first.squeeze(1).unwrap(), 1e-5);
        let (rec, src) = network.interests(&encoded, &first).unwrap();
        golden.compare("rec_interest_first_candidate", &rec.squeeze(1).unwrap(), 1e-5);
        golden.compare("src_interest_first_candidate", &src.squeeze(1).unwrap(), 1e-5);
        let logits = network.logits(&encoded, (&rows, &candidates), &mut Dropout::off()).unwrap();
        golden.compare("scores", &candle_nn::ops::sigmoid(&logits).unwrap(), 1e-5);
    }
}

#[test]
fn scores_through_the_ranker() {
    for golden in folders() {
        golden.compare("scores", &golden.scores(&golden.weights), 1e-5);
    }
}

#[test]
fn losses() {
    for golden in folders() {
        let model = golden.trainable();
        let losses = forward(&golden, &model).losses;
        let parts = losses.parts.iter().map(|(name, loss)| (format!("loss_{name}"), loss));
        for (name, loss) in parts.chain([("loss_total".into(), &losses.total)]) {
            let expected = golden.outputs[&name].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
            let loss = loss.to_scalar::<f32>().unwrap();
            println!("  {name}: {loss} vs {expected}");
            assert!((loss / expected - 1.0).abs() <= 1e-5, "{name}: {loss} vs {expected}");
        }
    }
}

#[test]
fn gradients() {
    for golden in folders() {
        let model = golden.trainable();
        let gradients = forward(&golden, &model).losses.total.backward().unwrap();
        let expected = candle_core::safetensors::load(golden.dir.join("gradients.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(model.parameters().iter().len(), expected.len());
        let mut worst: (f64, &str) = (0.0, "");
        for (name, var) in model.parameters().iter() {
            let ours = gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
            let ours = ours.to_device(&Device::Cpu).unwrap();
            let norm = |t: &Tensor| f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
            let reference = norm(&expected[name]);
            let far = norm(&(&ours - &expected[name]).unwrap());
            let relative = if reference == 0.0 { far } else { far / reference };
            if relative > worst.0 {
                worst = (relative, name);
            }
            assert!(relative <= 1e-4, "{name}: relative distance {relative:e}, norm {reference:e}");
        }
        println!("  worst gradient: {worst:?}");
    }
}

fn adam(golden: &Golden, model: &SesRecTrainable) -> Adam {
    let constants = golden.config.adam.as_ref().unwrap();
    let constant = |name: &str| constants[name].as_f64().unwrap();
    let options = AdamOptions {
        learning_rate: constant("lr"),
        beta1: constants["betas"][0].as_f64().unwrap(),
        beta2: constants["betas"][1].as_f64().unwrap(),
        epsilon: constant("eps"),
        l2: constant("l2"),
        lazy: false,
    };
    Adam::new(model.parameters(), options).unwrap()
}

#[test]
fn adam_step_from_golden_gradients() {
    for golden in folders() {
        let model = golden.trainable();
        // A store that holds the golden gradients under our variables.
        let mut gradients = forward(&golden, &model).losses.total.backward().unwrap();
        let expected =
            candle_core::safetensors::load(golden.dir.join("gradients.safetensors"), &golden.device).unwrap();
        for (name, var) in model.parameters().iter() {
            gradients.insert(var, expected[name].clone());
        }
        adam(&golden, &model).step(&gradients.into()).unwrap();
        let after =
            candle_core::safetensors::load(golden.dir.join("weights_after_adam_step.safetensors"), &Device::Cpu)
                .unwrap();
        for (name, var) in model.parameters().iter() {
            let far = distance(var.as_tensor(), &after[name]);
            assert!(far <= 1e-6, "{name} differs by {far:e} after the step");
        }
    }
}

#[test]
fn scores_after_adam_step_from_own_gradients() {
    for golden in folders() {
        let model = golden.trainable();
        let gradients = forward(&golden, &model).losses.total.backward().unwrap();
        adam(&golden, &model).step(&gradients.into()).unwrap();
        golden.compare("scores_after_adam_step", &golden.scores(&model.parameters().snapshot().unwrap()), 1e-4);
    }
}

#[test]
fn convert_then_score_by_command_line() {
    for golden in folders() {
        let temporary = tempfile::tempdir().unwrap();
        let bundle = temporary.path().join("bundle");
        convert(&golden.dir, &golden.dir.join("weights.safetensors"), &bundle);
        let score = |requests: &Path| {
            program::sesrec()
                .args(["score", "--model"])
                .arg(&bundle)
                .args(["--device", &std::env::var("SESREC_TEST_DEVICE").unwrap_or_else(|_| "cpu".into())])
                .stdin(std::fs::File::open(requests).unwrap())
                .stderr(Stdio::inherit())
                .output()
                .unwrap()
        };
        let requests = golden.dir.join("requests.ndjson");
        let output = score(&requests);
        assert!(output.status.success());
        // What comes before a line that is wrong is answered.
        let wrong = temporary.path().join("wrong.ndjson");
        std::fs::write(&wrong, std::fs::read_to_string(&requests).unwrap() + "\nbad\n").unwrap();
        let stopped = score(&wrong);
        assert!(!stopped.status.success());
        assert_eq!(stopped.stdout, output.stdout);
        let parse = |text: &str| -> Vec<serde_json::Value> {
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let ours = parse(std::str::from_utf8(&output.stdout).unwrap());
        let expected = parse(&std::fs::read_to_string(golden.dir.join("expected.ndjson")).unwrap());
        assert_eq!(ours.len(), expected.len());
        for (ours, expected) in ours.iter().zip(&expected) {
            let (ours, expected) = (by_item(ours), by_item(expected));
            assert_eq!(ours.len(), expected.len());
            for ((item, score), (expected_item, expected_score)) in ours.iter().zip(&expected) {
                assert_eq!(item, expected_item);
                assert!((score - expected_score).abs() <= 1e-5, "item {item}: {score} vs {expected_score}");
            }
        }
    }
}

fn convert(golden: &Path, weights: &Path, bundle: &Path) {
    let status = program::sesrec()
        .arg("convert")
        .arg("--weights")
        .arg(weights)
        .arg("--config")
        .arg(golden.join("config.json"))
        .arg("--catalog")
        .arg(golden.join("catalog"))
        .arg("--out")
        .arg(bundle)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Items with their scores, by item: neighbours can be closer than the tolerance. Scores must descend.
fn by_item(response: &serde_json::Value) -> Vec<(String, f64)> {
    let items = response["items"].as_array().unwrap();
    let pair =
        |item: &serde_json::Value| (item["itemId"].as_str().unwrap().to_owned(), item["score"].as_f64().unwrap());
    let mut items: Vec<_> = items.iter().map(pair).collect();
    assert!(items.is_sorted_by(|a, b| a.1 >= b.1), "scores descend");
    items.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    items
}
