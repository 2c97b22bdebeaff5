//! The handle: reads, and the queue to the writer.

use std::{
    path::Path,
    sync::{Arc, RwLock},
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{Appended, Clock, HistoryOptions, HistoryStore, Loaded, StoreError, user_key::UserKey},
    cache::{Cached, TimelineCache},
    files::Files,
    sweeper::{self, Tempo},
    writer::{self, Job, Shared, Ticket},
};
use crate::domain::{Deadline, Event, HistoryVersion, UserId};

/// Timelines that stay in memory.
const CACHE_BYTES: u64 = 256 << 20;
/// Events that wait for the writer; further callers wait for a place, within their deadline.
const QUEUE_EVENTS: usize = 32_768;
/// Reads of the files at a time; further ones wait for a place, within their deadline. A disk that stalls holds so many
/// threads and no more.
const SCANS: usize = 64;

/// Histories in a directory that this process has to itself.
///
/// An acknowledged append has been synced to the disk. The directory may be copied while nothing has it open.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    jobs: mpsc::UnboundedSender<Job>,
    /// Bounds the queue in events: the channel itself has no bound.
    places: Arc<Semaphore>,
    scans: Arc<Semaphore>,
    /// Ends the sweeper when it is dropped.
    _sweeping: std::sync::mpsc::Sender<()>,
}

impl EmbeddedStore {
    /// Opens or creates a directory.
    ///
    /// # Errors
    /// `Config` if another process has it open or it can't be created, read or written.
    pub fn open(directory: &Path, options: HistoryOptions, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::open_swept(directory, options, clock, Tempo::default())
    }

    fn open_swept(
        directory: &Path,
        options: HistoryOptions,
        clock: Arc<dyn Clock>,
        tempo: Tempo,
    ) -> Result<Self, StoreError> {
        let files = Files::open(directory).map_err(|error| match error {
            // There is nothing to wait for at the start: someone has to act.
            StoreError::Unavailable(reason) => StoreError::Config(reason),
            other => other,
        })?;
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            options,
            clock,
            cache: TimelineCache::new(CACHE_BYTES),
            files: RwLock::new(Ok(Arc::new(files))),
        });
        let (jobs, queue) = mpsc::unbounded_channel();
        let writer = shared.clone();
        start("history-writer", move || writer::run(&writer, queue))?;
        let (sweeping, stop) = std::sync::mpsc::channel();
        if options.time_to_live.is_some() {
            let (shared, jobs) = (Arc::downgrade(&shared), jobs.downgrade());
            start("history-sweeper", move || sweeper::run(&shared, &jobs, tempo, &stop))?;
        }
        let [places, scans] = [QUEUE_EVENTS, SCANS].map(|permits| Arc::new(Semaphore::new(permits)));
        Ok(Self { shared, jobs, places, scans, _sweeping: sweeping })
    }

    /// Queues a job of `size` events and waits for its answer, both within the deadline.
    async fn ask<A>(
        &self,
        size: usize,
        deadline: Deadline,
        job: impl FnOnce(Ticket<A>) -> Job,
    ) -> Result<A, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".into());
        let asked = async {
            // A call larger than the whole queue takes all of it.
            let size = size.clamp(1, QUEUE_EVENTS) as u32;
            let place = self.places.clone().acquire_many_owned(size).await.map_err(|_| closed())?;
            let (answer, answered) = oneshot::channel();
            self.jobs.send(job(Ticket { answer, deadline, _place: place })).map_err(|_| closed())?;
            answered.await.map_err(|_| if deadline.is_past() { StoreError::Deadline } else { closed() })
        };
        tokio::time::timeout_at(deadline.instant(), asked).await.unwrap_or(Err(StoreError::Deadline))
    }

    /// A user's durable state from the cache or the files.
    async fn state(&self, user: UserKey, deadline: Deadline) -> Result<Arc<Cached>, StoreError> {
        if let Some(cached) = self.shared.cache.get(&user) {
            return Ok(cached);
        }
        tokio::time::timeout_at(deadline.instant(), self.scan(user)).await.unwrap_or(Err(StoreError::Deadline))
    }

    /// A user's durable state from the files. Dropped, it is not begun any more; what has begun keeps its place until
    /// it ends.
    async fn scan(&self, user: UserKey) -> Result<Arc<Cached>, StoreError> {
        let closed = |_| StoreError::Unavailable("the store is closed".into());
        let place = self.scans.clone().acquire_owned().await.map_err(closed)?;
        let shared = self.shared.clone();
        let scan = AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
            let _place = place;
            let files = shared.files()?;
            let start = shared.cache.begin_read(&user);
            let found = Cached::new(files.read(&user)?);
            // While the files are held: they are not reopened, and the cache not cleared, before this is through.
            shared.cache.offer(user, &start, &found);
            drop(files);
            Ok(found)
        }));
        scan.await.unwrap_or_else(|failed| Err(StoreError::Unavailable(format!("reading failed: {failed}"))))
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    started.map(drop).map_err(|error| StoreError::Config(format!("can't start the thread {name}: {error}")))
}

#[async_trait]
impl HistoryStore for EmbeddedStore {
    async fn append(&self, events: &[Event], deadline: Deadline) -> Vec<Result<Appended, StoreError>> {
        if events.is_empty() {
            return vec![];
        }
        let named = events.iter().map(|event| (UserKey::of(&event.user_id), event.clone())).collect();
        match self.ask(events.len(), deadline, |ticket| Job::Append { events: named, ticket }).await {
            Ok(results) => results,
            Err(error) => events.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn load(
        &self,
        user: &UserId,
        known: Option<HistoryVersion>,
        deadline: Deadline,
    ) -> Result<Loaded, StoreError> {
        let user = UserKey::of(user);
        let mut state = self.state(user, deadline).await?;
        if state.timeline.is_due(&self.shared.options, self.shared.clock.now()) {
            state = self.ask(1, deadline, |ticket| Job::Sweep { user, ticket }).await??;
        }
        Ok(if known == Some(state.timeline.version()) { Loaded::Unchanged } else { Loaded::History(state.view()) })
    }

    async fn delete(&self, user: &UserId, deadline: Deadline) -> Result<HistoryVersion, StoreError> {
        let user = UserKey::of(user);
        let erased = self.ask(1, deadline, |ticket| Job::Erase { user, ticket }).await??;
        Ok(erased.timeline.version())
    }

    async fn ping(&self, deadline: Deadline) -> Result<(), StoreError> {
        self.ask(1, deadline, |ticket| Job::Probe { ticket }).await?
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close { done }).is_ok() {
            let _ = closed.await;
        }
    }

    fn kind(&self) -> &'static str {
        "embedded"
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use super::*;
    use crate::{
        domain::{EventId, EventTime, ItemId, Payload, Recommendation},
        history::SystemClock,
    };

    /// How many of 300 loads that met their deadline while the disk stalled are still carried out after it, by a
    /// runtime with so many threads for blocking work.
    fn abandoned_scans_that_run(threads: usize) -> usize {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(threads)
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(directory.path(), HistoryOptions::default(), Arc::new(SystemClock)).unwrap();
        let users: Vec<UserId> = (0..300).map(|n| UserId::new(&format!("u{n}")).unwrap()).collect();
        let stalled = store.shared.files.write().unwrap();
        runtime.block_on(async {
            let deadline = Deadline::after(Duration::from_secs(1));
            let loads = users.iter().map(|user| store.load(user, None, deadline));
            for answer in futures::future::join_all(loads).await {
                assert!(matches!(answer, Err(StoreError::Deadline)), "{answer:?}");
            }
        });
        drop(stalled);
        runtime.block_on(async {
            // Behind the scans that have begun.
            let all = tokio::time::timeout(Duration::from_secs(30), store.scans.acquire_many(SCANS as u32)).await;
            assert!(all.is_ok_and(|places| places.is_ok()), "every place is given back");
        });
        let scanned = users.iter().filter(|user| store.shared.cache.get(&UserKey::of(user)).is_some()).count();
        runtime.block_on(async {
            let deadline = Deadline::after(Duration::from_secs(30));
            store.load(&users[299], None, deadline).await.unwrap();
            store.close().await;
        });
        scanned
    }

    #[test]
    fn scans_that_were_abandoned_before_they_began_never_run() {
        assert!((1..=4).contains(&abandoned_scans_that_run(4)));
    }

    #[test]
    fn a_stalled_disk_holds_a_bounded_number_of_threads() {
        assert!((1..=SCANS).contains(&abandoned_scans_that_run(512)));
    }

    const HOUR: Duration = Duration::from_secs(3600);

    /// Hours since 1970.
    struct Hours(AtomicU64);

    impl Clock for Hours {
        fn now(&self) -> EventTime {
            at(self.0.load(Ordering::Relaxed))
        }
    }

    fn at(hour: u64) -> EventTime {
        EventTime::from_millis(hour * 3_600_000).unwrap()
    }

    fn click(user: &str, hour: u64) -> Event {
        Event {
            event_id: EventId::new(&format!("at {hour}")).unwrap(),
            user_id: UserId::new(user).unwrap(),
            time: at(hour),
            payload: Payload::Recommendation(Recommendation { item_id: ItemId::new("i").unwrap() }),
        }
    }

    #[tokio::test]
    async fn what_is_past_its_time_goes_though_nobody_asks_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hours(AtomicU64::new(1000)));
        let options = HistoryOptions { time_to_live: Some(24 * HOUR), ..HistoryOptions::default() };
        let deadline = || Deadline::after(Duration::from_secs(30));
        // More than a step takes; half of them come back within their time.
        let users: Vec<String> = (0..300).map(|n| format!("u{n}")).collect();
        let events: Vec<Event> = (0..)
            .zip(&users)
            .flat_map(|(n, user)| [click(user, 1000)].into_iter().chain((n % 2 == 0).then(|| click(user, 1020))))
            .collect();
        let store = EmbeddedStore::open(directory.path(), options, clock.clone()).unwrap();
        assert!(store.append(&events, deadline()).await.iter().all(Result::is_ok));
        store.close().await;
        drop(store);

        clock.0.store(1030, Ordering::Relaxed);
        let pause = Duration::from_millis(2);
        let tempo = Tempo { first: pause, step: pause, round: pause };
        let store = EmbeddedStore::open_swept(directory.path(), options, clock, tempo).unwrap();
        let keys: Vec<UserKey> = users.iter().map(|user| UserKey::of(&UserId::new(user).unwrap())).collect();
        let left = || -> Vec<usize> {
            let files = store.shared.files().unwrap();
            keys.iter().map(|key| files.read(key).unwrap().view().history.recommendations.len()).collect()
        };
        let expected: Vec<usize> = (0..users.len()).map(|n| usize::from(n % 2 == 0)).collect();
        let patience = Deadline::after(Duration::from_secs(30));
        while left() != expected {
            assert!(!patience.is_past(), "{:?}", left());
            tokio::time::sleep(pause).await;
        }
        assert!(keys.iter().all(|key| store.shared.cache.get(key).is_none()), "nobody asked for any of them");
        // Going on with nothing to do, it keeps nobody from closing.
        store.close().await;
        drop(store);
        EmbeddedStore::open(directory.path(), options, Arc::new(SystemClock)).unwrap();
    }
}
