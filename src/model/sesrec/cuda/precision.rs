//! The precision of products, which candle keeps for the whole process.

use std::sync::{Mutex, PoisonError};

use candle_core::Result;

/// Held while products are launched: batches of several threads, or of two models, would change their precision for
/// each other.
static PRECISION: Mutex<()> = Mutex::new(());

/// With products in f32, or in TF32.
pub(super) fn with_products<T>(reduced: bool, launch: impl FnOnce() -> Result<T>) -> Result<T> {
    let _only = PRECISION.lock().unwrap_or_else(PoisonError::into_inner);
    candle_core::cuda::set_gemm_reduced_precision_f32(reduced);
    let launched = launch();
    candle_core::cuda::set_gemm_reduced_precision_f32(false);
    launched
}
