//! The thread that changes the directory: group commit.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    super::{Appended, Clock, HistoryOptions, StoreError, timeline::UserTimeline, user_key::UserKey},
    cache::{Cached, TimelineCache},
    files::{Batch, Files},
};
use crate::domain::{Deadline, Event};

/// Events that share one sync at most: bounds how long the first of them waits for the others.
const MAX_BATCH_EVENTS: usize = 4096;
/// How long a failed directory is left alone before it is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(200);

/// What the writer is asked.
pub(super) enum Job {
    Append {
        events: Vec<(UserKey, Event)>,
        ticket: Ticket<Vec<Result<Appended, StoreError>>>,
    },
    /// Drops what is past its bounds.
    Sweep {
        user: UserKey,
        ticket: Ticket<Result<Arc<Cached>, StoreError>>,
    },
    /// The same for users whom nobody asks for.
    SweepAbsent {
        users: Vec<UserKey>,
        done: oneshot::Sender<()>,
    },
    Erase {
        user: UserKey,
        ticket: Ticket<Result<Arc<Cached>, StoreError>>,
    },
    /// Succeeds when the directory is open; opens it if need be.
    Probe {
        ticket: Ticket<Result<(), StoreError>>,
    },
    /// Everything that was asked before is answered first.
    Close {
        done: oneshot::Sender<()>,
    },
}

/// A caller that waits, and its place in the queue.
pub(super) struct Ticket<A> {
    pub(super) answer: oneshot::Sender<A>,
    pub(super) deadline: Deadline,
    pub(super) _place: OwnedSemaphorePermit,
}

impl<A> Ticket<A> {
    /// Nobody waits any more: no time is spent on it.
    fn is_void(&self) -> bool {
        self.answer.is_closed() || self.deadline.is_past()
    }
}

/// What the writer and the readers share.
pub(super) struct Shared {
    pub(super) directory: PathBuf,
    pub(super) options: HistoryOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cache: TimelineCache,
    /// `Err`, and why, while closed or broken. Held for the length of a clone only.
    pub(super) files: RwLock<Result<Arc<Files>, StoreError>>,
}

impl Shared {
    /// The open directory, or why there is none.
    pub(super) fn files(&self) -> Result<Arc<Files>, StoreError> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_files(&self, files: Result<Arc<Files>, StoreError>) -> Result<Arc<Files>, StoreError> {
        std::mem::replace(&mut *self.files.write().unwrap_or_else(PoisonError::into_inner), files)
    }
}

/// Serves jobs until it is told to close, or nobody can ask any more.
pub(super) fn run(shared: &Shared, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut writer = Writer { shared, broken_since: None };
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        let mut events = size(&batch[0]);
        while events < MAX_BATCH_EVENTS
            && let Ok(job) = jobs.try_recv()
        {
            events += size(&job);
            batch.push(job);
        }
        if let Some(done) = writer.serve(batch) {
            jobs.close();
            while let Some(late) = jobs.blocking_recv() {
                writer.serve(vec![late]);
            }
            writer.close(StoreError::Unavailable("the store is closed".into()));
            let _ = done.send(());
            return;
        }
    }
    writer.close(StoreError::Unavailable("the store is closed".into()));
}

fn size(job: &Job) -> usize {
    match job {
        Job::Append { events, .. } => events.len(),
        Job::SweepAbsent { users, .. } => users.len(),
        _ => 1,
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    broken_since: Option<Instant>,
}

/// An answer that may be given once the batch is durable.
type Reply = Box<dyn FnOnce(&Result<(), StoreError>)>;

impl Writer<'_> {
    /// One group commit. Returns the sender of a `Close` among the jobs.
    fn serve(&mut self, jobs: Vec<Job>) -> Option<oneshot::Sender<()>> {
        let files = match self.open_files() {
            Ok(files) => files,
            Err(error) => return refuse(jobs, &error),
        };
        let mut closing = None;
        let mut replies: Vec<Reply> = Vec::with_capacity(jobs.len());
        let mut group = Group::new(self.shared, &files);
        for job in jobs {
            match job {
                Job::Close { done } => closing = Some(done),
                Job::Append { ticket, .. } if ticket.is_void() => {}
                Job::Append { events, ticket } => {
                    let results: Vec<_> = events.iter().map(|(user, event)| group.append(user, event)).collect();
                    replies.push(Box::new(move |committed| {
                        let _ = ticket.answer.send(match committed {
                            Ok(()) => results,
                            Err(error) => events.iter().map(|_| Err(error.clone())).collect(),
                        });
                    }));
                }
                Job::Sweep { user, ticket } => replies.push(answer_state(group.sweep(&user), ticket)),
                Job::SweepAbsent { users, done } => {
                    users.iter().for_each(|user| group.sweep_absent(user));
                    replies.push(Box::new(move |_| {
                        let _ = done.send(());
                    }));
                }
                Job::Erase { user, ticket } => replies.push(answer_state(group.erase(&user), ticket)),
                Job::Probe { ticket } => replies.push(Box::new(move |committed| {
                    let _ = ticket.answer.send(committed.clone());
                })),
            }
        }
        let committed = group.commit();
        drop(files);
        if let Err(error) = &committed {
            tracing::error!(%error, "history store: write failed; closing the directory until it can be opened again");
            self.broken_since = Some(Instant::now());
            self.close(error.clone());
        }
        for reply in replies {
            reply(&committed);
        }
        closing
    }

    /// The directory; opened again if it is time to try.
    fn open_files(&mut self) -> Result<Arc<Files>, StoreError> {
        if self.broken_since.is_some_and(|since| since.elapsed() >= REOPEN_AFTER) {
            match Files::open(&self.shared.directory).and_then(|files| files.probe().map(|()| files)) {
                Ok(files) => {
                    tracing::info!(directory = %self.shared.directory.display(), "history store: open again");
                    self.broken_since = None;
                    // Before readers can fill it from the reopened files.
                    self.shared.cache.clear();
                    let _ = self.shared.set_files(Ok(Arc::new(files)));
                }
                Err(error) => {
                    self.broken_since = Some(Instant::now());
                    let _ = self.shared.set_files(Err(StoreError::Unavailable(error.to_string())));
                }
            }
        }
        self.shared.files()
    }

    /// Closes the directory when the last running read is through.
    fn close(&self, reason: StoreError) {
        let Ok(mut files) = self.shared.set_files(Err(reason)) else { return };
        // Readers hold it for one scan. Should one hang in the disk, the lock stays and reopening says so.
        let patience = Instant::now() + Duration::from_secs(10);
        while let Err(shared) = Arc::try_unwrap(files) {
            if Instant::now() > patience {
                return;
            }
            files = shared;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Answers while there is no directory. Returns the sender of a `Close` among the jobs.
fn refuse(jobs: Vec<Job>, error: &StoreError) -> Option<oneshot::Sender<()>> {
    let mut closing = None;
    for job in jobs {
        match job {
            Job::Close { done } => closing = Some(done),
            Job::Append { events, ticket } => {
                let _ = ticket.answer.send(events.iter().map(|_| Err(error.clone())).collect());
            }
            Job::Sweep { ticket, .. } | Job::Erase { ticket, .. } => {
                let _ = ticket.answer.send(Err(error.clone()));
            }
            Job::SweepAbsent { done, .. } => {
                let _ = done.send(());
            }
            Job::Probe { ticket } => {
                let _ = ticket.answer.send(Err(error.clone()));
            }
        }
    }
    closing
}

fn answer_state(state: Result<UserTimeline, StoreError>, ticket: Ticket<Result<Arc<Cached>, StoreError>>) -> Reply {
    Box::new(move |committed| {
        let _ = ticket.answer.send(match committed {
            Ok(()) => state.map(Cached::new),
            Err(error) => Err(error.clone()),
        });
    })
}

/// Changes on their way to one commit.
struct Group<'a> {
    shared: &'a Shared,
    files: &'a Files,
    rows: Batch<'a>,
    /// Users that were looked at, with their state after the commit. Errors are the user's own: a value that can't be
    /// read stops nobody else.
    users: HashMap<UserKey, Result<Working, StoreError>>,
}

struct Working {
    timeline: UserTimeline,
    changed: bool,
    /// Somebody asked for this user, and may ask again.
    wanted: bool,
}

impl<'a> Group<'a> {
    fn new(shared: &'a Shared, files: &'a Files) -> Self {
        Self { shared, files, rows: files.batch(), users: HashMap::new() }
    }

    fn append(&mut self, user: &UserKey, event: &Event) -> Result<Appended, StoreError> {
        let (options, now) = (self.shared.options, self.shared.clock.now());
        let (working, rows) = self.wanted(user)?;
        let (appended, change) = working.timeline.apply(event, &options, now);
        if change.inserted.is_some() {
            rows.add(user, &change);
            working.changed = true;
        }
        Ok(appended)
    }

    fn sweep(&mut self, user: &UserKey) -> Result<UserTimeline, StoreError> {
        self.wanted(user)?;
        self.expire(user).map(|working| working.timeline.clone())
    }

    fn sweep_absent(&mut self, user: &UserKey) {
        if let Err(error) = self.expire(user) {
            // Whoever asks for the user is told.
            tracing::debug!(%error, %user, "history store: a user can't be swept");
        }
    }

    fn expire(&mut self, user: &UserKey) -> Result<&Working, StoreError> {
        let (options, now) = (self.shared.options, self.shared.clock.now());
        let (working, rows) = self.working(user)?;
        if let Some(change) = working.timeline.expire(&options, now) {
            rows.add(user, &change);
            working.changed = true;
        }
        Ok(working)
    }

    fn erase(&mut self, user: &UserKey) -> Result<UserTimeline, StoreError> {
        let now = self.shared.clock.now();
        let (working, rows) = self.wanted(user)?;
        rows.add(user, &working.timeline.erase(now));
        working.changed = true;
        Ok(working.timeline.clone())
    }

    fn wanted(&mut self, user: &UserKey) -> Result<(&mut Working, &mut Batch<'a>), StoreError> {
        let (working, rows) = self.working(user)?;
        working.wanted = true;
        Ok((working, rows))
    }

    fn working(&mut self, user: &UserKey) -> Result<(&mut Working, &mut Batch<'a>), StoreError> {
        let state = match self.users.entry(*user) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let timeline = match self.shared.cache.get(user) {
                    Some(cached) => Ok(cached.timeline.clone()),
                    None => self.files.read(user),
                };
                place.insert(timeline.map(|timeline| Working { timeline, changed: false, wanted: false }))
            }
        };
        match state {
            Ok(working) => Ok((working, &mut self.rows)),
            Err(error) => Err(error.clone()),
        }
    }

    fn commit(mut self) -> Result<(), StoreError> {
        let changed = |state: Result<Working, StoreError>| state.ok().filter(|working| working.changed);
        let changed: Vec<_> =
            self.users.into_iter().filter_map(|(user, state)| Some((user, changed(state)?))).collect();
        if changed.is_empty() {
            return Ok(());
        }
        for (user, working) in &changed {
            self.rows.set_user(user, &working.timeline);
        }
        self.rows.commit()?;
        for (user, working) in changed {
            let durable = Cached::new(working.timeline);
            if working.wanted {
                self.shared.cache.publish(user, durable);
            } else {
                self.shared.cache.renew(user, durable);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{
        domain::{EventTime, HistoryVersion, UserId},
        history::SystemClock,
    };

    fn state(version: u64) -> UserTimeline {
        UserTimeline::restore([], HistoryVersion(version), EventTime::default())
    }

    #[tokio::test]
    async fn what_was_cached_before_a_failure_is_read_anew() {
        let directory = tempfile::tempdir().unwrap();
        let user = UserKey::of(&UserId::new("u").unwrap());
        let files = Files::open(directory.path()).unwrap();
        let mut batch = files.batch();
        batch.set_user(&user, &state(2));
        batch.commit().unwrap();
        drop(files);

        let shared = Shared {
            directory: directory.path().to_owned(),
            options: HistoryOptions::default(),
            clock: Arc::new(SystemClock),
            cache: TimelineCache::new(1 << 20),
            files: RwLock::new(Err(StoreError::Unavailable("broken".into()))),
        };
        shared.cache.publish(user, Cached::new(state(1)));
        let places = Arc::new(Semaphore::new(2));
        let sweep = |writer: &mut Writer<'_>| {
            let (answer, mut answered) = oneshot::channel();
            let place = Arc::clone(&places).try_acquire_owned().unwrap();
            let ticket = Ticket { answer, deadline: Deadline::after(Duration::from_secs(60)), _place: place };
            writer.serve(vec![Job::Sweep { user, ticket }]);
            answered.try_recv().unwrap()
        };
        let mut writer = Writer { shared: &shared, broken_since: Some(Instant::now()) };
        let error = sweep(&mut writer).err().expect("not opened again so soon");
        assert!(error.to_string().contains("broken"), "{error}");
        writer.broken_since = Instant::now().checked_sub(REOPEN_AFTER);
        assert_eq!(sweep(&mut writer).unwrap().timeline.version(), HistoryVersion(2));
    }
}
