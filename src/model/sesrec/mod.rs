//! SESRec (Si et al., SIGIR 2023, arXiv 2305.10822): search and recommendation histories disentangled into similar and
//! dissimilar interests by co-attention, which candidates then attend to.
//!
//! [`SesRecConfig`] sizes it, [`parameters`] lists its tensors, [`Network`] is the differentiable forward pass with the
//! names of the paper's parts, [`SesRecTrainable`] adds the losses, [`SesRecRanker`] answers requests.

mod architecture;
mod co_attention;
mod config;
mod counts;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod explain;
mod first_layer;
mod interests;
mod losses;
mod network;
mod ranker;
mod state;
mod tensors;
mod trainable;
mod weights;

pub use co_attention::{CoAttention, Disentangled};
pub use config::{
    CoattentionPadding, Compared, InterestExtraction, LossWeights, Positions, PredictionLoss, SesRecConfig, Threshold,
};
pub use interests::InterestPooling;
pub use losses::{Alignment, triplet_hinge};
pub use network::{
    EncodedEvents, EncodedHistory, EncodedSide, HistoryInputs, Network, TrainingInputs, TrainingOutputs,
};
pub use ranker::SesRecRanker;
pub use trainable::SesRecTrainable;
pub use weights::{check, initialise, parameters};
