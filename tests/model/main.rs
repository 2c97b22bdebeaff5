//! One suite for every model, through the library and through a real server; and what SESRec has of its own.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

mod contract;
#[path = "../support/device.rs"]
mod device;
mod fixture;
mod iv4rec;
mod leaks;
mod served;
mod sesrec;
mod statistics;
