//! Compiles `proto/` with protox, a protobuf compiler in Rust, so that a fresh machine needs no `protoc`; with the
//! feature `cuda`, the GPU's kernels with `nvcc`, which candle needs, too.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prost_build::Config;

const PUBLIC: [&str; 2] = ["proto/sesrec/v1/ranking.proto", "proto/sesrec/v1/events.proto"];
const STORED: &str = "proto/sesrec/v1/stored.proto";
const KERNELS: &str = "src/model/sesrec/cuda/kernels.cu";

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
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        kernels(&out.join("sesrec-kernels.fatbin"))?;
    }
    Ok(())
}

/// PTX that the driver of any GPU since Ampere can translate, and machine code for the one that `CUDA_COMPUTE_CAP`
/// names (candle's variable: "90" is an H100).
fn kernels(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={KERNELS}");
    for variable in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let home = env::var_os("CUDA_HOME").or_else(|| env::var_os("CUDA_PATH"));
    let nvcc = home.map(|home| Path::new(&home).join("bin/nvcc")).filter(|nvcc| nvcc.exists());
    let mut command = Command::new(nvcc.unwrap_or_else(|| "nvcc".into()));
    command.args(["-fatbin", "-O3", "-std=c++17", "-gencode", "arch=compute_80,code=compute_80"]);
    if let Ok(capability) = env::var("CUDA_COMPUTE_CAP") {
        let capability = capability.replace('.', "");
        command.args(["-gencode", &format!("arch=compute_{capability},code=sm_{capability}")]);
    }
    let status = command.arg("-o").arg(out).arg(KERNELS).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("nvcc could not compile {KERNELS}: {status}").into()),
        Err(error) => Err(format!("nvcc: {error}; set CUDA_HOME to a CUDA 13 toolkit").into()),
    }
}

fn prost_bytes(set: &prost_types::FileDescriptorSet) -> Vec<u8> {
    prost::Message::encode_to_vec(set)
}
