//! Layers with a backward pass, parameters and the optimizer.
//!
//! candle-nn's fused `layer_norm` and `softmax_last_dim` have no backward: gradients would stop silently. The ones here
//! do. On the CPU they are fused, vectorised operators ([`candle_core::CustomOp1`] and relatives); on other devices the
//! same functions are composed of candle's own operators.

mod activation;
mod affine;
#[cfg(test)]
mod alike;
mod attention;
mod batch_matmul;
mod batch_norm;
mod causal_attention;
mod contrastive;
mod device;
mod dice;
mod dropout;
mod embedding;
mod encoder;
mod frequency_filter;
mod fused_attention;
mod gru;
mod host;
mod initial;
mod layer_norm;
mod least_squares;
mod linear;
mod loss;
mod mlp;
mod optimizer;
mod parameters;
mod product;
mod row_gradients;
mod scratch;
mod sequence;
mod softmax;
mod user_encoder;
pub(crate) mod vector;

pub use activation::{gelu, leaky_relu, relu, sigmoid, tanh};
pub use attention::MultiHeadAttention;
pub use batch_matmul::{batch_matmul, batch_matmul_transposed};
pub use batch_norm::BatchNorm;
pub use causal_attention::CausalAttention;
pub use contrastive::info_nce;
pub use device::{DeviceChoice, DeviceMemory, device_memory, device_name};
pub use dice::Dice;
pub use dropout::Dropout;
pub use embedding::{RowZero, gather_rows, gather_rows_as, mean_rows, mean_rows_as};
pub use encoder::{Encoder, EncoderBlock};
pub use frequency_filter::FrequencyFilter;
pub use gru::Gru;
pub(crate) use host::values;
pub use initial::Initial;
pub use layer_norm::LayerNorm;
pub use least_squares::{ridge_inverse, solve_symmetric};
pub use linear::{Linear, add_row, project};
pub use loss::{binary_cross_entropy, cross_entropy, flat_places, softplus, zero_loss};
pub use mlp::Mlp;
pub(crate) use optimizer::all_finite;
pub use optimizer::{Adam, AdamOptions, OptimizerError};
pub use parameters::Parameters;
pub(crate) use product::{Dense, Matrix, Product, Rows, RowsMut, Start, padded, transpose};
pub use row_gradients::Gradients;
pub(crate) use scratch::with_scratch;
pub use sequence::{newest, real_positions, zero_where_empty};
pub use softmax::{Mask, masked_log_mean_exp, masked_softmax};
pub(crate) use softmax::{exponentials, softmax};
pub(crate) use user_encoder::{NEVER, UserEncoder};
