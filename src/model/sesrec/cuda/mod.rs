//! SESRec's answers on an NVIDIA GPU: users encoded on the host, candidates scored by a few launches for a whole batch.
//!
//! One user's history is matrices of 150 × 48: a core of the host has encoded it (0.15 ms) before a GPU has started the
//! hundred small kernels of the same. Candidates are many and alike: [`kernels`] pools their interests in one launch
//! for all requests, the prediction layers are products by cuBLAS.

mod kernels;
mod on_device;
mod plan;
mod precision;
mod ranker;

pub(super) use ranker::CudaRanker;
