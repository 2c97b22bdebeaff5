//! Random numbers as a function of where training stands.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What the numbers are for; each has a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Shuffle = 1,
    Negatives = 2,
    AlignmentNegatives = 3,
    Dropout = 4,
    ValidationUsers = 5,
    Searches = 6,
    HistoryNegatives = 7,
    Substitutes = 8,
}

/// The generator for a purpose at a place. The 256-bit key holds all four, so no two places share numbers.
pub(super) fn generator(seed: u64, purpose: Purpose, epoch: usize, step: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    let parts = [seed, purpose as u64, epoch as u64, step as u64];
    key.chunks_exact_mut(8).zip(parts).for_each(|(bytes, part)| bytes.copy_from_slice(&part.to_le_bytes()));
    ChaCha8Rng::from_seed(key)
}
