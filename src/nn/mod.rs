//! Layers with a backward pass, parameters and the optimizer.
//!
//! candle-nn's fused `layer_norm` and `softmax_last_dim` have no backward: gradients would stop silently. The ones here
//! do. On the CPU they are fused, vectorised operators ([`candle_core::CustomOp1`] and relatives); on other devices the
//! same functions are composed of candle's own operators.

mod activation;
mod attention;
mod batch_matmul;
mod contrastive;
mod device;
mod dropout;
mod embedding;
mod encoder;
mod fused_attention;
mod host;
mod initial;
mod layer_norm;
mod linear;
mod mlp;
mod optimizer;
mod parameters;
mod softmax;
mod vector;

pub use activation::{leaky_relu, relu, sigmoid, tanh};
pub use attention::MultiHeadAttention;
pub use batch_matmul::{batch_matmul, batch_matmul_transposed};
pub use contrastive::info_nce;
pub use device::{DeviceChoice, device_name};
pub use dropout::Dropout;
pub use embedding::{RowZero, gather_rows, mean_rows};
pub use encoder::{Encoder, EncoderBlock};
pub use initial::Initial;
pub use layer_norm::LayerNorm;
pub use linear::{Linear, add_row, project};
pub use mlp::Mlp;
pub use optimizer::{Adam, AdamOptions, OptimizerError};
pub use parameters::Parameters;
pub use softmax::{Mask, masked_softmax};
