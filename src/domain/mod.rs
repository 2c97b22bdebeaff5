//! What the service is about, free of protobuf, tensors and stores: identifiers, events, histories, ranking requests.
//!
//! Values are checked once, where they enter (`service::convert`, `data::kuaisar`); in here they are valid by type.

mod event;
mod history;
mod ids;
mod rank;
mod time;

pub use event::{Event, Payload, Query, Recommendation, Search, SearchClick};
pub use history::{History, HistorySearch, TimedEvent, UserHistoryView};
pub use ids::{
    EventId, HistoryVersion, IdError, ItemId, MAX_ID_BYTES, ModelVersion, QueryId, SearchId, UserId, check_id,
};
pub use rank::{EventAttention, EventWeight, HistoryWeights, ItemAttention, RankedItem, StageTimings};
pub use time::{Deadline, EventTime, TimeError};
