//! Encoded users, bounded in bytes.
//!
//! An entry answers only for one history version and one model version. It is stored under the user alone, so that a
//! new state of a user takes the place of the old one instead of waiting to be evicted, and an erased user can be
//! dropped.

use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use crate::{
    domain::{HistoryVersion, ModelVersion, UserId},
    model::UserState,
    telemetry::Metrics,
};

/// Key, bookkeeping and reference counts of an entry, besides the state itself.
const ENTRY_BYTES: u64 = 256;

/// An encoded user of one history version.
#[derive(Debug, Clone)]
struct Entry {
    history: HistoryVersion,
    model: ModelVersion,
    state: UserState,
}

pub(super) struct UserCache {
    entries: Cache<UserId, Entry, ByBytes, DefaultHashBuilder, CountEvictions>,
    /// How many users have been erased: see [`UserCache::insert`].
    erasures: AtomicU64,
    metrics: Metrics,
}

/// The state of the cache when a request began; encodings of requests that began before an erasure are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErasureEpoch(u64);

impl UserCache {
    pub(super) fn new(bytes: u64, metrics: Metrics) -> Self {
        // Capacity is split over shards, and an entry must fit into one; few threads come here, so few shards do.
        let shards = if bytes < 256 << 20 { 1 } else { 8 };
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity((bytes / (64 << 10)).clamp(16, 1 << 20) as usize)
            .weight_capacity(bytes)
            .build()
            .expect("all mandatory options are set");
        let evictions = CountEvictions(metrics.clone());
        let entries = Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), evictions);
        Self { entries, erasures: AtomicU64::new(0), metrics }
    }

    /// The user as encoded by this model from this version of the history.
    pub(super) fn get(&self, user: &UserId, history: HistoryVersion, model: &ModelVersion) -> Option<UserState> {
        let entry = self.entries.get(user)?;
        (entry.history == history && entry.model == *model).then_some(entry.state)
    }

    /// To be taken when a request begins.
    pub(super) fn epoch(&self) -> ErasureEpoch {
        ErasureEpoch(self.erasures.load(Ordering::SeqCst))
    }

    /// Remembers an encoded user, unless anyone was erased since `epoch`: it might have been this one, and erasures are
    /// rare enough to forgo a cache entry for.
    pub(super) fn insert(
        &self,
        (user, history): &(UserId, HistoryVersion),
        model: &ModelVersion,
        state: UserState,
        epoch: ErasureEpoch,
    ) {
        if self.epoch() != epoch {
            return;
        }
        self.entries.insert(user.clone(), Entry { history: *history, model: model.clone(), state });
        // `forget` counts first and removes then: either its removal sees this entry, or this check sees its count.
        if self.epoch() != epoch {
            self.entries.remove(user);
        }
    }

    /// Drops all that is known of a user, and what requests that are running would add.
    pub(super) fn forget(&self, user: &UserId) {
        self.erasures.fetch_add(1, Ordering::SeqCst);
        self.entries.remove(user);
        self.report();
    }

    /// Drops what other models encoded: nothing will ask for it again.
    pub(super) fn keep_only(&self, model: &ModelVersion) {
        self.entries.retain(|_, entry| entry.model == *model);
        self.report();
    }

    /// Tells the metrics how large it is.
    pub(super) fn report(&self) {
        self.metrics.cache_size(self.entries.weight(), self.entries.len());
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<UserId, Entry> for ByBytes {
    fn weight(&self, user: &UserId, entry: &Entry) -> u64 {
        entry.state.bytes() as u64 + user.as_str().len() as u64 + ENTRY_BYTES
    }
}

#[derive(Clone)]
struct CountEvictions(Metrics);

impl Lifecycle<UserId, Entry> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: UserId, _: Entry) {
        self.0.cache_eviction();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: usize) -> UserId {
        UserId::new(&format!("user{n}")).unwrap()
    }

    fn model(name: &str) -> ModelVersion {
        ModelVersion::new(name).unwrap()
    }

    #[test]
    fn answers_for_one_history_and_one_model() {
        let cache = UserCache::new(1 << 20, Metrics::new());
        let (a, b) = (model("a"), model("b"));
        cache.insert(&(user(1), HistoryVersion(7)), &a, UserState::new(1u8, 100), cache.epoch());
        assert!(cache.get(&user(1), HistoryVersion(7), &a).is_some());
        assert!(cache.get(&user(1), HistoryVersion(8), &a).is_none());
        assert!(cache.get(&user(1), HistoryVersion(7), &b).is_none());
        cache.insert(&(user(1), HistoryVersion(8)), &a, UserState::new(2u8, 100), cache.epoch());
        assert_eq!(cache.entries.len(), 1);
        cache.keep_only(&b);
        assert_eq!(cache.entries.len(), 0);
    }

    #[test]
    fn bounded_in_bytes() {
        let metrics = Metrics::new();
        let cache = UserCache::new(1 << 20, metrics.clone());
        for n in 0..1000 {
            cache.insert(&(user(n), HistoryVersion(1)), &model("a"), UserState::new(n, 60_000), cache.epoch());
            assert!(cache.entries.weight() <= 1 << 20);
        }
        assert!(cache.entries.len() >= 15, "{}", cache.entries.len());
        cache.report();
        let text = metrics.encode();
        let evicted = 1000 - cache.entries.len();
        assert!(text.contains(&format!("sesrec_user_cache_evictions_total {evicted}\n")), "{text}");
        assert!(text.contains(&format!("sesrec_user_cache_entries {}\n", cache.entries.len())));
    }

    #[test]
    fn an_erased_user_does_not_come_back() {
        let cache = UserCache::new(1 << 20, Metrics::new());
        let key = (user(1), HistoryVersion(7));
        let epoch = cache.epoch();
        cache.insert(&key, &model("a"), UserState::new((), 10), epoch);
        cache.forget(&user(1));
        assert!(cache.get(&key.0, key.1, &model("a")).is_none());
        // A request that began before the erasure ends now.
        cache.insert(&key, &model("a"), UserState::new((), 10), epoch);
        assert!(cache.get(&key.0, key.1, &model("a")).is_none());
        cache.insert(&key, &model("a"), UserState::new((), 10), cache.epoch());
        assert!(cache.get(&key.0, key.1, &model("a")).is_some());
    }

    #[test]
    fn no_bytes_is_no_cache() {
        let cache = UserCache::new(0, Metrics::new());
        cache.insert(&(user(1), HistoryVersion(7)), &model("a"), UserState::new((), 10), cache.epoch());
        assert!(cache.get(&user(1), HistoryVersion(7), &model("a")).is_none());
    }
}
