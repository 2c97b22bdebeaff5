//! The timelines that were used last, bounded in bytes.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use quick_cache::{Weighter, sync::Cache};

use super::super::{timeline::UserTimeline, user_key::UserKey};
use crate::domain::UserHistoryView;

/// Users share a counter of changes with one in so many others.
const STRIPES: usize = 1024;

/// A durable state of a user, with its view once that was asked for.
pub(super) struct Cached {
    pub(super) timeline: UserTimeline,
    view: OnceLock<Arc<UserHistoryView>>,
    weight: u64,
}

impl Cached {
    pub(super) fn new(timeline: UserTimeline) -> Arc<Self> {
        // The view shares its strings with the timeline: 64 bytes per event are its own.
        let weight = timeline.weight() * 3 / 2 + 256;
        Arc::new(Self { timeline, view: OnceLock::new(), weight: weight as u64 })
    }

    pub(super) fn view(&self) -> Arc<UserHistoryView> {
        self.view.get_or_init(|| Arc::new(self.timeline.view())).clone()
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<UserKey, Arc<Cached>> for Bytes {
    fn weight(&self, _: &UserKey, cached: &Arc<Cached>) -> u64 {
        cached.weight
    }
}

/// How often the users of a stripe had changed when a read began.
pub(super) struct ReadStart(u64);

/// Timelines by user. Readers fill it after misses, the writer after commits; a reader whose scan a commit overtook
/// must not put the older state back, so readers offer what they found together with the start of their read.
pub(super) struct TimelineCache {
    timelines: Cache<UserKey, Arc<Cached>, Bytes>,
    changes: Vec<Mutex<u64>>,
}

impl TimelineCache {
    pub(super) fn new(bytes: u64) -> Self {
        // Only sizes the tables ahead: histories of some tens of events take about so much.
        let users = (bytes / 16_384).max(64) as usize;
        let changes = (0..STRIPES).map(|_| Mutex::new(0)).collect();
        Self { timelines: Cache::with_weighter(users, bytes, Bytes), changes }
    }

    pub(super) fn get(&self, user: &UserKey) -> Option<Arc<Cached>> {
        self.timelines.get(user)
    }

    /// To be taken before a scan begins.
    pub(super) fn begin_read(&self, user: &UserKey) -> ReadStart {
        ReadStart(*self.stripe(user))
    }

    /// Keeps what a scan found, unless something changed meanwhile.
    pub(super) fn offer(&self, user: UserKey, start: &ReadStart, found: &Arc<Cached>) {
        let changes = self.stripe(&user);
        if *changes == start.0 {
            self.timelines.insert(user, found.clone());
        }
    }

    /// Keeps a state that has just become durable.
    pub(super) fn publish(&self, user: UserKey, durable: Arc<Cached>) {
        let mut changes = self.stripe(&user);
        *changes += 1;
        self.timelines.insert(user, durable);
    }

    /// Replaces a state that is still kept by one that has just become durable; others aren't pushed out for it.
    pub(super) fn renew(&self, user: UserKey, durable: Arc<Cached>) {
        let mut changes = self.stripe(&user);
        *changes += 1;
        let _ = self.timelines.replace(user, durable, true);
    }

    /// Forgets everything: what is durable is no longer known.
    pub(super) fn clear(&self) {
        for stripe in &self.changes {
            *stripe.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.timelines.clear();
    }

    fn stripe(&self, user: &UserKey) -> MutexGuard<'_, u64> {
        self.changes[user.spread() % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventTime, HistoryVersion, UserId};

    fn state(version: u64) -> Arc<Cached> {
        Cached::new(UserTimeline::restore([], HistoryVersion(version), EventTime::default()))
    }

    #[test]
    fn a_read_that_a_commit_overtook_is_not_kept() {
        let cache = TimelineCache::new(1 << 20);
        let user = UserKey::of(&UserId::new("u").unwrap());
        let start = cache.begin_read(&user);
        cache.publish(user, state(2));
        cache.offer(user, &start, &state(1));
        assert_eq!(cache.get(&user).unwrap().timeline.version(), HistoryVersion(2));
        cache.renew(user, state(4));
        assert_eq!(cache.get(&user).unwrap().timeline.version(), HistoryVersion(4));
        cache.clear();
        assert!(cache.get(&user).is_none());
        let start = cache.begin_read(&user);
        cache.renew(user, state(5));
        cache.offer(user, &start, &state(4));
        assert!(cache.get(&user).is_none(), "neither the older state nor one that nobody asked for");
        let start = cache.begin_read(&user);
        cache.offer(user, &start, &state(3));
        assert_eq!(cache.get(&user).unwrap().timeline.version(), HistoryVersion(3));
    }

    #[test]
    fn it_is_bounded() {
        let cache = TimelineCache::new(1 << 20);
        for n in 0..100_000 {
            cache.publish(UserKey::of(&UserId::new(&n.to_string()).unwrap()), state(n));
        }
        assert!(cache.timelines.weight() <= 1 << 20);
        assert!(cache.timelines.len() < 5000);
    }
}
