//! IV4Rec (Si et al., WWW 2022) over DIN: queries are instrumental variables of the items that they led to. An item's
//! vector is split into what its queries explain and the rest, and put together anew; DIN ranks by what comes out.
//!
//! A query counts from the moment on at which it led to a click: an item's vector is that of
//! [`UserFeatures::as_of`](crate::data::UserFeatures), in training and evaluation alike. That an item has a query at
//! all would otherwise tell that somebody is going to click it. In serving the moment is now, and items are put
//! together once per load.
//!
//! In training, an item is put together once per batch: its dropout is the same wherever it stands in it.

mod config;
mod instruments;
mod network;
mod tanh_mlp;

pub use config::Iv4RecConfig;
pub use instruments::Instruments;
pub use network::{Iv4Rec, Rewritten};
