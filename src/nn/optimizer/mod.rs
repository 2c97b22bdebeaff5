//! Adam as `torch.optim.Adam` computes it, L2 added to the gradient: what the release trained with.
//!
//! candle-nn's `AdamW` decouples weight decay, which is another algorithm, and composes each step from tensor
//! operations that allocate: on embedding tables of millions of values that costs more than the model. On the CPU a
//! step here is one pass over each parameter, in place; or, where it is [lazy](AdamOptions::lazy), over the rows that
//! were looked up.

mod adam;
mod error;
mod gradient;
mod step;

pub use adam::{Adam, AdamOptions};
pub use error::OptimizerError;
pub(crate) use gradient::all_finite;
