//! Layers with a backward pass, parameters and the optimizer.
//!
//! candle-nn's fused `layer_norm` and `softmax_last_dim` have no backward: gradients would stop silently. The ones here do.

mod device;
mod dropout;
mod optimizer;
mod parameters;

pub use device::{DeviceChoice, device_name};
pub use dropout::Dropout;
pub use optimizer::{Adam, AdamOptions, OptimizerError};
pub use parameters::Parameters;
