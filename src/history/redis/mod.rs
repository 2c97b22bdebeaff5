//! Histories in Redis (6.2 or newer): the store that replicas of the service share.
//!
//! A user is four keys in one hash slot: three lists, which Redis keeps as packed bytes, and the version ([`element`] and
//! `scripts/common.lua` describe them). Every append is one script and so atomic; a read is one round trip, in which an
//! unchanged history is not sent again. [`url`] reads `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`;
//! [`link`] keeps connections, reconnects, and decides what may be tried again; [`scripts`] calls the scripts.

mod element;
mod link;
mod scripts;
mod store;
mod url;

pub use store::{RedisOptions, RedisStore};
