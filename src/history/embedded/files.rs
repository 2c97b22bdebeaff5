//! The directory: one small row per event, one per user.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `users` | user key (16 bytes) | version, erasure |
//! | `events` | user key, side (1), time (8, big endian), event id | payload |
//!
//! The order of the keys is the order of the histories, so a user is read by one scan, and an append writes one row.

use std::{
    ops::Bound,
    path::{Path, PathBuf},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable};

use super::super::{
    StoreError, codec,
    timeline::{Change, Row, Side, UserTimeline},
    user_key::UserKey,
};
use crate::domain::{EventId, EventTime};

/// Blocks of the files that stay in memory, beside the cache of timelines.
const BLOCK_CACHE_BYTES: u64 = 64 << 20;
/// Of tables, kept open between reads: few of what the system allows the process, which callers' connections need too.
const OPEN_FILES: usize = 64;
/// Bounds the journals on disk, and so the work of a restart.
const MAX_JOURNAL_BYTES: u64 = 256 << 20;
/// Rows in memory before they are written to a table. A restart reads the journal of what is not in tables yet.
const MEMTABLE_BYTES: u64 = 32 << 20;
/// What stands before the event id in a key: user key, side, time.
const PREFIX_BYTES: usize = UserKey::BYTES + 1 + 8;

/// An open database. Dropping the last reference closes it and unlocks the directory.
pub(super) struct Files {
    database: Database,
    events: Keyspace,
    users: Keyspace,
    directory: PathBuf,
}

/// Users that one step of a walk looks at, and those among them that are due, at most: a group commit works on these
/// for all appends beside them.
const WALK_USERS: usize = 512;
const WALK_DUE: usize = 64;

/// A step of a walk over all users.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// Those with an event before the cutoff.
    pub(super) due: Vec<UserKey>,
    /// Where to go on; `None` at the end.
    pub(super) last: Option<UserKey>,
}

/// Changes to write at once.
pub(super) struct Batch<'a> {
    files: &'a Files,
    rows: OwnedWriteBatch,
}

impl Files {
    /// Opens or creates the directory, which is locked until this is dropped.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let open = || {
            let database = Database::builder(directory)
                .cache_size(BLOCK_CACHE_BYTES)
                .max_cached_files(Some(OPEN_FILES))
                .max_journaling_size(MAX_JOURNAL_BYTES)
                .manual_journal_persist(true)
                .open()?;
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            let events = database.keyspace("events", options)?;
            let users = database.keyspace("users", options)?;
            Ok(Self { database, events, users, directory: directory.to_owned() })
        };
        open().map_err(|error| explain(directory, &error))
    }

    /// A user's state; empty, with version 0, where there is nothing.
    pub(super) fn read(&self, user: &UserKey) -> Result<UserTimeline, StoreError> {
        let failed = |error| explain(&self.directory, &error);
        // One snapshot for both keyspaces: a commit between the two reads must not be seen by half.
        let snapshot = self.database.snapshot();
        let meta = snapshot.get(&self.users, user.bytes()).map_err(failed)?;
        let (version, erased_through) = meta.map_or(Ok(Default::default()), |meta| codec::decode_meta(&meta))?;
        let mut rows = vec![];
        for guard in snapshot.prefix(&self.events, user.bytes()) {
            let (key, value) = guard.into_inner().map_err(failed)?;
            rows.push(decode_row(&key, &value)?);
        }
        Ok(UserTimeline::restore(rows, version, erased_through))
    }

    /// Looks at the oldest event of each side of the users that follow one, in the keys' order. A user that can't be
    /// read is passed over: it must not keep the walk from all the others.
    pub(super) fn walk(&self, after: Option<UserKey>, cutoff: EventTime) -> Result<Walk, StoreError> {
        let failed = |error| explain(&self.directory, &error);
        let snapshot = self.database.snapshot();
        let from = after.map_or(Bound::Unbounded, |user| Bound::Excluded(*user.bytes()));
        let mut walk = Walk { due: vec![], last: None };
        for (looked_at, guard) in
            (1..).zip(snapshot.range(&self.users, (from, Bound::<[u8; UserKey::BYTES]>::Unbounded)))
        {
            let key = guard.key().map_err(failed)?;
            // `probe` has a row there, too.
            let Some(user) = UserKey::from_bytes(&key) else { continue };
            let oldest = |side| match snapshot.prefix(&self.events, side_prefix(&user, side)).next() {
                Some(row) => time_of(&row.key().map_err(failed)?).map(Some),
                None => Ok(None),
            };
            let oldest: Result<Vec<_>, StoreError> = Side::ALL.into_iter().map(oldest).collect();
            match oldest {
                Ok(times) if times.iter().flatten().any(|time| *time < cutoff) => walk.due.push(user),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, %user, "history store: what is past its time can't be dropped"),
            }
            if looked_at >= WALK_USERS || walk.due.len() == WALK_DUE {
                walk.last = Some(user);
                break;
            }
        }
        Ok(walk)
    }

    /// Writes a row that nobody reads, to see whether that works again.
    pub(super) fn probe(&self) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.rows.insert(&self.users, "probe", b"".as_slice());
        batch.commit()
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { files: self, rows: self.database.batch().durability(Some(PersistMode::SyncAll)) }
    }
}

impl Batch<'_> {
    /// Adds what happened to a user's rows.
    pub(super) fn add(&mut self, user: &UserKey, change: &Change) {
        if let Some(row) = &change.inserted {
            self.rows.insert(&self.files.events, row_key(user, row), codec::encode(&codec::message(&row.payload)));
        }
        for row in &change.removed {
            self.rows.remove(&self.files.events, row_key(user, row));
        }
    }

    /// Sets a user's version and erasure.
    pub(super) fn set_user(&mut self, user: &UserKey, timeline: &UserTimeline) {
        let meta = codec::encode_meta(timeline.version(), timeline.erased_through());
        self.rows.insert(&self.files.users, user.bytes().as_slice(), meta);
    }

    /// Writes all changes, or none. They are on disk when this returns, and visible to readers only then.
    pub(super) fn commit(self) -> Result<(), StoreError> {
        let directory = &self.files.directory;
        self.rows.commit().map_err(|error| explain(directory, &error))
    }
}

fn side_byte(side: Side) -> u8 {
    match side {
        Side::Recommendations => b'r',
        Side::Searches => b's',
        Side::Clicks => b'c',
    }
}

fn side_prefix(user: &UserKey, side: Side) -> [u8; UserKey::BYTES + 1] {
    let mut prefix = [side_byte(side); UserKey::BYTES + 1];
    prefix[..UserKey::BYTES].copy_from_slice(user.bytes());
    prefix
}

fn row_key(user: &UserKey, row: &Row) -> Vec<u8> {
    let id = row.event_id.as_str().as_bytes();
    let mut key = Vec::with_capacity(PREFIX_BYTES + id.len());
    key.extend_from_slice(&side_prefix(user, row.side()));
    key.extend_from_slice(&row.time.nanos().to_be_bytes());
    key.extend_from_slice(id);
    key
}

fn time_of(key: &[u8]) -> Result<EventTime, StoreError> {
    let Some(time) = key.get(UserKey::BYTES + 1..PREFIX_BYTES) else {
        return Err(StoreError::Corrupt(format!("key of {} bytes", key.len())));
    };
    codec::time(u64::from_be_bytes(time.try_into().expect("eight bytes by the range")))
}

fn decode_row(key: &[u8], value: &[u8]) -> Result<Row, StoreError> {
    let time = time_of(key)?;
    let id =
        std::str::from_utf8(&key[PREFIX_BYTES..]).map_err(|error| StoreError::Corrupt(format!("event id: {error}")))?;
    let event_id = EventId::new(id).map_err(codec::corrupt("event_id"))?;
    let row = Row { time, event_id, payload: codec::payload(codec::decode(value)?)? };
    if key[UserKey::BYTES] != side_byte(row.side()) {
        return Err(StoreError::Corrupt("a payload of another side than its key".into()));
    }
    Ok(row)
}

/// What to tell an operator.
fn explain(directory: &Path, error: &fjall::Error) -> StoreError {
    let at = directory.display();
    match error {
        fjall::Error::Locked => {
            StoreError::Config(format!("{at} is open in another process: stop it, or give this one its own directory"))
        }
        fjall::Error::InvalidVersion(_) => StoreError::Config(format!(
            "{at} was written by another version of the storage engine: use the program that wrote it, or a new directory"
        )),
        fjall::Error::Poisoned => StoreError::Unavailable(format!("{at}: an earlier write failed; reopening")),
        fjall::Error::JournalRecovery(_) => StoreError::Config(format!(
            "{at}: its journal is damaged, as by a power failure in the middle of a write ({error}): put a backup in its \
             place, or move it away and replay the event logs (`sesrec ingest`)"
        )),
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            let advice = match error.kind() {
                std::io::ErrorKind::StorageFull => ": free space there; the store recovers by itself",
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    ": make it writable for this user"
                }
                _ => "",
            };
            StoreError::Unavailable(format!("{at}: {error}{advice}"))
        }
        other => StoreError::Unavailable(format!("{at}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{HistoryVersion, ItemId, Payload, Recommendation};

    fn numbered(first: u8, n: u16) -> UserKey {
        let mut bytes = [first; UserKey::BYTES];
        bytes[1..3].copy_from_slice(&n.to_be_bytes());
        UserKey::from_bytes(&bytes).unwrap()
    }

    /// Nothing that was written in one piece is half there: the program says what to do instead of guessing.
    #[test]
    fn a_damaged_journal_is_named_and_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path()).unwrap();
        let mut batch = files.batch();
        // Not compressed to nothing.
        let mut value = vec![0; 10_000];
        blake3::Hasher::new().finalize_xof().fill(&mut value);
        batch.rows.insert(&files.users, "somebody", value.clone());
        batch.commit().unwrap();
        drop(files);
        let mut journals = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let journal = journals.find(|path| path.extension().is_some_and(|extension| extension == "jnl")).unwrap();
        let mut bytes = std::fs::read(&journal).unwrap();
        let within = bytes.windows(100).position(|window| window == &value[5000..5100]).expect("the value");
        bytes[within] ^= 1;
        std::fs::write(&journal, bytes).unwrap();
        let error = Files::open(directory.path()).err().unwrap();
        assert!(matches!(&error, StoreError::Config(reason) if reason.contains("its journal is damaged")), "{error}");
    }

    #[test]
    fn a_walk_meets_every_user_once_and_passes_what_it_cannot_read() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path()).unwrap();
        files.probe().unwrap();
        // So that `probe` is the last row of the first step.
        let users: Vec<UserKey> = (0..WALK_USERS as u16 - 1)
            .map(|n| numbered(b'a', n))
            .chain((0..2 * WALK_USERS as u16).map(|n| numbered(b'z', n)))
            .collect();
        let mut batch = files.batch();
        let at = |millis| EventTime::from_millis(millis).unwrap();
        for (n, user) in users.iter().enumerate() {
            let row = Arc::new(Row {
                time: at(if n % 10 == 0 { 1_000 } else { 3_000 }),
                event_id: EventId::new("e").unwrap(),
                payload: Payload::Recommendation(Recommendation { item_id: ItemId::new("i").unwrap() }),
            });
            batch.add(user, &Change { inserted: Some(row), removed: vec![] });
            batch.set_user(user, &UserTimeline::restore([], HistoryVersion(1), EventTime::default()));
        }
        let broken = users[20];
        batch.rows.insert(&files.events, [broken.bytes().as_slice(), b"c?"].concat(), b"".as_slice());
        batch.commit().unwrap();
        let (mut due, mut after, mut steps) = (vec![], None, 0);
        loop {
            let step = files.walk(after, at(2_000)).unwrap();
            due.extend(step.due);
            (after, steps) = (step.last, steps + 1);
            if after.is_none() {
                break;
            }
            assert!(steps < 10);
        }
        let expected: Vec<UserKey> = users.iter().copied().step_by(10).filter(|user| *user != broken).collect();
        assert_eq!(due, expected);
        assert!(steps >= 3, "{steps}");
    }

    proptest! {
        #[test]
        fn random_rows_never_panic(key in prop::collection::vec(any::<u8>(), 0..60), value in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode_row(&key, &value);
        }
    }
}
