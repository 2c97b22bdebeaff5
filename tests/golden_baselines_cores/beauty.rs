//! FMLP-Rec's released Beauty weights: converted as a user would, they rank as their publication says.

use std::{fs, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use sesrec::{
    data::{Dataset, EvaluationNegatives, Existing, Featurizer, Split, UserFeatures, UserRow, kuaisar},
    eval::{Evaluator, Metrics},
    model::{
        Bundle, ModelConfig, RankerOptions, ScoreRequest, Weights,
        baselines::{Baseline, Fmlp, dot},
        convert::{Sources, convert},
    },
    nn::{Dropout, RowZero, gather_rows},
};

use crate::{
    fixture::{Fixture, root},
    skip::skipped,
};

const ITEMS: usize = 12_101;
const USERS: usize = 22_363;
/// The release's log, and how far fresh negatives may take a metric.
const PUBLISHED: [(&str, f64); 3] = [("HIT@1", 0.1942), ("NDCG@10", 0.3317), ("MRR", 0.2985)];
const TOLERANCE: f64 = 0.002;

const CONFIG: &str = r#"{
    "model": "fmlp",
    "item_attributes": [{"name": "id", "rows": 12102, "dim": 64}],
    "max_rec_history": 50, "max_src_history": 0, "max_query_words": 0, "max_clicked_items": 0
}"#;

/// Items and users are numbered from 1.
fn bundle(weights: &Path) -> Bundle {
    let dir = tempfile::tempdir().unwrap();
    let table = |name: &str, header: &str, count: usize, first_row: usize| {
        let lines = (1..=count).map(|n| format!("{n},{}\n", n - 1 + first_row));
        fs::write(dir.path().join(name), format!("{header}\n{}", lines.collect::<String>())).unwrap();
    };
    table("items.csv", "item_id,id_row", ITEMS, 1);
    table("users.csv", "user_id,id_row", USERS, 0);
    table("queries.csv", "query_id,id_row", 0, 1);
    table("sources.csv", "source,source_row", 0, 0);
    let config = dir.path().join("config.json");
    fs::write(&config, CONFIG).unwrap();
    convert(&Sources { weights: weights.to_owned(), config, catalogue: dir.path().to_owned() }).unwrap()
}

#[test]
fn converted_weights_score_as_the_release() {
    let Some(root) = root() else { return };
    let folder = root.join("fmlp_beauty_checkpoint");
    let golden = Fixture::open("fmlp_beauty_checkpoint", &[]).unwrap();
    let bundle = bundle(&folder.join("weights.safetensors"));
    let model = bundle.ranker(&Device::Cpu, RankerOptions::default()).unwrap();
    let rows = |name: &str| -> Vec<u32> { golden.rows(name).iter().map(|&row| u32::try_from(row).unwrap()).collect() };
    let (targets, negatives) = (rows("target"), rows("negatives"));
    let histories = rows("input_ids");
    let users: Vec<UserFeatures> = histories
        .chunks(50)
        .map(|items| UserFeatures {
            user: UserRow::Mean,
            recommendations: items.iter().copied().filter(|&item| item != 0).collect(),
            searches: vec![],
            as_of: None,
        })
        .collect();
    let states = model.encode(&users.iter().collect::<Vec<_>>()).unwrap();
    let items: Vec<Vec<u32>> =
        targets.iter().zip(negatives.chunks(99)).map(|(&target, others)| [&[target], others].concat()).collect();
    let requests: Vec<_> = states.iter().zip(&items).map(|(state, items)| ScoreRequest { state, items }).collect();
    let scores = model.score(&requests).unwrap().concat();
    golden.compare("scores", &Tensor::from_vec(scores, (50, 100), &Device::Cpu).unwrap());
    // And so does the network, from its vectors.
    let ModelConfig::Fmlp(config) = &bundle.config else { panic!("not FMLP-Rec") };
    let network = config.network(&Weights::new(&bundle.tensors)).unwrap();
    let table = &candle_core::safetensors::load(folder.join("weights.safetensors"), &Device::Cpu).unwrap();
    let vectors = |rows: &[u32], shape: (usize, usize, usize)| {
        gather_rows(&table["item_embeddings.weight"], rows, RowZero::Learns).unwrap().reshape(shape).unwrap()
    };
    let (_, blocks) = network.forward(&vectors(&histories, (50, 50, 64)), &mut Dropout::off()).unwrap();
    let users = Fmlp::last(&blocks.last().unwrap().output).unwrap();
    golden.compare("user_vec", &users);
    let logits = dot(&users, &vectors(&items.concat(), (50, 100, 64))).unwrap();
    golden.compare("scores", &logits);
    let better = logits.narrow(1, 1, 99).unwrap().broadcast_gt(&logits.narrow(1, 0, 1).unwrap()).unwrap();
    let ranks = |tensor: Tensor| tensor.to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1::<i64>().unwrap();
    let ours = better.to_dtype(DType::F32).unwrap().sum(1).unwrap();
    assert_eq!(ranks(ours), ranks(golden.output("ranks")));
    golden.all_compared(&["ranks"]); // above
}

#[test]
fn the_release_reproduces_its_published_metrics() {
    let Some(root) = root() else { return };
    let logs = std::env::var_os("SESREC_BEAUTY")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/beauty"), Into::into);
    if !logs.is_dir() {
        skipped(&format!("{} is not there (set SESREC_BEAUTY)", logs.display()));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    kuaisar::read(&logs, &kuaisar::ImportOptions::default()).unwrap().write(&data, Existing::Refuse).unwrap();
    let dataset = Dataset::read(&data).unwrap();
    let bundle = bundle(&root.join("fmlp_beauty_checkpoint/weights.safetensors"));
    let model = bundle.ranker(&Device::Cpu, RankerOptions::default()).unwrap();
    let negatives = EvaluationNegatives::sampled(99, 1);
    let featurizer = Featurizer::new(Arc::clone(&bundle.catalogue), model.limits());
    let evaluator = Evaluator::new(&dataset, &negatives, featurizer).unwrap();
    let targets = dataset.targets(Split::Test);
    assert_eq!(targets.len(), USERS);
    let ranks = evaluator.ranks(&*model, &targets).unwrap();
    let metrics = Metrics::of(ranks.into_iter().map(|user| user.rank));
    let ours = Metrics::NAMES.iter().zip(metrics.values()).collect::<Vec<_>>();
    println!("{ours:?}");
    for (name, published) in PUBLISHED {
        let (_, ours) = ours.iter().find(|(ours, _)| **ours == name).unwrap();
        assert!((ours - published).abs() <= TOLERANCE, "{name}: {ours}, published {published}");
    }
}
