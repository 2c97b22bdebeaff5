//! Random lives of users, in a store and in memory side by side: every answer, version and view must be equal.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use sesrec::{
    domain::{Event, HistoryVersion},
    history::{Clock, EmbeddedStore, HistoryOptions, HistoryStore, Loaded, MemoryStore, RedisOptions, RedisStore},
};

use crate::{fixture::*, redis_server::RedisServer};

#[derive(Debug, Clone)]
enum Step {
    Append(Event),
    /// With the version of the last load, or none.
    Load(Known),
    Erase,
    /// Microseconds.
    Advance(u64),
}

#[derive(Debug, Clone, Copy)]
enum Known {
    Last,
    Nothing,
}

/// Identifiers that contain each other, of many lengths and alphabets, with bytes that look like headers.
fn any_id() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "aa", "ab", "B", "é", "日本", "\u{a0}", "~", "\u{10ffff}", "a b", "%s"])
            .prop_map(str::to_owned),
        2 => "[a-c]{1,3}",
        1 => "[^\\p{Cc}]{1,6}",
        1 => (250_usize..=512).prop_map(|length| "x".repeat(length)),
    ]
}

/// Around the clock's start, with ties, and steps that carry over every part of a 64-bit number.
fn any_time() -> impl Strategy<Value = u64> {
    let base = START_MICROS * 1000;
    let steps = prop::sample::select(vec![1_u64, 255, 256, 1000, 65_536, 1 << 24, 1 << 32, 1 << 40]);
    prop_oneof![
        6 => (0..12_u64, steps.clone()).prop_map(move |(n, step)| base + n * step),
        3 => (0..12_u64, steps).prop_map(move |(n, step)| base - n * step),
        1 => prop::sample::select(vec![0_u64, 1, 255, i64::MAX as u64, i64::MAX as u64 - 1]),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let search_id = || prop::sample::select(vec!["s", "t", "ss", "sø"]);
    (0..10_u8, any_id(), any_time(), search_id(), prop::collection::vec("[i-k]", 0..3)).prop_map(
        |(kind, id, time, search_id, items)| match kind {
            0..4 => recommendation(&id, time, items.first().map_or("i", String::as_str)),
            4..7 => search(&id, time, search_id, &items.iter().map(String::as_str).collect::<Vec<_>>()),
            _ => click(&id, time, search_id, items.first().map_or("i", String::as_str)),
        },
    )
}

fn any_life() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        40 => any_event().prop_map(Step::Append),
        6 => Just(Step::Load(Known::Last)),
        3 => Just(Step::Load(Known::Nothing)),
        1 => Just(Step::Erase),
        4 => prop_oneof![0..4_u64, 0..2000_u64].prop_map(Step::Advance),
    ];
    // Replays of steps, at random places.
    let replays = prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..8);
    (prop::collection::vec(step, 1..40), replays).prop_map(|(mut life, replays)| {
        for (from, to) in replays {
            let replayed = life[from.index(life.len())].clone();
            life.insert(to.index(life.len() + 1), replayed);
        }
        life
    })
}

/// Bounds to live under.
fn bounds() -> [HistoryOptions; 4] {
    let small = options();
    [
        small,
        HistoryOptions { time_to_live: Some(Duration::from_micros(10)), ..small },
        HistoryOptions {
            max_recommendations: 8,
            max_searches: 6,
            max_clicks: 3,
            time_to_live: Some(Duration::from_millis(20)),
            ..small
        },
        HistoryOptions { max_searches: 0, max_clicks: 0, max_pending_clicks: 1, ..small },
    ]
}

/// Lives through `life` as user `name` in both stores.
async fn compare(tested: &Tested, life: &[Step], name: &str) {
    let (clock, store) = (&tested.clock, &*tested.store);
    let model = MemoryStore::new(tested.options, clock.clone());
    let user = user(name);
    let mut known = HistoryVersion(0);
    clock.set(START_MICROS);
    for (n, step) in life.iter().chain([&Step::Load(Known::Nothing)]).enumerate() {
        match step {
            Step::Append(event) => {
                let event = of_user(name, event.clone());
                let expected = append(&model, &event).await;
                assert_eq!(append(store, &event).await, expected, "step {n}: {event:?}");
                tested.seen[expected.outcome as usize].fetch_add(1, Ordering::Relaxed);
            }
            Step::Load(which) => {
                let known_now = matches!(which, Known::Last).then_some(known);
                let expected = model.load(&user, known_now, soon()).await.unwrap();
                assert_eq!(store.load(&user, known_now, soon()).await.unwrap(), expected, "step {n}");
                known = view(&model, &user).await.version;
            }
            Step::Erase => {
                let expected = model.delete(&user, soon()).await.unwrap();
                assert_eq!(store.delete(&user, soon()).await.unwrap(), expected, "step {n}");
            }
            Step::Advance(micros) => clock.advance(*micros),
        }
    }
    let history = model.load(&user, None, soon()).await.unwrap();
    let left = Left { user: name.into(), micros: clock.now().nanos() / 1000, history };
    tested.left.lock().unwrap().push(left);
}

struct Tested {
    store: Arc<dyn HistoryStore>,
    clock: Arc<TestClock>,
    options: HistoryOptions,
    /// How often each outcome came.
    seen: [AtomicUsize; 4],
    /// What each user was left with, and when.
    left: Mutex<Vec<Left>>,
}

struct Left {
    user: String,
    micros: u64,
    history: Loaded,
}

impl Tested {
    fn new(store: Arc<dyn HistoryStore>, clock: Arc<TestClock>, options: HistoryOptions) -> Self {
        Self { store, clock, options, seen: Default::default(), left: Mutex::default() }
    }
}

fn run(stores: &[Tested], cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let users = AtomicUsize::new(0);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(0..stores.len(), any_life()), |(which, life)| {
        let name = format!("user{}", users.fetch_add(1, Ordering::Relaxed));
        let compared = runtime.block_on(async { compare(&stores[which], &life, &name).catch().await });
        compared.map_err(TestCaseError::fail)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // Or the lives were not lively enough to say anything.
    for store in stores {
        let seen = store.seen.each_ref().map(|count| count.load(Ordering::Relaxed));
        println!("{seen:?} applied, duplicate, too old, conflict");
        assert!(seen.iter().all(|&count| count > cases as usize / 100), "{seen:?}");
    }
}

/// A panic as a failed case, so that it is shrunk.
trait Catch: Future<Output = ()> + Sized {
    async fn catch(self) -> Result<(), String> {
        use futures::FutureExt;
        std::panic::AssertUnwindSafe(self).catch_unwind().await.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.unwrap_or_else(|| "panicked".into())
        })
    }
}

impl<F: Future<Output = ()>> Catch for F {}

#[test]
fn redis_lives_like_memory() {
    let server = RedisServer::start(&[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stores = bounds().into_iter().enumerate().map(|(n, options)| {
        // A clock of its own for each, and each its own prefix.
        let clock = TestClock::at(START_MICROS);
        let redis = RedisOptions { prefix: format!("test{n}:"), clock: Some(clock.clone()), ..RedisOptions::default() };
        let store = runtime.block_on(RedisStore::connect(&server.url(), redis, options)).unwrap();
        Tested::new(Arc::new(store), clock, options)
    });
    run(&stores.collect::<Vec<_>>(), 1500);
}

#[test]
fn embedded_lives_like_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = |n: usize| directory.path().join(n.to_string());
    let stores = bounds().into_iter().enumerate().map(|(n, options)| {
        let clock = TestClock::at(START_MICROS);
        let store = EmbeddedStore::open(&path(n), options, clock.clone()).unwrap();
        Tested::new(Arc::new(store), clock, options)
    });
    let stores: Vec<Tested> = stores.collect();
    run(&stores, 300);

    // So far answers came from memory. What lies in the directory is all of it and nothing else: under wide bounds,
    // what the narrow ones dropped would come back if it was still there.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (n, Tested { store, clock, left, .. }) in stores.into_iter().enumerate() {
        runtime.block_on(store.close());
        drop(store);
        let wide = HistoryOptions {
            max_recommendations: 1000,
            max_searches: 1000,
            max_clicks: 1000,
            max_pending_clicks: 1000,
            time_to_live: None,
        };
        let store = EmbeddedStore::open(&path(n), wide, clock.clone()).unwrap();
        for Left { user: name, micros, history } in left.into_inner().unwrap() {
            clock.set(micros);
            assert_eq!(
                runtime.block_on(store.load(&user(&name), None, soon())).unwrap(),
                history,
                "bounds {n}, {name}"
            );
        }
        runtime.block_on(store.close());
    }
}
