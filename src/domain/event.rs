//! What a user does.

use std::sync::Arc;

use super::{EventId, EventTime, ItemId, QueryId, SearchId, UserId};

/// One event of one user, as appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Unique per user: a second append with the same id changes nothing.
    pub event_id: EventId,
    /// Whose history it belongs to.
    pub user_id: UserId,
    /// When it happened; histories are ordered by time, then `event_id`.
    pub time: EventTime,
    /// What happened.
    pub payload: Payload,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The user interacted with a recommended item.
    Recommendation(Recommendation),
    /// The user searched.
    Search(Search),
    /// The user clicked a result of a search, which may not have arrived yet.
    SearchClick(SearchClick),
}

/// An interaction with a recommended item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recommendation {
    /// The item.
    pub item_id: ItemId,
}

/// A search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// What later clicks refer to.
    pub search_id: SearchId,
    /// What was searched for.
    pub query: Query,
    /// How the search began (KuaiSAR's `search_source`); `None` is the bundle's default.
    pub source: Option<Arc<str>>,
    /// The results clicked so far.
    pub clicked_item_ids: Vec<ItemId>,
}

/// A click on a search result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchClick {
    /// Which search.
    pub search_id: SearchId,
    /// Which result.
    pub item_id: ItemId,
}

/// What was searched for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Query {
    /// As typed; may be empty.
    Text(Arc<str>),
    /// A query of the catalogue.
    Id(QueryId),
}

impl Query {
    /// The text, or the id.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Id(id) => id.as_str(),
        }
    }
}
