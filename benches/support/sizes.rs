//! What the benchmarks of ranking have in common.

/// Items of the catalogue.
pub const ITEMS: usize = 100_000;

/// Attention scores and pooling of 175 events, three poolings a side through 200-80-1: what is left per candidate when
/// item and user bring their shares. Our own way around the search side needs fewer; they don't count as faster.
pub const FLOP_PER_CANDIDATE: f64 = (2 * (2 * 175 * 48 + 6 * 48 * 200 + 200 * 80 + 80)) as f64;
