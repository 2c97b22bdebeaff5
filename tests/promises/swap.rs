//! SIGHUP under load: every answer is from exactly one version, none fails; what can't be loaded changes nothing.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use candle_core::{DType, Device, Tensor};
use sesrec::{
    domain::{History, UserId},
    engine::LoadedModel,
    model::{RankerOptions, ScoreRequest},
    proto::v1,
    service::{NewToken, Right},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bundle::{self, item},
    log::Watched,
    program,
    redis_server::until,
    server::{Client, Server},
};

fn question() -> v1::RankRequest {
    v1::RankRequest {
        user_id: "u1".into(),
        candidate_item_ids: (0..bundle::ITEMS).map(item).collect(),
        history: Some(v1::History {
            recommendations: [3, 1, 4, 1, 5].map(|n| v1::Recommendation { item_id: item(n) }).into(),
            searches: vec![],
        }),
        ..Default::default()
    }
}

/// What a bundle answers to the question, by item, without a server.
fn expected(path: &Path) -> HashMap<String, f32> {
    let model = LoadedModel::load(path, &Device::Cpu, RankerOptions::default()).unwrap();
    let recommendations = [3, 1, 4, 1, 5].map(|n| sesrec::domain::ItemId::new(&item(n)).unwrap());
    let history = History::untimed(recommendations.into(), vec![]);
    let features = model.featurizer.features(&UserId::new("u1").unwrap(), &history).features;
    let rows: Vec<u32> = (1..=bundle::ITEMS as u32).collect();
    let states = model.ranker.encode(&[&features]).unwrap();
    let mut scores = model.ranker.score(&[ScoreRequest { state: &states[0], items: &rows }]).unwrap().remove(0);
    sesrec::nn::sigmoid(&mut scores);
    scores.into_iter().enumerate().map(|(n, score)| (item(n), score)).collect()
}

/// Asks until told to stop; notes which version answered.
async fn ask(
    mut client: Client,
    answers: Arc<HashMap<String, HashMap<String, f32>>>,
    told: Arc<Mutex<HashMap<String, usize>>>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let answer = client.rank(question()).await.expect("no request fails during a swap").into_inner();
        let expected = answers.get(&answer.model_version).expect("a version that was written");
        assert_eq!(answer.items.len(), expected.len());
        for ranked in &answer.items {
            let score = expected[&ranked.item_id];
            assert!((ranked.score - score).abs() < 1e-5, "{}: {} is not {score}", ranked.item_id, ranked.score);
        }
        *told.lock().unwrap().entry(answer.model_version).or_default() += 1;
    }
}

async fn live(server: &Server) -> String {
    server.client().get_model_info(v1::GetModelInfoRequest {}).await.unwrap().into_inner().version
}

/// The ports are open before the model is loaded, so that somebody may send signals from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_while_the_model_is_loaded_counts_when_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle");
    bundle::write(&path, 1);
    let mut server = Server::start(directory.path(), &path, "memory", &[]);
    until("its port is open", async || tokio::net::TcpStream::connect(("127.0.0.1", server.port())).await.is_ok())
        .await;
    server.signal("HUP");
    server.ready().await;
    server.logged("model unchanged", 0).await;
}

/// Tokens and bundle, each by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_read_anew_is_counted() {
    const MODEL: &str = r#"sesrec_reload_failures_total{what="model"}"#;
    const TOKENS: &str = r#"sesrec_reload_failures_total{what="tokens"}"#;
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens.toml");
    std::fs::write(&tokens, NewToken::generate("feed", [Right::Rank]).unwrap().entry()).unwrap();
    let arguments = ["--store", "memory", "--tokens", tokens.to_str().unwrap()];
    let server = Watched::start(program::sesrec(), directory.path(), &arguments);
    server.ready().await;
    assert_eq!((server.value(MODEL).await, server.value(TOKENS).await), (0.0, 0.0));
    std::fs::write(&tokens, "").unwrap();
    server.signal("HUP");
    until("the tokens are counted", async || server.value(TOKENS).await == 1.0).await;
    // Not before the bundle has been read for this signal.
    server.logs("model unchanged").await;
    std::fs::remove_file(directory.path().join("bundle/manifest.json")).unwrap();
    server.signal("HUP");
    until("the model is counted", async || server.value(MODEL).await == 1.0).await;
    until("the tokens are counted again", async || server.value(TOKENS).await == 2.0).await;
    assert_eq!(server.value("sesrec_model_swaps_total").await, 0.0, "the first time the bundle was the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_fail_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle");
    let mut answers = HashMap::new();
    let versions: Vec<String> = (1..=2)
        .map(|seed| {
            let version = bundle::write(&path, seed);
            answers.insert(version.clone(), expected(&path));
            version
        })
        .collect();
    let mut scores = answers.values().map(|scores| scores["i7"]);
    assert!((scores.next().unwrap() - scores.next().unwrap()).abs() > 1e-3, "the versions can be told apart");

    let mut server = Server::start(directory.path(), &path, "memory", &[]);
    server.ready().await;
    let (expected, told, stop) = (Arc::new(answers), Arc::<Mutex<_>>::default(), CancellationToken::new());
    let ask = || ask(server.client(), expected.clone(), told.clone(), stop.clone());
    let callers: Vec<_> = (0..8).map(|_| tokio::spawn(ask())).collect();
    let answered = |version: &String| told.lock().unwrap().get(version).copied().unwrap_or(0);
    let answers = async |version: &String| {
        let before = answered(version);
        // Twice as many as may have been under way since it was live last.
        until("the live version answers", async || answered(version) > before + 16).await;
    };
    for swap in 0..6 {
        answers(&versions[(swap + 1) % 2]).await;
        bundle::write(&path, 1 + swap as u64 % 2);
        server.signal("HUP");
        server.logged("model swapped", swap).await;
        assert_eq!(live(&server).await, versions[swap % 2]);
    }
    answers(&versions[1]).await;
    stop.cancel();
    for caller in callers {
        caller.await.unwrap();
    }
    println!("6 swaps under load: answers by version {:?}, none failed", told.lock().unwrap());
}

/// Makes the manifest true again after a file was changed: damage that no checksum shows.
fn sign(bundle: &Path) {
    let path = bundle.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (name, sum) in manifest["files"].as_object_mut().unwrap() {
        let bytes = std::fs::read(bundle.join(name)).unwrap();
        sum["bytes"] = bytes.len().into();
        sum["blake3"] = blake3::hash(&bytes).to_hex().to_string().into();
    }
    std::fs::write(&path, manifest.to_string()).unwrap();
}

/// Changes one tensor.
fn with_tensor(bundle: &Path, name: &str, change: impl FnOnce(&Tensor) -> Tensor) {
    let path = bundle.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let changed = change(&tensors[name]);
    tensors.insert(name.into(), changed);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    sign(bundle);
}

/// The name of some learned tensor of two dimensions.
fn a_matrix(bundle: &Path) -> String {
    let tensors = candle_core::safetensors::load(bundle.join("model.safetensors"), &Device::Cpu).unwrap();
    let matrix = |(name, tensor): (&String, &Tensor)| {
        (tensor.dtype() == DType::F32 && tensor.dims().len() == 2).then(|| name.clone())
    };
    tensors.iter().filter_map(matrix).min().unwrap()
}

fn flip_a_bit(path: PathBuf, place: usize) {
    let mut bytes = std::fs::read(&path).unwrap();
    let place = place % bytes.len();
    bytes[place] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

type Damage = Box<dyn Fn(&Path)>;

/// How bundles get damaged, and what the refusal has to name.
fn damages(matrix: &str) -> Vec<(&'static str, Damage, String)> {
    let name = matrix.to_owned();
    let of = |change: fn(&Tensor) -> Tensor| -> Damage {
        let name = name.clone();
        Box::new(move |bundle| with_tensor(bundle, &name, change))
    };
    let weights = |bundle: &Path| bundle.join("model.safetensors");
    vec![
        ("a bit of the weights", Box::new(move |b| flip_a_bit(weights(b), 4321)), "model.safetensors".into()),
        (
            "a bit of the catalogue",
            Box::new(|b| flip_a_bit(b.join("catalogue/items.parquet"), 99)),
            "items.parquet".into(),
        ),
        ("a bit of the configuration", Box::new(|b| flip_a_bit(b.join("config.json"), 10)), "config.json".into()),
        (
            "truncated weights",
            Box::new(move |b| {
                let bytes = std::fs::read(weights(b)).unwrap();
                std::fs::write(weights(b), &bytes[..bytes.len() / 2]).unwrap();
            }),
            "model.safetensors".into(),
        ),
        (
            "truncated weights with a manifest that says so",
            Box::new(move |b| {
                let bytes = std::fs::read(weights(b)).unwrap();
                std::fs::write(weights(b), &bytes[..bytes.len() / 2]).unwrap();
                sign(b);
            }),
            "model.safetensors".into(),
        ),
        ("no weights", Box::new(move |b| std::fs::remove_file(weights(b)).unwrap()), "model.safetensors".into()),
        ("no manifest", Box::new(|b| std::fs::remove_file(b.join("manifest.json")).unwrap()), "manifest.json".into()),
        ("a wrong shape", of(|tensor| tensor.narrow(0, 0, 1).unwrap()), matrix.to_owned()),
        ("a wrong type", of(|tensor| tensor.to_dtype(DType::F64).unwrap()), matrix.to_owned()),
        ("NaN", of(|tensor| (tensor * f64::NAN).unwrap()), matrix.to_owned()),
        ("infinity", of(|tensor| (tensor * f64::INFINITY).unwrap()), matrix.to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_bundle_is_refused_by_name_and_the_live_model_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle");
    let version = bundle::write(&path, 1);
    let answers = Arc::new(HashMap::from([(version.clone(), expected(&path))]));
    let mut server = Server::start(directory.path(), &path, "memory", &[]);
    server.ready().await;
    let stop = CancellationToken::new();
    let asking = tokio::spawn(ask(server.client(), answers, Arc::default(), stop.clone()));
    let matrix = a_matrix(&path);
    for (refused, (what, damage, named)) in damages(&matrix).into_iter().enumerate() {
        // Another model, so that it would show.
        std::fs::remove_dir_all(&path).unwrap();
        bundle::write(&path, 2);
        damage(&path);
        let before = server.log().len();
        server.signal("HUP");
        server.logged("the live model stays", refused).await;
        let said = server.log()[before..].to_owned();
        assert!(said.contains(&named), "{what}: {named} is not in {said}");
        assert_eq!(live(&server).await, version, "{what}");
    }
    stop.cancel();
    asking.await.unwrap();
    // A whole one goes live after all that.
    std::fs::remove_dir_all(&path).unwrap();
    let other = bundle::write(&path, 2);
    server.signal("HUP");
    server.logged("model swapped", 0).await;
    assert_eq!(live(&server).await, other);
}
