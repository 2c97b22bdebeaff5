//! From the contract's messages to domain values, checked once and completely: every broken rule is reported, each with
//! its field's path. `sesrec score` and the server read requests through here alike.

use std::{collections::HashSet, fmt::Display, sync::Arc};

use super::Violations;
use crate::{
    data::Catalogue,
    domain::{
        Event, EventId, EventTime, History, HistorySearch, HistoryVersion, ItemId, MAX_ID_BYTES, ModelVersion, Payload,
        Query, QueryId, Recommendation, Search, SearchClick, SearchId, UserId, check_id,
    },
    engine::Explain,
    history::HistoryToken,
    proto::v1,
};

/// The longest query text that is accepted, in bytes.
pub const MAX_QUERY_BYTES: usize = 4096;
/// The longest list of clicks that one search may carry.
pub const MAX_CLICKED_ITEMS: usize = 256;
/// What an AppendEventRequest with a valid event has at most, in bytes: four ids (of event, user and search, and the
/// search's source), a query, and all clicks. Each has a tag and a length before it, three bytes together; a fourth
/// byte for each is more than the time and the messages around take.
pub const LARGEST_EVENT_BYTES: usize = (4 + MAX_CLICKED_ITEMS) * (MAX_ID_BYTES + 4) + MAX_QUERY_BYTES + 4;
/// The most events that each side of an inline history may hold; the model reads the newest.
pub const MAX_INLINE_EVENTS: usize = 10_000;
/// The contract's default for [`RankQuestion::parse`]'s `max_candidates`.
pub const DEFAULT_MAX_CANDIDATES: usize = 10_000;

/// A Rank, checked.
#[derive(Debug, Clone)]
pub struct RankQuestion {
    /// Whom to rank for.
    pub user_id: UserId,
    /// What to rank.
    pub candidates: Resolved,
    /// How many to return; 0 is all.
    pub top_k: usize,
    /// Which history.
    pub history: HistorySource,
    /// Whether to explain.
    pub explain: Explain,
    /// The version that has to be live.
    pub model_version: Option<ModelVersion>,
}

/// Which history a Rank is about.
#[derive(Debug, Clone)]
pub enum HistorySource {
    /// The store's, at this version or a later one.
    Stored {
        /// From the request's token; version 0 without one.
        at_least: HistoryVersion,
    },
    /// The request's own; the store is not asked.
    Inline(History),
}

/// Candidates looked up in a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    /// Item rows of the known ones, in request order.
    pub rows: Vec<u32>,
    /// Their ids, parallel to `rows`.
    pub ids: Vec<String>,
    /// Distinct ids that the catalogue doesn't have, in request order.
    pub unknown: Vec<String>,
    /// How many candidates these were.
    pub unknown_candidates: usize,
}

impl Resolved {
    /// Splits known from unknown. What the catalogue has is an id; what it hasn't may be none.
    fn of(ids: Vec<String>, catalogue: &Catalogue, violations: &mut Violations) -> Self {
        let rows = catalogue.items.rows_of(&ids);
        let len = ids.len();
        let mut resolved = Self { rows: Vec::with_capacity(len), ids: Vec::with_capacity(len), ..Self::default() };
        for (n, (id, row)) in ids.into_iter().zip(rows).enumerate() {
            match row {
                Some(row) => {
                    resolved.rows.push(row);
                    resolved.ids.push(id);
                }
                None => {
                    violations.take(format_args!("candidate_item_ids[{n}]"), check_id(&id));
                    resolved.unknown.push(id);
                }
            }
        }
        resolved.unknown_candidates = resolved.unknown.len();
        let mut seen = HashSet::new();
        resolved.unknown.retain(|id| seen.insert(id.clone()));
        resolved
    }
}

impl RankQuestion {
    /// Checks a request, and looks its candidates up.
    ///
    /// # Errors
    /// Names every field that breaks a rule, as far as [`Violations`] lists them.
    pub fn parse(request: v1::RankRequest, max_candidates: usize, catalogue: &Catalogue) -> Result<Self, Violations> {
        let mut violations = Violations::new();
        let user_id = violations.take("user_id", UserId::new(&request.user_id));
        let ids = request.candidate_item_ids;
        if ids.is_empty() {
            violations.add("candidate_item_ids", "must not be empty");
        }
        let candidates = if ids.len() > max_candidates {
            let n = ids.len();
            violations.add("candidate_item_ids", format_args!("has {n} items; at most {max_candidates} are allowed"));
            Resolved::default()
        } else {
            Resolved::of(ids, catalogue, &mut violations)
        };
        let at_least = token(&request.history_token, &mut violations);
        let history = match request.history {
            Some(history) => HistorySource::Inline(inline_history(history, &mut violations)),
            None => HistorySource::Stored { at_least },
        };
        let model_version = match &*request.model_version {
            "" => None,
            version => violations.take("model_version", ModelVersion::new(version)),
        };
        violations.or(user_id.map(|user_id| Self {
            user_id,
            candidates,
            top_k: request.top_k as usize,
            history,
            explain: if request.explain { Explain::Yes } else { Explain::No },
            model_version,
        }))
    }
}

/// Checks a GetHistory: whose, and at which version or a later one.
///
/// # Errors
/// As [`RankQuestion::parse`].
pub fn history_question(request: &v1::GetHistoryRequest) -> Result<(UserId, HistoryVersion), Violations> {
    let mut violations = Violations::new();
    let user_id = violations.take("user_id", UserId::new(&request.user_id));
    let at_least = token(&request.history_token, &mut violations);
    violations.or(user_id.map(|user_id| (user_id, at_least)))
}

/// Checks an append. An event later than `latest` is refused: it would stay the newest of its user's history for ever,
/// and its erasure would keep everything before it out.
///
/// # Errors
/// As [`RankQuestion::parse`].
pub fn event(request: v1::AppendEventRequest, latest: EventTime) -> Result<Event, Violations> {
    let mut violations = Violations::new();
    let Some(event) = request.event else { return Err(Violations::of("event", "is required")) };
    let event_id = violations.take("event.event_id", EventId::new(&event.event_id));
    let user_id = violations.take("event.user_id", UserId::new(&event.user_id));
    let time = event_time(event.time, latest, &mut violations);
    let payload = match event.payload {
        None => {
            violations.add("event.payload", "is required: one of recommendation, search, search_click");
            None
        }
        Some(v1::event::Payload::Recommendation(recommendation)) => {
            let item_id = violations.take("event.recommendation.item_id", ItemId::new(&recommendation.item_id));
            item_id.map(|item_id| Payload::Recommendation(Recommendation { item_id }))
        }
        Some(v1::event::Payload::Search(search)) => {
            if search.search_id.is_empty() {
                violations.add("event.search.search_id", "must not be empty");
            }
            if search.query_form.is_none() {
                // A pipeline that lost its query field would otherwise go unnoticed; "" says that there was no text.
                violations.add("event.search.query", "or query_id is required; an explicit empty query is allowed");
            }
            let search = history_search(search, "event.search", &mut violations);
            let HistorySearch { search_id, query, source, clicked_item_ids, place: _ } = search;
            search_id.map(|search_id| Payload::Search(Search { search_id, query, source, clicked_item_ids }))
        }
        Some(v1::event::Payload::SearchClick(click)) => {
            let search_id = violations.take("event.search_click.search_id", SearchId::new(&click.search_id));
            let item_id = violations.take("event.search_click.item_id", ItemId::new(&click.item_id));
            search_id.zip(item_id).map(|(search_id, item_id)| Payload::SearchClick(SearchClick { search_id, item_id }))
        }
    };
    let event = event_id.zip(user_id).zip(time).zip(payload);
    violations.or(event.map(|(((event_id, user_id), time), payload)| Event { event_id, user_id, time, payload }))
}

fn event_time(
    time: Option<pbjson_types::Timestamp>,
    latest: EventTime,
    violations: &mut Violations,
) -> Option<EventTime> {
    let Some(time) = time else {
        violations.add("event.time", "is required");
        return None;
    };
    let Ok(nanos @ 0..1_000_000_000) = u64::try_from(time.nanos) else {
        violations.add("event.time", format_args!("has {} nanos; 0 to 999999999 are allowed", time.nanos));
        return None;
    };
    let since_1970 = u64::try_from(time.seconds).ok().and_then(|s| s.checked_mul(1_000_000_000)?.checked_add(nanos));
    let time = violations.take("event.time", EventTime::from_nanos(since_1970.unwrap_or(u64::MAX)))?;
    if time > latest {
        violations.add("event.time", "lies too far in the future (serve --max-event-lead)");
    }
    Some(time)
}

fn token(token: &str, violations: &mut Violations) -> HistoryVersion {
    match HistoryToken::decode(token) {
        Some(token) => token.version,
        None if token.is_empty() => HistoryVersion::default(),
        None => {
            violations.add("history_token", "is malformed: send one back as it was received, or none");
            HistoryVersion::default()
        }
    }
}

fn inline_history(history: v1::History, violations: &mut Violations) -> History {
    for (field, n) in [("recommendations", history.recommendations.len()), ("searches", history.searches.len())] {
        if n > MAX_INLINE_EVENTS {
            violations.add(
                format_args!("history.{field}"),
                format_args!("has {n} events; at most {MAX_INLINE_EVENTS} are allowed"),
            );
            return History::default();
        }
    }
    let recommendations = history.recommendations.iter().enumerate().filter_map(|(n, recommendation)| {
        violations.take(format_args!("history.recommendations[{n}].item_id"), ItemId::new(&recommendation.item_id))
    });
    let recommendations = recommendations.collect();
    let searches = history.searches.into_iter().enumerate();
    let searches = searches.map(|(n, search)| history_search(search, &format!("history.searches[{n}]"), violations));
    History::untimed(recommendations, searches.collect())
}

/// A search without either form of a query counts as an empty text: its clicks and its source still say something.
fn history_search(search: v1::Search, field: &str, violations: &mut Violations) -> HistorySearch {
    let query = match search.query_form {
        Some(v1::search::QueryForm::QueryId(id)) => {
            violations.take(format_args!("{field}.query_id"), QueryId::new(&id)).map(Query::Id)
        }
        Some(v1::search::QueryForm::Query(text)) => {
            violations.take(format_args!("{field}.query"), query_text(&text)).map(Query::Text)
        }
        None => None,
    };
    let search_id = match &*search.search_id {
        "" => None,
        id => violations.take(format_args!("{field}.search_id"), SearchId::new(id)),
    };
    let source = match &*search.source {
        "" => None,
        source => violations.take(format_args!("{field}.source"), check_id(source).map(|()| source.into())),
    };
    let clicks = search.clicked_item_ids;
    if clicks.len() > MAX_CLICKED_ITEMS {
        violations.add(
            format_args!("{field}.clicked_item_ids"),
            format_args!("has {} items; at most {MAX_CLICKED_ITEMS} are allowed", clicks.len()),
        );
    }
    let clicked_item_ids = clicks
        .iter()
        .take(MAX_CLICKED_ITEMS)
        .enumerate()
        .filter_map(|(n, id)| violations.take(format_args!("{field}.clicked_item_ids[{n}]"), ItemId::new(id)));
    HistorySearch {
        search_id,
        query: query.unwrap_or_else(|| Query::Text("".into())),
        source,
        clicked_item_ids: clicked_item_ids.collect(),
        place: 0,
    }
}

fn query_text(text: &str) -> Result<Arc<str>, impl Display + use<>> {
    if text.len() > MAX_QUERY_BYTES {
        Err(format!("is {} bytes long; at most {MAX_QUERY_BYTES} are allowed", text.len()))
    } else if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        Err("contains a control character".to_owned())
    } else {
        Ok(text.into())
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
