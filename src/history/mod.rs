//! Users' histories: one contract ([`HistoryStore`]), three stores.
//!
//! `timeline` says what a history *is* (order, bounds, duplicates, clicks); `memory` and `embedded` apply it in the
//! process, `redis` applies the same rules in one atomic script per append. `tests/stores.rs` holds all three to it.

mod codec;
mod embedded;
mod memory;
mod redis;
mod store;
mod timeline;
mod user_key;

pub use self::redis::{RedisOptions, RedisStore};
pub use codec::read_stored;
pub use embedded::EmbeddedStore;
pub use memory::MemoryStore;
pub use store::{
    Appended, Clock, HistoryOptions, HistoryStore, HistoryToken, Loaded, Outcome, StoreError, StoreUrl, SystemClock,
    open,
};
