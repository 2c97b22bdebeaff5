//! A model that records its calls and can be held at a gate, and an engine around it.

#[path = "../support/metric.rs"]
mod metric;

use std::sync::{Arc, Condvar, Mutex};

use candle_core::Device;
use sesrec::{
    data::{Catalogue, EntityTable, Featurizer, HistoryLimits, SearchFeatures, UserFeatures, UserRow, Vocabulary},
    domain::{
        Deadline, EventAttention, EventWeight, HistoryVersion, HistoryWeights, ItemAttention, ModelVersion, RankedItem,
        UserId,
    },
    engine::{Engine, EngineError, EngineOptions, Explain, LoadedModel, ModelInfo, ModelSlot, RankJob, Ranked},
    model::{
        InputSizes, ModelError, RankingModel, ScoreRequest, TrainableModel, UserState,
        sesrec::{SesRecConfig, SesRecTrainable},
    },
    nn::sigmoid,
    telemetry::Metrics,
};
use tokio::{sync::watch, task::JoinHandle};

/// Panics in `encode`.
pub const POISONED_USER: usize = 4_000;
/// Fails in `score`.
pub const POISONED_ITEM: u32 = 9_000;
/// Scores NaN.
pub const NAN_ITEM: u32 = 9_001;
const ITEMS: usize = 10_000;
const STATE_BYTES: usize = 4_000;

/// A handle on the model's recorder; the model itself belongs to the engine.
#[derive(Clone)]
pub struct FakeModel(Arc<Fake>);

struct Fake {
    factor: f32,
    log: Mutex<Log>,
    gate: Mutex<bool>,
    opened: Condvar,
    entered: watch::Sender<usize>,
}

#[derive(Default)]
struct Log {
    encoded_users: Vec<usize>,
    batches: Vec<Vec<usize>>,
}

impl FakeModel {
    /// Scores are multiplied by `factor`, so that models can be told apart.
    pub fn new(factor: f32) -> Self {
        Self(Arc::new(Fake {
            factor,
            log: Mutex::default(),
            gate: Mutex::new(true),
            opened: Condvar::new(),
            entered: watch::Sender::new(0),
        }))
    }

    /// Holds the next calls of `encode`.
    pub fn close_gate(&self) {
        *self.0.gate.lock().unwrap() = false;
    }

    /// Lets them go on.
    pub fn open_gate(&self) {
        *self.0.gate.lock().unwrap() = true;
        self.0.opened.notify_all();
    }

    /// Waits until `encode` has been called so often.
    pub async fn entered(&self, times: usize) {
        self.0.entered.subscribe().wait_for(|&entered| entered >= times).await.unwrap();
    }

    /// Users that were encoded, sorted; twice where it happened twice.
    pub fn encoded_users(&self) -> Vec<usize> {
        let mut users = self.0.log.lock().unwrap().encoded_users.clone();
        users.sort_unstable();
        users
    }

    /// Candidates per request, by batch.
    pub fn batches(&self) -> Vec<Vec<usize>> {
        self.0.log.lock().unwrap().batches.clone()
    }

    pub fn scored_requests(&self) -> usize {
        self.batches().iter().map(Vec::len).sum()
    }
}

fn score(factor: f32, user: usize, item: u32) -> f32 {
    // Few levels, so that there are ties.
    factor * ((user * 31 + item as usize * 17) % 13) as f32
}

impl RankingModel for FakeModel {
    fn limits(&self) -> HistoryLimits {
        HistoryLimits { recommendations: 10, searches: 5, words: 3, clicks: 2 }
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn encode(&self, users: &[&UserFeatures]) -> Result<Vec<UserState>, ModelError> {
        self.0.entered.send_modify(|entered| *entered += 1);
        let gate = self.0.gate.lock().unwrap();
        drop(self.0.opened.wait_while(gate, |open| !*open).unwrap());
        let users: Vec<usize> = users.iter().map(|user| user.recommendations[0] as usize).collect();
        assert!(!users.contains(&POISONED_USER), "poisoned user");
        self.0.log.lock().unwrap().encoded_users.extend(&users);
        Ok(users.into_iter().map(|user| UserState::new(user, STATE_BYTES)).collect())
    }

    fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        if requests.iter().any(|request| request.items.contains(&POISONED_ITEM)) {
            return Err(ModelError::Config("poisoned item".into()));
        }
        self.0.log.lock().unwrap().batches.push(requests.iter().map(|request| request.items.len()).collect());
        let of = |request: &ScoreRequest<'_>, item: u32| match item {
            NAN_ITEM => f32::NAN,
            item => score(self.0.factor, *request.state.get::<usize>(), item),
        };
        Ok(requests.iter().map(|request| request.items.iter().map(|&item| of(request, item)).collect()).collect())
    }

    fn explain(&self, _: &UserState, items: &[u32]) -> Result<(HistoryWeights, Vec<ItemAttention>), ModelError> {
        let weight = EventWeight { coattention: 0.5, similar: true, dissimilar: false };
        let weights = HistoryWeights { recommendations: vec![weight; 2], searches: vec![] };
        let attention = items.iter().map(|&item| ItemAttention {
            recommendations: EventAttention { all: vec![item as f32], ..EventAttention::default() },
            searches: EventAttention::default(),
        });
        Ok((weights, attention.collect()))
    }
}

/// With a catalogue of 10,000 items.
pub fn loaded(model: FakeModel, version: &str) -> LoadedModel {
    let ids: Vocabulary = (1..ITEMS).map(|n| format!("item{n}")).collect();
    let catalogue = Catalogue { items: EntityTable { ids, ..EntityTable::padded() }, ..Catalogue::default() };
    LoadedModel {
        featurizer: Featurizer::new(Arc::new(catalogue), model.limits()),
        ranker: Box::new(model),
        info: ModelInfo {
            name: "fake".into(),
            version: ModelVersion::new(version).unwrap(),
            kind: "fake".into(),
            config_json: "{}".into(),
            loaded_at: std::time::SystemTime::now(),
            load_time: std::time::Duration::ZERO,
        },
    }
}

/// Two events; the first tells the fake model who it is.
pub fn features(user: usize) -> UserFeatures {
    UserFeatures { user: UserRow::Mean, recommendations: vec![user as u32, 1], searches: vec![], as_of: None }
}

pub fn key(user: usize, version: u64) -> (UserId, HistoryVersion) {
    (UserId::new(&format!("user{user}")).unwrap(), HistoryVersion(version))
}

pub fn job(model: &Arc<LoadedModel>, user: usize, candidates: usize) -> RankJob {
    RankJob {
        model: model.clone(),
        features: Arc::new(features(user)),
        cache_key: None,
        items: (1..).take(candidates).collect(),
        top_k: 0,
        explain: Explain::No,
        deadline: Deadline::after(std::time::Duration::from_secs(60)),
    }
}

pub fn expected(factor: f32, job: &RankJob) -> Vec<RankedItem> {
    let user = job.features.recommendations[0] as usize;
    let logits = job.items.iter().map(|&item| score(factor, user, item));
    let mut items: Vec<(usize, f32)> = logits.enumerate().collect();
    items.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
    let mut scores: Vec<f32> = items.iter().map(|&(_, logit)| logit).collect();
    sigmoid(&mut scores);
    let ranked = items.into_iter().zip(scores);
    ranked.map(|((candidate, _), score)| RankedItem { candidate, score }).collect()
}

/// The value of a series.
pub fn metric(metrics: &Metrics, series: &str) -> f64 {
    metric::value(&metrics.encode(), series)
}

/// An engine with a fake model.
pub struct Harness {
    pub model: FakeModel,
    pub engine: Engine,
    slot: Arc<ModelSlot>,
    metrics: Metrics,
}

impl Harness {
    pub fn new(options: EngineOptions) -> Self {
        let (model, metrics) = (FakeModel::new(1.0), Metrics::new());
        let slot = Arc::new(ModelSlot::new(loaded(model.clone(), "one"), metrics.clone()));
        let engine = Engine::start(slot.clone(), options, metrics.clone());
        Self { model, engine, slot, metrics }
    }

    pub fn job(&self, user: usize, candidates: usize) -> RankJob {
        job(&self.slot.live(), user, candidates)
    }

    pub fn expected(&self, job: &RankJob) -> Vec<RankedItem> {
        expected(1.0, job)
    }

    pub fn spawn(&self, job: RankJob) -> JoinHandle<Result<Ranked, EngineError>> {
        let engine = self.engine.clone();
        tokio::spawn(async move { engine.rank(job).await })
    }

    /// Waits until so many requests wait.
    pub async fn queued(&self, requests: usize) {
        while self.metric("sesrec_engine_queued_requests") != requests as f64 {
            tokio::task::yield_now().await;
        }
    }

    pub fn metric(&self, series: &str) -> f64 {
        metric(&self.metrics, series)
    }
}

/// SESRec with random weights over 300 items.
pub fn sesrec() -> LoadedModel {
    let catalogue = Catalogue {
        items: EntityTable { ids: (1..300).map(|n| format!("item{n}")).collect(), ..EntityTable::padded() },
        users: EntityTable { ids: (0..20).map(|n| format!("user{n}")).collect(), ..EntityTable::default() },
        queries: EntityTable {
            ids: (0..10).map(|n| format!("word{n}")).collect(),
            words: (1..=10).map(|word| [word]).collect(),
            ..EntityTable::padded()
        },
        words: EntityTable { ids: (0..10).map(|n| format!("word{n}")).collect(), ..EntityTable::padded() },
        sources: EntityTable { ids: (0..3).map(|n| format!("source{n}")).collect(), ..EntityTable::default() },
        ..Catalogue::default()
    };
    let config = SesRecConfig::for_catalogue(&catalogue, InputSizes::AMAZON);
    let catalogue = Arc::new(catalogue);
    let model = SesRecTrainable::new(config, catalogue.clone(), 7, &Device::Cpu).unwrap();
    let ranker = model.ranker().unwrap();
    let mut loaded = loaded(FakeModel::new(1.0), "sesrec");
    loaded.featurizer = Featurizer::new(catalogue, ranker.limits());
    loaded.ranker = ranker;
    loaded
}

/// Histories of every length, empty ones among them; two thirds may be cached.
pub fn sesrec_job(model: &Arc<LoadedModel>, n: usize) -> RankJob {
    let row = |k: usize| (1 + (n * 37 + k * 11) % 299) as u32;
    let search = |k: usize| SearchFeatures {
        query: ((n + k) % 11) as u32,
        words: (0..k % 4).map(|w| (1 + (n + w) % 10) as u32).collect(),
        source: (k % 3) as u32,
        clicks: (0..k % 2).map(row).collect(),
        place: 0,
    };
    RankJob {
        features: Arc::new(UserFeatures {
            user: if n.is_multiple_of(3) { UserRow::Mean } else { UserRow::Known((n % 20) as u32) },
            recommendations: (0..n % 16).map(row).collect(),
            searches: (0..(n / 3) % 16).map(search).collect(),
            as_of: None,
        }),
        cache_key: (!n.is_multiple_of(3)).then(|| key(n, 1)),
        items: (0..1 + n * 2).map(|k| row(k * 5)).collect(),
        explain: Explain::Yes,
        ..job(model, n, 0)
    }
}
