//! Code generated from `proto/`.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// The public contract, `sesrec.v1`.
pub mod v1 {
    tonic::include_proto!("sesrec.v1");
    include!(concat!(env!("OUT_DIR"), "/sesrec.v1.serde.rs"));

    /// For gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sesrec.v1.bin"));
}

/// How histories are stored; private to `history`.
pub(crate) mod stored {
    include!(concat!(env!("OUT_DIR"), "/sesrec.stored.v1.rs"));
}
