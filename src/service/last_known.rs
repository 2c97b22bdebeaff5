//! The histories that this replica saw last: they make unchanged reads cheap, and answer while the store is away.

use std::{
    cmp::Ordering,
    sync::{Arc, Mutex, PoisonError},
};

use quick_cache::{
    DefaultHashBuilder, Lifecycle, Weighter,
    sync::{Cache, EntryAction, EntryResult},
};
use tokio::time::Instant;

use crate::{
    data::{Featurized, SearchFeatures},
    domain::{HistoryVersion, ModelVersion, UserHistoryView, UserId},
    telemetry::Metrics,
};

/// Bounded in bytes; a clone is a handle on the same cache.
///
/// Nothing is trusted because it is in here: every read asks the store whether the version is still current. Only while
/// the store can't be reached a copy answers by itself, and only as long as it is not too old: another replica may have
/// erased the user since.
#[derive(Clone)]
pub(super) struct LastKnown(Arc<Copies>);

type Copies = Cache<UserId, Known, Bytes, DefaultHashBuilder, CountEvictions>;

/// A state of a user's history, and what the model that was asked last sees of it.
#[derive(Default)]
pub(super) struct KnownHistory {
    pub(super) view: Arc<UserHistoryView>,
    seen: Mutex<Option<(ModelVersion, Arc<Featurized>)>>,
    /// Its size: the cache asks for it often.
    bytes: u64,
}

/// A copy, and when the store vouched for it last.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) history: Arc<KnownHistory>,
    pub(super) confirmed: Instant,
}

impl KnownHistory {
    pub(super) fn new(view: Arc<UserHistoryView>) -> Self {
        Self { bytes: bytes(&view), view, seen: Mutex::default() }
    }

    /// What a model sees of it: as it is remembered, or by `look`.
    pub(super) fn seen(&self, model: &ModelVersion, look: impl FnOnce() -> Featurized) -> Arc<Featurized> {
        let place = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = place().clone();
        if let Some((_, seen)) = remembered.filter(|(by, _)| by == model) {
            return seen;
        }
        let seen = Arc::new(look());
        *place() = Some((model.clone(), seen.clone()));
        seen
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<UserId, Known> for Bytes {
    fn weight(&self, user: &UserId, known: &Known) -> u64 {
        user.as_str().len() as u64 + known.history.bytes
    }
}

#[derive(Clone)]
struct CountEvictions(Metrics);

impl Lifecycle<UserId, Known> for CountEvictions {
    /// Freed when the cache is unlocked again: a history takes a while.
    type RequestState = Vec<(UserId, Known)>;

    fn on_evict(&self, evicted: &mut Self::RequestState, user: UserId, known: Known) {
        self.0.history_cache_eviction();
        evicted.push((user, known));
    }
}

impl LastKnown {
    /// Its size is told to the metrics when they are read.
    pub(super) fn new(capacity_bytes: u64, metrics: &Metrics) -> Self {
        // A full history of 300 + 50 events is about 40 KiB.
        let entries = (capacity_bytes / (8 << 10)).clamp(16, 1 << 22) as usize;
        let (hashes, evictions) = (DefaultHashBuilder::default(), CountEvictions(metrics.clone()));
        let copies = Arc::new(Copies::with(entries, capacity_bytes, Bytes, hashes, evictions));
        // Not held: the cache has the metrics.
        let read = Arc::downgrade(&copies);
        metrics.history_cache(move || read.upgrade().map(|copies| (copies.weight(), copies.len())));
        Self(copies)
    }

    pub(super) fn get(&self, user: &UserId) -> Option<Known> {
        self.0.get(user)
    }

    /// Keeps the newer of `history` and what is there: reads overtake each other, also the one that an erasure ends.
    /// `confirmed` is when the read began: an erasure that it missed can't have been acknowledged before.
    pub(super) fn keep(&self, user: &UserId, history: &Arc<KnownHistory>, confirmed: Instant) {
        let new = history.view.version;
        let entry = self.0.entry(user, None, |_, known| match known.history.view.version.cmp(&new) {
            // Not changed in place: only an insert makes room for a history that has grown.
            Ordering::Less => EntryAction::ReplaceWithGuard,
            Ordering::Equal => {
                known.confirmed = known.confirmed.max(confirmed);
                EntryAction::Retain(())
            }
            Ordering::Greater => EntryAction::Retain(()),
        });
        if let EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) = entry {
            // Fails only where the entry was removed meanwhile; then there is nothing to keep.
            let _ = guard.insert(Known { history: history.clone(), confirmed });
        }
    }

    /// Forgets a user of whom the store has nothing left: the history expired.
    pub(super) fn forget(&self, user: &UserId) {
        self.0.remove(user);
    }

    /// Forgets a user whose history was erased at `version`. An empty history of that version takes the place, so that
    /// a read that began before the erasure can't bring the old one back.
    pub(super) fn erase(&self, user: &UserId, version: HistoryVersion) {
        let nothing = UserHistoryView { version, ..UserHistoryView::default() };
        self.keep(user, &Arc::new(KnownHistory::new(Arc::new(nothing))), Instant::now());
    }
}

/// About what a view occupies with what a model sees of it: structs, text, rows and allocations.
fn bytes(view: &UserHistoryView) -> u64 {
    const ALLOCATION: usize = 32;
    let text = |text: &str| text.len() + ALLOCATION;
    let mut bytes = size_of::<UserHistoryView>() + size_of::<Featurized>() + 7 * ALLOCATION;
    for (item, event) in view.history.recommendations.iter().zip(&view.recommendation_events) {
        bytes += text(item.as_str()) + text(event.event_id.as_str()) + 48;
        bytes += size_of::<u32>() + size_of::<usize>();
    }
    for (search, event) in view.history.searches.iter().zip(&view.search_events) {
        let query = search.query.as_str().len();
        bytes += search.search_id.as_ref().map_or(0, |id| text(id.as_str()));
        bytes += search.query.as_str().len()
            + search.source.as_deref().map_or(0, text)
            + text(event.event_id.as_str())
            + 128;
        bytes += search.clicked_item_ids.iter().map(|item| text(item.as_str()) + 16).sum::<usize>();
        // A word has at least a letter and a blank.
        bytes += size_of::<SearchFeatures>() + size_of::<usize>() + 2 * ALLOCATION;
        bytes += (query.div_ceil(2) + search.clicked_item_ids.len()) * size_of::<u32>();
    }
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Catalogue, Featurizer, HistoryLimits},
        domain::{EventId, EventTime, History, ItemId, TimedEvent},
    };

    fn history(version: u64) -> Arc<KnownHistory> {
        known(UserHistoryView {
            history: History { recommendations: vec![ItemId::new("item").expect("an id")], searches: vec![] },
            recommendation_events: vec![TimedEvent {
                event_id: EventId::new("event").expect("an id"),
                time: EventTime::default(),
            }],
            version: HistoryVersion(version),
            ..Default::default()
        })
    }

    fn known(view: UserHistoryView) -> Arc<KnownHistory> {
        Arc::new(KnownHistory::new(Arc::new(view)))
    }

    #[test]
    fn the_newest_view_stays_and_erasure_wins() {
        let cache = LastKnown::new(1 << 20, &Metrics::new());
        let user = UserId::new("u").expect("an id");
        let now = Instant::now();
        cache.keep(&user, &history(5), now);
        cache.keep(&user, &history(3), now);
        assert_eq!(cache.get(&user).expect("kept").history.view.version, HistoryVersion(5));
        cache.erase(&user, HistoryVersion(6));
        cache.keep(&user, &history(5), now);
        assert!(
            cache.get(&user).expect("a tombstone").history.view.history.is_empty(),
            "a late read brought the user back"
        );
        cache.keep(&user, &history(7), now);
        assert_eq!(cache.get(&user).expect("kept").history.view.version, HistoryVersion(7));
    }

    #[test]
    fn what_a_model_sees_is_found_once_for_a_state_and_never_outlives_it() {
        let cache = LastKnown::new(1 << 20, &Metrics::new());
        let user = UserId::new("u").expect("an id");
        let model = |name| ModelVersion::new(name).expect("a version");
        let featurizer = Featurizer::new(
            Arc::new(Catalogue::default()),
            HistoryLimits { recommendations: 9, searches: 9, words: 9, clicks: 9 },
        );
        let looks = std::cell::Cell::new(0);
        // As a Rank does, which has what is known, or what it read.
        let look = |read: u64, by| {
            let known = cache.get(&user).filter(|known| known.history.view.version == HistoryVersion(read));
            let history = known.map_or_else(|| history(read), |known| known.history);
            let seen = history.seen(&model(by), || {
                looks.set(looks.get() + 1);
                featurizer.features(&user, &history.view.history)
            });
            assert_eq!(*seen, featurizer.features(&user, &history.view.history));
            looks.replace(0)
        };
        assert_eq!([look(5, "a"), look(5, "a")], [1, 1], "a history that isn't here is not remembered");
        assert_eq!(cache.0.len(), 0);
        cache.keep(&user, &history(5), Instant::now());
        assert_eq!([look(5, "a"), look(5, "a")], [1, 0]);
        cache.keep(&user, &history(5), Instant::now());
        assert_eq!(look(5, "a"), 0, "a confirmation changes nothing");
        assert_eq!([look(5, "b"), look(5, "b")], [1, 0], "of another model");
        assert_eq!([look(4, "b"), look(5, "b")], [1, 0], "an older state that was read late");
        cache.keep(&user, &history(6), Instant::now());
        assert_eq!(look(6, "b"), 1);
        cache.erase(&user, HistoryVersion(7));
        assert_eq!(look(6, "b"), 1);
        let left = cache.get(&user).expect("a tombstone").history;
        assert!(left.view.history.is_empty(), "a late Rank brought the user back");
    }

    #[test]
    fn a_confirmation_renews_only_its_own_version() {
        let cache = LastKnown::new(1 << 20, &Metrics::new());
        let (user, first) = (UserId::new("u").expect("an id"), Instant::now());
        let later = |seconds| first + std::time::Duration::from_secs(seconds);
        let confirmed = || cache.get(&user).expect("kept").confirmed;
        cache.keep(&user, &history(5), later(1));
        cache.keep(&user, &history(5), first);
        assert_eq!(confirmed(), later(1), "reads overtake each other");
        cache.keep(&user, &history(4), later(2));
        assert_eq!(confirmed(), later(1), "an older state says nothing about this one");
        cache.keep(&user, &history(5), later(3));
        assert_eq!(confirmed(), later(3));
    }

    #[test]
    fn memory_is_bounded() {
        let metrics = Metrics::new();
        let cache = LastKnown::new(64 << 10, &metrics);
        for n in 0..10_000 {
            cache.keep(&UserId::new(&n.to_string()).expect("an id"), &history(1), Instant::now());
        }
        assert!(cache.0.weight() <= 64 << 10, "{}", cache.0.weight());
        assert!(cache.0.len() > 50, "{}", cache.0.len());
        let (bytes, entries, text) = (cache.0.weight(), cache.0.len(), metrics.encode());
        for line in [
            format!("\nsesrec_history_cache_bytes {bytes}\n"),
            format!("\nsesrec_history_cache_entries {entries}\n"),
            format!("\nsesrec_history_cache_evictions_total {}\n", 10_000 - entries),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn memory_stays_bounded_when_histories_grow() {
        let cache = LastKnown::new(64 << 10, &Metrics::new());
        let users: Vec<UserId> = (0..100).map(|n| UserId::new(&n.to_string()).expect("an id")).collect();
        for length in 1..50 {
            let short = history(length);
            let short = &short.view;
            let mut grown = UserHistoryView { version: HistoryVersion(length), ..(**short).clone() };
            for _ in 0..length {
                grown.history.recommendations.extend_from_slice(&short.history.recommendations);
                grown.recommendation_events.extend_from_slice(&short.recommendation_events);
            }
            let grown = known(grown);
            users.iter().for_each(|user| cache.keep(user, &grown, Instant::now()));
            assert!(cache.0.weight() <= 64 << 10, "{} at {length}", cache.0.weight());
        }
    }
}
