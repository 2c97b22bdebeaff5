//! What logs are wanted.

use crate::data::{Existing, Progress};

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SyntheticOptions {
    /// Users, at least 1.
    pub users: u32,
    /// Items, at least 100.
    pub items: u32,
    /// Everything follows from it.
    pub seed: u64,
    /// Clicked recommendations per user on average, at least 5; searches come to half as many.
    pub clicks_per_user: f64,
    /// What to do with logs that are there already.
    pub existing: Existing,
    /// Whether to show how far it is.
    pub progress: Progress,
}

impl Default for SyntheticOptions {
    fn default() -> Self {
        Self {
            users: 1_000,
            items: 2_000,
            seed: 1,
            clicks_per_user: 24.0,
            existing: Existing::Refuse,
            progress: Progress::Hidden,
        }
    }
}
