//! A user's histories as the model is asked about them: decoded, ordered, clicks joined to their searches.

use std::sync::Arc;

use super::{EventId, EventTime, HistoryVersion, ItemId, Query, SearchId};

/// Both sides, oldest first. Inline histories of requests and stored ones look alike from here on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Items the user interacted with in recommendation.
    pub recommendations: Vec<ItemId>,
    /// The user's searches with their clicks.
    pub searches: Vec<HistorySearch>,
}

impl History {
    /// Of lists that don't say how they lie in time relative to each other: the searches are spread evenly over the
    /// recommendations.
    pub fn untimed(recommendations: Vec<ItemId>, mut searches: Vec<HistorySearch>) -> Self {
        let gaps = searches.len() + 1;
        searches.iter_mut().enumerate().for_each(|(n, search)| search.place = (n + 1) * recommendations.len() / gaps);
        Self { recommendations, searches }
    }

    /// Whether there is nothing on either side.
    pub fn is_empty(&self) -> bool {
        self.recommendations.is_empty() && self.searches.is_empty()
    }
}

/// One search with its clicks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistorySearch {
    /// How its clicks refer to it; inline histories may leave it out. The model doesn't see it.
    pub search_id: Option<SearchId>,
    /// What was searched for.
    pub query: Query,
    /// How it began.
    pub source: Option<Arc<str>>,
    /// Clicked items: the search's own first, then later clicks by time. Stores and imports keep each once; an inline
    /// history is taken as it is, and an item that it lists twice weighs twice.
    pub clicked_item_ids: Vec<ItemId>,
    /// How many of [`History::recommendations`] lie before it. Inline histories don't say: see [`History::untimed`].
    pub place: usize,
}

/// When an event of a [`UserHistoryView`] happened and how it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedEvent {
    /// Its id.
    pub event_id: EventId,
    /// Its time.
    pub time: EventTime,
}

/// A stored history: what the model sees, and how each event is called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserHistoryView {
    /// What the model sees.
    pub history: History,
    /// Parallel to `history.recommendations`.
    pub recommendation_events: Vec<TimedEvent>,
    /// Parallel to `history.searches`.
    pub search_events: Vec<TimedEvent>,
    /// Clicks that wait for their search.
    pub pending_clicks: usize,
    /// Which state of the history this is.
    pub version: HistoryVersion,
}
