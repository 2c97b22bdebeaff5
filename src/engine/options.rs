//! Settings of the engine.

use std::{num::NonZeroUsize, time::Duration};

use crate::{
    model::RankerOptions,
    units::{parse_bytes, parse_duration},
};

/// How much may wait, how much is computed at once, how much is remembered. Flatten it into a command's options.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct EngineOptions {
    /// Ranks under way: those whose history is read, that wait for the device or that it computes. The next one is
    /// refused at once. Enough for the bursts you expect within your callers' deadlines: what can't be answered in time
    /// is better refused.
    #[arg(long, default_value_t = EngineOptions::default().max_queued_requests, value_name = "N")]
    pub max_queued_requests: usize,
    /// Candidates of the Ranks under way: what bounds the wait when requests differ in size. Default: 131072 on CPU, at
    /// about 1 µs each on two cores an eighth of a second; 524288 on GPU, or four batches, so that some wait while
    /// others are computed.
    #[arg(long, value_name = "N")]
    pub max_queued_candidates: Option<usize>,
    /// How much one batch holds, in history events to encode (padding included) plus candidates to score. More helps a
    /// GPU; on a CPU it only makes the first of a batch wait for the last. Default: 4096 on CPU, 131072 on GPU. A
    /// request that is larger runs alone.
    #[arg(long, value_name = "N")]
    pub batch_budget: Option<NonZeroUsize>,
    /// Requests in one batch, whatever their size.
    #[arg(long, default_value_t = EngineOptions::default().max_batch_requests, value_name = "N")]
    pub max_batch_requests: NonZeroUsize,
    /// How long an idle device waits for company before it starts a batch that isn't full, e.g. "500us". Zero starts at
    /// once; more pays only where the device is much faster on full batches and the load is steady.
    #[arg(long, default_value = "0s", value_parser = parse_duration, value_name = "DURATION")]
    pub max_delay: Duration,
    /// Memory for encoded users, e.g. "512MiB"; on the device, where that is a GPU. At 175 events of dimension 48 a
    /// user takes some 38 kB. A user found there costs scoring only, until the next event.
    #[arg(long, default_value = "512MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub user_cache_bytes: u64,
    /// Memory for vectors that are computed by item when a model is loaded, on a CPU, e.g. "8GiB": 1,408 bytes per item
    /// at Kuaishou's dimensions. The items of a catalogue that takes more are computed with each request, a sixth more
    /// arithmetic per candidate.
    #[arg(long, default_value = "4GiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub item_table_bytes: u64,
    /// On a GPU, compute SESRec's prediction layers in TF32: faster where batches are full; scores move by less than a
    /// thousandth.
    #[arg(long)]
    pub reduced_precision: bool,
    /// Threads that call the model. On a CPU a single one's calls use all cores; several divide the cores and the
    /// requests that wait among them, which answers more requests/s, each of them more slowly: try it where a server
    /// has many cores (`RAYON_NUM_THREADS` says how many are used). On a GPU a second one prepares a batch while the
    /// device computes the other: more candidates/s where the GPU, not the cores beside it, is the limit.
    #[arg(long, default_value_t = EngineOptions::default().device_threads, value_name = "N")]
    pub device_threads: NonZeroUsize,
    /// Items of one answer that are explained, the first of its order. An explanation has six numbers per item and
    /// event: 10,000 items with long histories would be tens of megabytes.
    #[arg(long, default_value_t = EngineOptions::default().max_explained, value_name = "N")]
    pub max_explained: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        const fn count(n: usize) -> NonZeroUsize {
            NonZeroUsize::new(n).expect("not zero")
        }
        Self {
            max_queued_requests: 1024,
            max_queued_candidates: None,
            batch_budget: None,
            max_batch_requests: count(256),
            max_delay: Duration::ZERO,
            user_cache_bytes: 512 << 20,
            item_table_bytes: RankerOptions::default().item_table_bytes,
            reduced_precision: false,
            device_threads: count(1),
            max_explained: 100,
        }
    }
}

impl EngineOptions {
    /// Those that concern the model itself.
    pub fn ranker(&self) -> RankerOptions {
        RankerOptions { item_table_bytes: self.item_table_bytes, reduced_precision: self.reduced_precision }
    }

    /// Candidates that may be under way on this kind of device.
    pub(super) fn candidates_on(&self, device: &candle_core::Device) -> usize {
        let default = if device.is_cpu() { 131_072 } else { self.budget_on(device).saturating_mul(4) };
        self.max_queued_candidates.unwrap_or(default)
    }

    /// The budget of a batch on this kind of device.
    pub(super) fn budget_on(&self, device: &candle_core::Device) -> usize {
        self.batch_budget.map_or(if device.is_cpu() { 4096 } else { 131_072 }, NonZeroUsize::get)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    #[test]
    fn flags_default_to_the_defaults() {
        let command = EngineOptions::augment_args(Command::new("x"));
        let options = EngineOptions::from_arg_matches(&command.get_matches_from(["x"])).unwrap();
        assert_eq!(options, EngineOptions::default());
    }
}
