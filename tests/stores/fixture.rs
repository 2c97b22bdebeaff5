//! Stores to test, a clock to hold still, and short ways to say events.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sesrec::{
    domain::{
        Deadline, Event, EventId, EventTime, HistoryVersion, ItemId, Payload, Query, Recommendation, Search,
        SearchClick, SearchId, UserHistoryView, UserId,
    },
    history::{
        Appended, Clock, EmbeddedStore, HistoryOptions, HistoryStore, Loaded, MemoryStore, Outcome, RedisOptions,
        RedisStore,
    },
};

use crate::redis_server::{RedisServer, until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Embedded,
    Redis,
    /// Servers that are there already, by URL; each store has keys of its own.
    Shared(&'static str),
}

impl Kind {
    pub fn shared(url: String) -> Self {
        Self::Shared(url.leak())
    }
}

/// Microseconds that pass only when told.
pub struct TestClock(AtomicU64);

impl TestClock {
    pub fn at(micros: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(micros)))
    }

    pub fn set(&self, micros: u64) {
        self.0.store(micros, Ordering::SeqCst);
    }

    pub fn advance(&self, micros: u64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> EventTime {
        EventTime::from_nanos(self.0.load(Ordering::SeqCst) * 1000).unwrap()
    }
}

/// A store with what it needs to live.
pub struct Fixture {
    pub store: Arc<dyn HistoryStore>,
    pub clock: Arc<TestClock>,
    _guard: Box<dyn Any + Send + Sync>,
}

/// The clocks of tests begin here.
pub const START_MICROS: u64 = 1_700_000_000_000_000;

impl Fixture {
    pub async fn new(kind: Kind, options: HistoryOptions) -> Self {
        let clock = TestClock::at(START_MICROS);
        match kind {
            Kind::Memory => {
                let store = Arc::new(MemoryStore::new(options, clock.clone()));
                Self { store, clock, _guard: Box::new(()) }
            }
            Kind::Embedded => {
                let directory = tempfile::tempdir().unwrap();
                let store = Arc::new(EmbeddedStore::open(directory.path(), options, clock.clone()).unwrap());
                Self { store, clock, _guard: Box::new(directory) }
            }
            Kind::Redis => {
                let server = RedisServer::start(&[]);
                let redis = RedisOptions { clock: Some(clock.clone()), ..RedisOptions::default() };
                let store = Arc::new(RedisStore::connect(&server.url(), redis, options).await.unwrap());
                Self { store, clock, _guard: Box::new(server) }
            }
            Kind::Shared(url) => {
                static STORES: AtomicU64 = AtomicU64::new(0);
                let prefix = format!("{}:", STORES.fetch_add(1, Ordering::SeqCst));
                let redis = RedisOptions { clock: Some(clock.clone()), prefix, ..RedisOptions::default() };
                let store = Arc::new(RedisStore::connect(url, redis, options).await.unwrap());
                Self { store, clock, _guard: Box::new(()) }
            }
        }
    }

    pub async fn append(&self, event: &Event) -> Appended {
        append(&*self.store, event).await
    }

    #[track_caller]
    pub fn expect(&self, event: &Event, outcome: Outcome) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let before = self.version(&event.user_id).await;
            let appended = self.append(event).await;
            assert_eq!(appended.outcome, outcome, "{event:?} at {caller}");
            if outcome == Outcome::Applied {
                assert!(appended.version > before, "at {caller}");
            } else {
                assert_eq!(appended.version, before, "at {caller}");
            }
        }
    }

    pub async fn view(&self, user: &UserId) -> Arc<UserHistoryView> {
        view(&*self.store, user).await
    }

    pub async fn version(&self, user: &UserId) -> HistoryVersion {
        self.view(user).await.version
    }

    pub async fn recommended(&self) -> Vec<String> {
        let view = self.view(&user("u")).await;
        view.recommendation_events.iter().map(|event| event.event_id.to_string()).collect()
    }

    pub async fn clicked(&self) -> Vec<Vec<String>> {
        let names = |items: &Vec<ItemId>| items.iter().map(|item| item.to_string()).collect();
        let view = self.view(&user("u")).await;
        view.history.searches.iter().map(|search| names(&search.clicked_item_ids)).collect()
    }
}

pub async fn append(store: &dyn HistoryStore, event: &Event) -> Appended {
    store.append(std::slice::from_ref(event), soon()).await.remove(0).unwrap()
}

pub async fn view(store: &dyn HistoryStore, user: &UserId) -> Arc<UserHistoryView> {
    match store.load(user, None, soon()).await.unwrap() {
        Loaded::History(view) | Loaded::Unwritten(view) => view,
        Loaded::Unchanged => panic!("nothing was known"),
    }
}

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

pub fn options() -> HistoryOptions {
    HistoryOptions { max_recommendations: 3, max_searches: 2, max_clicks: 2, max_pending_clicks: 3, time_to_live: None }
}

pub fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

/// `time` in nanoseconds, for user u.
pub fn event(id: &str, time: u64, payload: Payload) -> Event {
    let time = EventTime::from_nanos(time).unwrap();
    Event { event_id: EventId::new(id).unwrap(), user_id: user("u"), time, payload }
}

pub fn recommendation(id: &str, time: u64, item: &str) -> Event {
    event(id, time, Payload::Recommendation(Recommendation { item_id: ItemId::new(item).unwrap() }))
}

pub fn search(id: &str, time: u64, search_id: &str, clicked: &[&str]) -> Event {
    let payload = Search {
        search_id: SearchId::new(search_id).unwrap(),
        query: Query::Text(format!("query of {id}").into()),
        source: Some("USER_INPUT".into()),
        clicked_item_ids: clicked.iter().map(|item| ItemId::new(item).unwrap()).collect(),
    };
    event(id, time, Payload::Search(payload))
}

pub fn click(id: &str, time: u64, search_id: &str, item: &str) -> Event {
    let payload = SearchClick { search_id: SearchId::new(search_id).unwrap(), item_id: ItemId::new(item).unwrap() };
    event(id, time, Payload::SearchClick(payload))
}

pub fn of_user(id: &str, mut event: Event) -> Event {
    event.user_id = user(id);
    event
}

/// A store over servers that are there already.
pub async fn connect(url: &str) -> RedisStore {
    RedisStore::connect(url, RedisOptions::default(), options()).await.unwrap()
}

/// Waits until a store has found a server that was started again.
pub async fn found(store: &RedisStore) {
    until("the store finds its server", async || store.ping(soon()).await.is_ok()).await;
}
