//! What a history is: the rules that all stores keep, free of storage.
//!
//! A user's state is a function of the *set* of events that were appended, not of their order:
//!
//! 1. Events that are past the time to live, or at or before the time of an erasure, don't exist.
//! 2. Each side, recommendations and searches, is its newest `max` events by (time, event_id bytes).
//! 3. A click belongs to the earliest kept search that has its search_id; per search_id the earliest `max_clicks` clicks
//!    are kept. Without such a search it waits, unless it is older than the oldest search of a full side: then its
//!    search can't come any more. The newest `max_pending_clicks` waiting clicks are kept.
//!
//! An append adds the event to the set; if the rules leave no place for it, the answer is `TooOld` and nothing changes.
//! So any permutation of events, with any duplicates, gives the same visible history, on three conditions: never more
//! than `max_pending_clicks` clicks wait for searches that come later; no click is older than its own search; no two
//! searches share a search_id (if they do, the state is still well defined, but clicks that were dropped together with
//! the earlier search don't come back for the later one).
//!
//! The Lua scripts of the Redis store say the same; `tests/stores.rs` holds them against each other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Appended, HistoryOptions, Outcome};
use crate::domain::{
    Event, EventId, EventTime, History, HistorySearch, HistoryVersion, Payload, Search, SearchClick, SearchId,
    TimedEvent, UserHistoryView,
};

/// Which of a user's three lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Recommendations,
    Searches,
    Clicks,
}

impl Side {
    pub(super) const ALL: [Self; 3] = [Self::Recommendations, Self::Searches, Self::Clicks];
}

/// One stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) time: EventTime,
    pub(super) event_id: EventId,
    pub(super) payload: Payload,
}

impl Row {
    pub(super) fn of(event: &Event) -> Self {
        Self { time: event.time, event_id: event.event_id.clone(), payload: event.payload.clone() }
    }

    pub(super) fn side(&self) -> Side {
        match self.payload {
            Payload::Recommendation(_) => Side::Recommendations,
            Payload::Search(_) => Side::Searches,
            Payload::SearchClick(_) => Side::Clicks,
        }
    }

    fn key(&self) -> (EventTime, &EventId) {
        (self.time, &self.event_id)
    }

    fn search(&self) -> Option<&Search> {
        if let Payload::Search(search) = &self.payload { Some(search) } else { None }
    }

    fn click(&self) -> Option<&SearchClick> {
        if let Payload::SearchClick(click) = &self.payload { Some(click) } else { None }
    }

    /// Roughly the bytes that it takes in memory.
    fn weight(&self) -> usize {
        // A shared string has 16 bytes of counts, an allocation about as much again.
        const SHARED: usize = 32;
        let payload = match &self.payload {
            Payload::Recommendation(recommendation) => SHARED + recommendation.item_id.as_str().len(),
            Payload::Search(search) => {
                let clicks = search.clicked_item_ids.iter().map(|item| SHARED + 16 + item.as_str().len());
                3 * SHARED + search.search_id.as_str().len() + search.query.as_str().len() + clicks.sum::<usize>()
            }
            Payload::SearchClick(click) => 2 * SHARED + click.search_id.as_str().len() + click.item_id.as_str().len(),
        };
        size_of::<Self>() + 2 * SHARED + self.event_id.as_str().len() + payload
    }
}

/// What an append, expiry or erasure did to the rows, for stores that keep rows elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Change {
    pub(super) inserted: Option<Arc<Row>>,
    pub(super) removed: Vec<Arc<Row>>,
}

/// The histories of one user. Rows are shared, so that a clone costs little.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct UserTimeline {
    recommendations: Vec<Arc<Row>>,
    searches: Vec<Arc<Row>>,
    clicks: Vec<Arc<Row>>,
    version: HistoryVersion,
    erased_through: EventTime,
}

impl UserTimeline {
    /// From what a store kept. The rows may come in any order.
    pub(super) fn restore(
        rows: impl IntoIterator<Item = Row>,
        version: HistoryVersion,
        erased_through: EventTime,
    ) -> Self {
        let mut timeline = Self { version, erased_through, ..Self::default() };
        for row in rows {
            timeline.side_mut(row.side()).push(Arc::new(row));
        }
        for side in Side::ALL {
            timeline.side_mut(side).sort_by(|a, b| a.key().cmp(&b.key()));
        }
        timeline
    }

    pub(super) fn version(&self) -> HistoryVersion {
        self.version
    }

    /// Events at or before this time were erased; 0: never.
    pub(super) fn erased_through(&self) -> EventTime {
        self.erased_through
    }

    /// Roughly the bytes that it takes in memory.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + Side::ALL.iter().flat_map(|&side| self.side(side)).map(|row| row.weight()).sum::<usize>()
    }

    /// Appends one event. Unless the outcome is `Applied` nothing changes.
    pub(super) fn apply(&mut self, event: &Event, options: &HistoryOptions, now: EventTime) -> (Appended, Change) {
        let unchanged = |outcome, version| (Appended { outcome, version }, Change::default());
        let cutoff = options.cutoff(now);
        if event.time < cutoff || self.is_erased(event.time) {
            return unchanged(Outcome::TooOld, self.version);
        }
        if let Some(stored) = self.find(&event.event_id, cutoff) {
            let same = stored.time == event.time && stored.payload == event.payload;
            return unchanged(if same { Outcome::Duplicate } else { Outcome::Conflict }, self.version);
        }
        let row = Arc::new(Row::of(event));
        let mut next = self.clone();
        let side = next.side_mut(row.side());
        let place = side.partition_point(|other| other.key() < row.key());
        side.insert(place, row.clone());
        let removed = next.settle(options, cutoff);
        if removed.iter().any(|other| Arc::ptr_eq(other, &row)) {
            return unchanged(Outcome::TooOld, self.version);
        }
        next.step_version(now);
        *self = next;
        (Appended { outcome: Outcome::Applied, version: self.version }, Change { inserted: Some(row), removed })
    }

    /// Drops what is past its bounds. `None`: nothing is, and nothing changed.
    pub(super) fn expire(&mut self, options: &HistoryOptions, now: EventTime) -> Option<Change> {
        if !self.is_due(options, now) {
            return None;
        }
        let removed = self.settle(options, options.cutoff(now));
        self.step_version(now);
        Some(Change { inserted: None, removed })
    }

    /// Whether something is past the time to live, or past bounds that were lowered since it was stored.
    pub(super) fn is_due(&self, options: &HistoryOptions, now: EventTime) -> bool {
        let cutoff = options.cutoff(now);
        self.recommendations.len() > options.max_recommendations
            || self.searches.len() > options.max_searches
            || Side::ALL.iter().any(|&side| self.side(side).first().is_some_and(|row| row.time < cutoff))
    }

    /// Forgets everything up to now, and up to the newest event should that lie in the future.
    pub(super) fn erase(&mut self, now: EventTime) -> Change {
        let newest = Side::ALL.iter().filter_map(|&side| self.side(side).last()).map(|row| row.time).max();
        self.erased_through = self.erased_through.max(now).max(newest.unwrap_or_default());
        self.step_version(now);
        let removed = Side::ALL.iter().flat_map(|&side| std::mem::take(self.side_mut(side))).collect();
        Change { inserted: None, removed }
    }

    /// The history as callers see it.
    pub(super) fn view(&self) -> UserHistoryView {
        let named = |rows: &[Arc<Row>]| -> Vec<TimedEvent> {
            rows.iter().map(|row| TimedEvent { event_id: row.event_id.clone(), time: row.time }).collect()
        };
        let recommendations = self.recommendations.iter().filter_map(|row| match &row.payload {
            Payload::Recommendation(recommendation) => Some(recommendation.item_id.clone()),
            _ => None,
        });
        let mut places: HashMap<&SearchId, usize> = HashMap::with_capacity(self.searches.len());
        let mut searches: Vec<HistorySearch> = Vec::with_capacity(self.searches.len());
        for (time, search) in self.searches.iter().filter_map(|row| Some((row.time, row.search()?))) {
            places.entry(&search.search_id).or_insert(searches.len());
            let mut clicked_item_ids = Vec::with_capacity(search.clicked_item_ids.len());
            for item in &search.clicked_item_ids {
                if !clicked_item_ids.contains(item) {
                    clicked_item_ids.push(item.clone());
                }
            }
            searches.push(HistorySearch {
                search_id: Some(search.search_id.clone()),
                query: search.query.clone(),
                source: search.source.clone(),
                clicked_item_ids,
                place: self.recommendations.partition_point(|row| row.time <= time),
            });
        }
        let mut pending_clicks = 0;
        for click in self.clicks.iter().filter_map(|row| row.click()) {
            match places.get(&click.search_id) {
                None => pending_clicks += 1,
                Some(&place) => {
                    let clicked = &mut searches[place].clicked_item_ids;
                    if !clicked.contains(&click.item_id) {
                        clicked.push(click.item_id.clone());
                    }
                }
            }
        }
        UserHistoryView {
            history: History { recommendations: recommendations.collect(), searches },
            recommendation_events: named(&self.recommendations),
            search_events: named(&self.searches),
            pending_clicks,
            version: self.version,
        }
    }

    fn side(&self, side: Side) -> &Vec<Arc<Row>> {
        match side {
            Side::Recommendations => &self.recommendations,
            Side::Searches => &self.searches,
            Side::Clicks => &self.clicks,
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut Vec<Arc<Row>> {
        match side {
            Side::Recommendations => &mut self.recommendations,
            Side::Searches => &mut self.searches,
            Side::Clicks => &mut self.clicks,
        }
    }

    fn is_erased(&self, time: EventTime) -> bool {
        self.erased_through > EventTime::default() && time <= self.erased_through
    }

    fn find(&self, event_id: &EventId, cutoff: EventTime) -> Option<&Arc<Row>> {
        let mut rows = Side::ALL.iter().flat_map(|&side| self.side(side).iter().rev());
        rows.find(|row| row.event_id == *event_id && row.time >= cutoff)
    }

    fn step_version(&mut self, now: EventTime) {
        self.version = HistoryVersion(self.version.0 + 1).max(HistoryVersion::of_change_at(now));
    }

    /// Puts the rules of the module's documentation into force; returns the rows that had to go.
    fn settle(&mut self, options: &HistoryOptions, cutoff: EventTime) -> Vec<Arc<Row>> {
        let mut removed = vec![];
        for side in Side::ALL {
            let rows = self.side_mut(side);
            let expired = rows.partition_point(|row| row.time < cutoff);
            let bound = match side {
                Side::Recommendations => options.max_recommendations,
                Side::Searches => options.max_searches,
                Side::Clicks => usize::MAX,
            };
            removed.extend(rows.drain(..expired.max(rows.len().saturating_sub(bound))));
        }
        self.settle_clicks(options, &mut removed);
        removed
    }

    fn settle_clicks(&mut self, options: &HistoryOptions, removed: &mut Vec<Arc<Row>>) {
        if self.clicks.is_empty() {
            return;
        }
        let known: HashSet<&SearchId> =
            self.searches.iter().filter_map(|row| row.search()).map(|search| &search.search_id).collect();
        let full = self.searches.len() >= options.max_searches;
        // No search older than this can still come; with no place for searches at all, none can.
        let floor = self.searches.first().map(|row| row.time).filter(|_| full);
        let waits = |row: &Row| options.max_searches > 0 && floor.is_none_or(|floor| row.time >= floor);
        let is_known = |row: &Row| row.click().is_some_and(|click| known.contains(&click.search_id));
        let pending = self.clicks.iter().filter(|row| !is_known(row) && waits(row)).count();
        let mut surplus = pending.saturating_sub(options.max_pending_clicks);
        let mut per_search: HashMap<SearchId, usize> = HashMap::new();
        let mut keeps = |row: &Row| {
            let Some(click) = row.click() else { return false };
            if known.contains(&click.search_id) {
                let count = per_search.entry(click.search_id.clone()).or_default();
                *count += 1;
                *count <= options.max_clicks
            } else if waits(row) {
                // Oldest first: the surplus is the oldest.
                let keep = surplus == 0;
                surplus = surplus.saturating_sub(1);
                keep
            } else {
                false
            }
        };
        let (kept, dropped) = self.clicks.iter().cloned().partition(|row| keeps(row));
        removed.extend::<Vec<_>>(dropped);
        self.clicks = kept;
    }
}

#[cfg(test)]
#[path = "timeline_test.rs"]
mod tests;
