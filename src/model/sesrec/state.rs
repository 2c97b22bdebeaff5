//! An encoded user: what is cached between ranks.

use candle_core::{Result, Tensor};

use super::{InterestExtraction, counts::UserCounts};
use crate::{domain::EventWeight, nn::Matrix};

/// What scoring needs of a user, without padding: of tensors on a device, or of matrices in host memory.
#[derive(Debug, Clone)]
pub(super) struct EncodedUser<M> {
    /// Recommendation side.
    pub rec: SideState<M>,
    /// Search side.
    pub src: SideState<M>,
    /// The user's share of the first prediction layer, bias included `[1, h]`.
    pub user_block: M,
    /// What is counted of the history.
    pub counts: UserCounts,
}

/// One side of an encoded user.
#[derive(Debug, Clone)]
pub(super) struct SideState<M> {
    /// How each event was weighed, oldest first.
    pub events: Vec<EventWeight>,
    /// Encodings by set; `None` without events.
    pub interests: Option<Interests<M>>,
}

/// Encodings ordered so that each pooling is a dense matrix product.
#[derive(Debug, Clone)]
pub(super) struct Interests<M> {
    /// `[n, d]`, in set order.
    pub encoded: M,
    /// How the events are divided.
    pub sets: Sets,
}

/// The similar and the dissimilar events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sets {
    /// They partition the events: similar ones first.
    Divided {
        /// How many are similar; neither 0 nor n.
        similar: usize,
        /// The event at each row.
        order: Vec<usize>,
    },
    /// One set was empty and fell back to all, or the model pools all events only: all poolings are one.
    Undivided,
}

impl Sets {
    /// Of events as they were weighed; at least one.
    pub(super) fn of(events: &[EventWeight], extraction: InterestExtraction) -> Self {
        let apart = extraction == InterestExtraction::Multiple;
        if !apart || events.iter().any(|event| event.similar == event.dissimilar) {
            return Self::Undivided;
        }
        let (mut order, dissimilar): (Vec<usize>, Vec<usize>) =
            (0..events.len()).partition(|&event| events[event].similar);
        let similar = order.len();
        order.extend(dissimilar);
        Self::Divided { similar, order }
    }

    /// How many rows are similar events, where the sets are told apart.
    #[cfg(feature = "cuda")]
    pub(super) fn similar(&self) -> Option<usize> {
        match self {
            Self::Divided { similar, .. } => Some(*similar),
            Self::Undivided => None,
        }
    }
}

/// What encodings are held in.
pub(super) trait Held {
    /// Memory of its values.
    fn bytes(&self) -> usize;
}

impl Held for Tensor {
    fn bytes(&self) -> usize {
        self.elem_count() * size_of::<f32>()
    }
}

impl Held for Matrix {
    fn bytes(&self) -> usize {
        Matrix::bytes(self)
    }
}

impl<M: Held> EncodedUser<M> {
    /// Memory it occupies.
    pub(super) fn bytes(&self) -> usize {
        let side = |side: &SideState<M>| {
            let encoded = side.interests.as_ref().map_or(0, |interests| interests.encoded.bytes());
            encoded + side.events.len() * (size_of::<EventWeight>() + size_of::<usize>())
        };
        size_of::<Self>() + side(&self.rec) + side(&self.src) + self.user_block.bytes() + self.counts.bytes()
    }
}

impl SideState<Matrix> {
    /// The same in tensors.
    pub(super) fn tensors(&self) -> Result<SideState<Tensor>> {
        let interests = self.interests.as_ref().map(|Interests { encoded, sets }| {
            Ok::<_, candle_core::Error>(Interests { encoded: encoded.tensor()?, sets: sets.clone() })
        });
        Ok(SideState { events: self.events.clone(), interests: interests.transpose()? })
    }
}
