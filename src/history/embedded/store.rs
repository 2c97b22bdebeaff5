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
/// An acknowledged append has been synced to the disk. Clones of the data may be taken while nothing runs.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    jobs: mpsc::UnboundedSender<Job>,
    /// Bounds the queue in events: the channel itself has no bound.
    places: Arc<Semaphore>,
    scans: Arc<Semaphore>,
}

impl EmbeddedStore {
    /// Opens or creates a directory.
    ///
    /// # Errors
    /// `Config` if another process has it open or it can't be created, read or written.
    pub fn open(directory: &Path, options: HistoryOptions, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
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
        std::thread::Builder::new()
            .name("history-writer".into())
            .spawn(move || writer::run(&writer, queue))
            .map_err(|error| StoreError::Config(format!("can't start the writer thread: {error}")))?;
        let [places, scans] = [QUEUE_EVENTS, SCANS].map(|permits| Arc::new(Semaphore::new(permits)));
        Ok(Self { shared, jobs, places, scans })
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

    /// A user's durable state from the files. Dropped, it is not begun any more; what has begun keeps its place until it
    /// ends.
    async fn scan(&self, user: UserKey) -> Result<Arc<Cached>, StoreError> {
        let closed = |_| StoreError::Unavailable("the store is closed".into());
        let place = self.scans.clone().acquire_owned().await.map_err(closed)?;
        let shared = self.shared.clone();
        let scan = AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
            let _place = place;
            let files = shared.files()?;
            let ticket = shared.cache.ticket(&user);
            let found = Cached::new(files.read(&user)?);
            // While the files are held: they are not reopened, and the cache not cleared, before this is through.
            shared.cache.offer(user, &ticket, &found);
            drop(files);
            Ok(found)
        }));
        scan.await.unwrap_or_else(|failed| Err(StoreError::Unavailable(format!("reading failed: {failed}"))))
    }
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
    use std::time::Duration;

    use super::*;
    use crate::history::SystemClock;

    /// How many of 300 loads that met their deadline while the disk stalled are still carried out after it, by a runtime
    /// with so many threads for blocking work.
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
}
