//! Compiles `proto/` with protox, a protobuf compiler in Rust, so that a fresh machine needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost_build::Config;

const PUBLIC: [&str; 2] = ["proto/sesrec/v1/ranking.proto", "proto/sesrec/v1/events.proto"];
const STORED: &str = "proto/sesrec/v1/stored.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let public = protox::compile(PUBLIC, ["proto"])?;
    let descriptors = prost_bytes(&public);
    // Served by gRPC reflection, which is what lets grpcurl call by name.
    fs::write(out.join("sesrec.v1.bin"), &descriptors)?;
    let mut config = Config::new();
    config.extern_path(".google.protobuf", "::pbjson_types").compile_well_known_types();
    tonic_prost_build::configure().compile_fds_with_config(public, config)?;
    pbjson_build::Builder::new().register_descriptors(&descriptors)?.build(&[".sesrec.v1"])?;

    Config::new().compile_fds(protox::compile([STORED], ["proto"])?)?;
    Ok(())
}

fn prost_bytes(set: &prost_types::FileDescriptorSet) -> Vec<u8> {
    prost::Message::encode_to_vec(set)
}
