//! An encoded user: what is cached between ranks.

use candle_core::Tensor;

use crate::domain::EventWeight;

/// What scoring needs of a user, without padding.
#[derive(Debug, Clone)]
pub(super) struct EncodedUser {
    /// Recommendation side.
    pub rec: SideState,
    /// Search side.
    pub src: SideState,
    /// The user's share of the first prediction layer, bias included `[1, h]`.
    pub user_block: Tensor,
}

/// One side of an encoded user.
#[derive(Debug, Clone)]
pub(super) struct SideState {
    /// How each event was weighed, oldest first.
    pub events: Vec<EventWeight>,
    /// Encodings by set; `None` without events.
    pub interests: Option<Interests>,
}

/// Encodings ordered so that each pooling is a dense matrix product.
#[derive(Debug, Clone)]
pub(super) enum Interests {
    /// The sets partition the events: similar ones first.
    Divided {
        /// `[n, d]`.
        encoded: Tensor,
        /// How many of them are similar; neither 0 nor n.
        similar: usize,
        /// The event at each row.
        order: Vec<usize>,
    },
    /// One set was empty and fell back to all, or the model pools all events only: all poolings are one.
    Undivided {
        /// `[n, d]`.
        encoded: Tensor,
    },
}

impl EncodedUser {
    /// Memory it occupies.
    pub(super) fn bytes(&self) -> usize {
        let side = |side: &SideState| {
            let tensor = side.interests.as_ref().map_or(0, |interests| interests.encoded().elem_count() * 4);
            tensor + side.events.len() * (size_of::<EventWeight>() + size_of::<usize>())
        };
        size_of::<Self>() + side(&self.rec) + side(&self.src) + self.user_block.elem_count() * 4
    }
}

impl Interests {
    /// `[n, d]`, in set order.
    pub(super) fn encoded(&self) -> &Tensor {
        match self {
            Self::Divided { encoded, .. } | Self::Undivided { encoded } => encoded,
        }
    }
}
