//! Code generated from `proto/`, and what times are in it.

use pbjson_types::Timestamp;

use crate::domain::EventTime;

/// The public contract, `sesrec.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("sesrec.v1");
    include!(concat!(env!("OUT_DIR"), "/sesrec.v1.serde.rs"));

    /// For gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sesrec.v1.bin"));
}

/// How histories are stored; private to `history`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub(crate) mod stored {
    include!(concat!(env!("OUT_DIR"), "/sesrec.stored.v1.rs"));
}

impl From<EventTime> for Timestamp {
    fn from(time: EventTime) -> Self {
        // 2^63 nanoseconds are 9.2e9 seconds.
        let (seconds, nanos) = (time.nanos() / 1_000_000_000, time.nanos() % 1_000_000_000);
        Self { seconds: seconds.cast_signed(), nanos: nanos as i32 }
    }
}

/// Of milliseconds since 1970, as logs have them.
pub fn timestamp_of_millis(millis: i64) -> Timestamp {
    Timestamp { seconds: millis.div_euclid(1_000), nanos: (millis.rem_euclid(1_000) * 1_000_000) as i32 }
}
