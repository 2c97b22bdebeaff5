//! Histories in a directory of this machine: the default store, durable before every acknowledgement.
//!
//! One thread ([`writer`]) owns all changes: it takes everything that is queued, applies it to the users' timelines,
//! writes the differences as one batch, syncs the journal once, and only then publishes the new timelines and answers
//! (group commit: the more callers, the fewer syncs per event). Reads come from a bounded cache of timelines
//! ([`cache`]) or, on a miss, from a snapshot on a blocking thread; they wait for a sync only where something of the
//! user has just passed its time to live, which is a change like any other. [`files`] knows how rows lie in the
//! directory, which is a fjall database (a log-structured merge tree in Rust). [`sweeper`] drops what is past its time
//! of users who don't come back.
//!
//! When the disk fails or fills up, nothing is acknowledged, the database is closed (what the journal holds is unknown
//! then), and opened anew once it can be.

mod cache;
mod files;
mod store;
mod sweeper;
mod writer;

pub use store::EmbeddedStore;
