//! Why a step could not be made: what the gradients lack, or a saved state that is of something else.

/// Why a step could not be made. The weights are as they were before it.
#[derive(Debug, thiserror::Error)]
pub enum OptimizerError {
    /// Nothing flowed back to a parameter: somewhere on the way is an operation without a backward pass.
    #[error("parameter {0} has no gradient: an operation between it and the loss has no backward pass")]
    MissingGradient(String),
    /// A gradient that would destroy the weights.
    #[error("the gradient of parameter {0} is not finite (NaN or infinite)")]
    NonFinite(String),
    /// A saved state of other parameters.
    #[error("optimizer state: {0}")]
    State(String),
    /// The tensor library's error.
    #[error("optimizer: {0}")]
    Tensor(#[from] candle_core::Error),
}
