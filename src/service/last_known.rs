//! The histories that this replica saw last: they make unchanged reads cheap, and answer while the store is away.

use std::sync::Arc;

use quick_cache::{
    Weighter,
    sync::{Cache, EntryAction, EntryResult},
};

use tokio::time::Instant;

use crate::domain::{HistoryVersion, Query, UserHistoryView, UserId};

/// Bounded in bytes; a clone is a handle on the same cache.
///
/// Nothing is trusted because it is in here: every read asks the store whether the version is still current. Only while the
/// store can't be reached a copy answers by itself, and only as long as it is not too old: another replica may have
/// erased the user since.
#[derive(Clone)]
pub(super) struct LastKnown(Arc<Cache<UserId, Kept, Bytes>>);

/// A view with its size, which the cache asks for often.
#[derive(Clone)]
struct Kept {
    view: Arc<UserHistoryView>,
    /// When the store vouched for it last.
    confirmed: Instant,
    bytes: u64,
}

/// A copy, and when the store vouched for it last.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) view: Arc<UserHistoryView>,
    pub(super) confirmed: Instant,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<UserId, Kept> for Bytes {
    fn weight(&self, _: &UserId, kept: &Kept) -> u64 {
        kept.bytes
    }
}

impl LastKnown {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        // A full history of 300 + 50 events is about 40 KiB.
        let entries = (capacity_bytes / (8 << 10)).clamp(16, 1 << 22) as usize;
        Self(Arc::new(Cache::with_weighter(entries, capacity_bytes, Bytes)))
    }

    pub(super) fn get(&self, user: &UserId) -> Option<Known> {
        self.0.get(user).map(|Kept { view, confirmed, .. }| Known { view, confirmed })
    }

    /// Keeps the newer of `view` and what is there: reads overtake each other, also the one that an erasure ends.
    /// `confirmed` is when the read began: an erasure that it missed can't have been acknowledged before.
    pub(super) fn keep(&self, user: &UserId, view: &Arc<UserHistoryView>, confirmed: Instant) {
        let mut new = Some(Kept { view: view.clone(), confirmed, bytes: bytes(user, view) });
        let entry = self.0.entry(user, None, |_, known| {
            if known.view.version < view.version {
                new.take().into_iter().for_each(|new| *known = new);
            } else if known.view.version == view.version {
                known.confirmed = known.confirmed.max(confirmed);
            }
            EntryAction::Retain(())
        });
        if let (EntryResult::Vacant(guard), Some(new)) = (entry, new) {
            // Fails only where the entry was removed meanwhile; then there is nothing to keep.
            let _ = guard.insert(new);
        }
    }

    /// Forgets a user whose history was erased at `version`. An empty history of that version takes the place, so that
    /// a read that began before the erasure can't bring the old one back.
    pub(super) fn erase(&self, user: &UserId, version: HistoryVersion) {
        self.keep(user, &Arc::new(UserHistoryView { version, ..UserHistoryView::default() }), Instant::now());
    }
}

/// About what a view occupies: structs, text and allocations.
fn bytes(user: &UserId, view: &UserHistoryView) -> u64 {
    const ALLOCATION: usize = 32;
    let text = |text: &str| text.len() + ALLOCATION;
    let mut bytes = std::mem::size_of::<UserHistoryView>() + text(user.as_str());
    for (item, event) in view.history.recommendations.iter().zip(&view.recommendation_events) {
        bytes += text(item.as_str()) + text(event.event_id.as_str()) + 48;
    }
    for (search, event) in view.history.searches.iter().zip(&view.search_events) {
        let query = match &search.query {
            Query::Text(query) => query.len(),
            Query::Id(query) => query.as_str().len(),
        };
        bytes += search.search_id.as_ref().map_or(0, |id| text(id.as_str()));
        bytes += query + search.source.as_deref().map_or(0, text) + text(event.event_id.as_str()) + 128;
        bytes += search.clicked_item_ids.iter().map(|item| text(item.as_str()) + 16).sum::<usize>();
    }
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventId, EventTime, History, ItemId, TimedEvent};

    fn view(version: u64) -> Arc<UserHistoryView> {
        Arc::new(UserHistoryView {
            history: History { recommendations: vec![ItemId::new("item").expect("an id")], searches: vec![] },
            recommendation_events: vec![TimedEvent {
                event_id: EventId::new("event").expect("an id"),
                time: EventTime::default(),
            }],
            version: HistoryVersion(version),
            ..Default::default()
        })
    }

    #[test]
    fn the_newest_view_stays_and_erasure_wins() {
        let cache = LastKnown::new(1 << 20);
        let user = UserId::new("u").expect("an id");
        let now = Instant::now();
        cache.keep(&user, &view(5), now);
        cache.keep(&user, &view(3), now);
        assert_eq!(cache.get(&user).expect("kept").view.version, HistoryVersion(5));
        cache.erase(&user, HistoryVersion(6));
        cache.keep(&user, &view(5), now);
        assert!(cache.get(&user).expect("a tombstone").view.history.is_empty(), "a late read brought the user back");
        cache.keep(&user, &view(7), now);
        assert_eq!(cache.get(&user).expect("kept").view.version, HistoryVersion(7));
    }

    #[test]
    fn a_confirmation_renews_only_its_own_version() {
        let cache = LastKnown::new(1 << 20);
        let (user, first) = (UserId::new("u").expect("an id"), Instant::now());
        let later = |seconds| first + std::time::Duration::from_secs(seconds);
        let confirmed = || cache.get(&user).expect("kept").confirmed;
        cache.keep(&user, &view(5), later(1));
        cache.keep(&user, &view(5), first);
        assert_eq!(confirmed(), later(1), "reads overtake each other");
        cache.keep(&user, &view(4), later(2));
        assert_eq!(confirmed(), later(1), "an older state says nothing about this one");
        cache.keep(&user, &view(5), later(3));
        assert_eq!(confirmed(), later(3));
    }

    #[test]
    fn memory_is_bounded() {
        let cache = LastKnown::new(64 << 10);
        for n in 0..10_000 {
            cache.keep(&UserId::new(&n.to_string()).expect("an id"), &view(1), Instant::now());
        }
        assert!(cache.0.weight() <= 64 << 10, "{}", cache.0.weight());
        assert!(cache.0.len() > 50, "{}", cache.0.len());
    }
}
