//! A model whose scores can be computed by hand.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use candle_core::Device;
use sesrec::{
    data::{Catalogue, EntityTable, Featurizer, HistoryLimits, UserFeatures},
    domain::{EventAttention, EventWeight, HistoryWeights, ItemAttention, ModelVersion},
    engine::{LoadedModel, ModelInfo},
    model::{ModelError, RankingModel, ScoreRequest, UserState},
    nn::sigmoid,
};

pub const LIMITS: HistoryLimits = HistoryLimits { recommendations: 4, searches: 3, words: 3, clicks: 2 };
/// Items `i1` to `i20` with rows 1 to 20.
pub const ITEMS: u32 = 20;

/// How a running model is made slow, or held.
#[derive(Clone, Default)]
pub struct ModelControl(Arc<Control>);

#[derive(Default)]
struct Control {
    millis: AtomicU64,
    held: Mutex<bool>,
    released: Condvar,
    broken: AtomicBool,
    calls: AtomicUsize,
}

impl ModelControl {
    /// Every score call takes this long from now on.
    pub fn slow(&self, time: Duration) {
        self.0.millis.store(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Score calls don't end before [`release`](Self::release).
    pub fn hold(&self) {
        *self.0.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.0.held.lock().unwrap() = false;
        self.0.released.notify_all();
    }

    /// Whether score calls fail.
    pub fn break_down(&self, broken: bool) {
        self.0.broken.store(broken, Ordering::SeqCst);
    }

    /// How many score calls have begun.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    fn score_call(&self) {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(self.0.millis.load(Ordering::SeqCst)));
        drop(self.0.released.wait_while(self.0.held.lock().unwrap(), |held| *held).unwrap());
    }
}

/// What an answer says of an item.
pub fn score(row: u32, history: &[u32]) -> f32 {
    let mut score = [logit(row, history)];
    sigmoid(&mut score);
    score[0]
}

/// `(row * 7 % 20) / 10`, plus 3 for every time that the history names the item: orders that differ from the rows', and
/// depend on the history.
fn logit(row: u32, history: &[u32]) -> f32 {
    let named = history.iter().filter(|&&item| item == row).count().min(2);
    (row * 7 % 20) as f32 / 10.0 + 3.0 * named as f32
}

struct FakeModel {
    control: ModelControl,
    device: Device,
}

struct State {
    items: Vec<u32>,
    recommendations: usize,
    searches: usize,
}

impl RankingModel for FakeModel {
    fn limits(&self) -> HistoryLimits {
        LIMITS
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn encode(&self, users: &[&UserFeatures]) -> Result<Vec<UserState>, ModelError> {
        let state = |user: &&UserFeatures| {
            let clicks = user.searches.iter().flat_map(|search| &search.clicks);
            let items = user.recommendations.iter().chain(clicks).copied().collect();
            let state = State { items, recommendations: user.recommendations.len(), searches: user.searches.len() };
            UserState::new(state, 256)
        };
        Ok(users.iter().map(state).collect())
    }

    fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.control.score_call();
        if self.control.0.broken.load(Ordering::SeqCst) {
            return Err(ModelError::Config("broken by the test".into()));
        }
        let scores = |request: &ScoreRequest<'_>| {
            let history = &request.state.get::<State>().items;
            request.items.iter().map(|&row| logit(row, history)).collect()
        };
        Ok(requests.iter().map(scores).collect())
    }

    /// Even events are similar, odd ones dissimilar; all receive the same attention.
    fn explain(&self, state: &UserState, items: &[u32]) -> Result<(HistoryWeights, Vec<ItemAttention>), ModelError> {
        let state = state.get::<State>();
        let weights = |n: usize| -> Vec<EventWeight> {
            let weight = |event: usize| EventWeight {
                coattention: 1.0 / n as f32,
                similar: event.is_multiple_of(2),
                dissimilar: !event.is_multiple_of(2),
            };
            (0..n).map(weight).collect()
        };
        let attention = |n: usize| {
            let share = vec![1.0 / n as f32; n];
            EventAttention { all: share.clone(), similar: share.clone(), dissimilar: share }
        };
        let (recommendations, searches) = (state.recommendations, state.searches);
        let weights = HistoryWeights { recommendations: weights(recommendations), searches: weights(searches) };
        let item = ItemAttention { recommendations: attention(recommendations), searches: attention(searches) };
        Ok((weights, vec![item; items.len()]))
    }
}

/// The model as the engine wants it.
pub fn loaded(version: &str) -> (LoadedModel, ModelControl) {
    let control = ModelControl::default();
    let catalogue = Catalogue {
        items: EntityTable { ids: (1..=ITEMS).map(|n| format!("i{n}")).collect(), ..EntityTable::padded() },
        users: EntityTable { ids: ["known"].into_iter().collect(), ..EntityTable::default() },
        queries: EntityTable {
            ids: ["red shoes"].into_iter().collect(),
            // Not in the text's order, so that it shows whose words are taken.
            words: [[2, 1]].into_iter().collect(),
            ..EntityTable::padded()
        },
        words: EntityTable { ids: ["red", "shoes"].into_iter().collect(), ..EntityTable::padded() },
        sources: EntityTable { ids: ["search_box"].into_iter().collect(), ..EntityTable::default() },
        ..Catalogue::default()
    };
    let model = LoadedModel {
        ranker: Box::new(FakeModel { control: control.clone(), device: Device::Cpu }),
        featurizer: Featurizer::new(Arc::new(catalogue), LIMITS),
        info: ModelInfo {
            name: "fake".into(),
            version: ModelVersion::new(version).unwrap(),
            kind: "fake".into(),
            config_json: r#"{"model":"fake"}"#.into(),
            loaded_at: SystemTime::now(),
            load_time: Duration::from_millis(3),
        },
    };
    (model, control)
}
