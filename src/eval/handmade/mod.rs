//! A score made by hand, in which nothing is learned: popularity, shared terms, co-occurrence. Any learned model has to
//! beat it.
//!
//! `ln(1 + clicks of c) + a · Σ_t idf(t)² · profile(t) + b · Σ_h γ^age(h) · together(h, c)` for a candidate c, over its
//! terms t (attribute values, words of the searches that clicked it) and the user's clicked items h. A profile is the
//! terms of the user's items and the words of the user's searches, each decayed by γ^age; two items are together where
//! a user clicked both within three steps. Of a history the newest 50 events of each side count. All counts are of the
//! training part; a, b and γ are picked on validation.

mod score;
mod terms;
mod weights;

pub use score::HandmadeScore;
pub use weights::HandmadeWeights;
