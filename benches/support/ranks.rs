//! Whole Ranks through queue, batches, cache and order, without gRPC and stores.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use candle_core::Device;
use sesrec::{
    data::UserFeatures,
    domain::{Deadline, HistoryVersion, UserId},
    engine::{Engine, EngineOptions, Explain, LoadedModel, ModelSlot, RankJob},
    telemetry::Metrics,
};
use tokio::runtime::{Builder, Runtime};

/// An engine with room for every caller of a benchmark.
pub struct Ranks {
    slot: Arc<ModelSlot>,
    engine: Engine,
    runtime: Runtime,
}

impl Ranks {
    /// Of a bundle on disk.
    pub fn new(bundle: &Path, device: &Device, options: EngineOptions) -> Result<Self> {
        let metrics = Metrics::new();
        let slot = Arc::new(ModelSlot::new(LoadedModel::load_with(bundle, device, options.ranker())?, metrics.clone()));
        let options = EngineOptions {
            max_queued_requests: 1 << 16,
            max_queued_candidates: 1 << 26,
            max_batch_requests: 1024.try_into()?,
            ..options
        };
        let engine = Engine::start(slot.clone(), options, metrics);
        Ok(Self { slot, engine, runtime: Builder::new_multi_thread().enable_all().build()? })
    }

    /// How long the model took to load.
    pub fn load_time(&self) -> Duration {
        self.slot.live().info.load_time
    }

    fn job(&self, user: usize, features: UserFeatures, cached: bool, items: &[u32]) -> RankJob {
        RankJob {
            model: self.slot.live(),
            features,
            cache_key: cached.then(|| (UserId::new(&format!("user{user}")).expect("an id"), HistoryVersion(1))),
            items: items.to_vec(),
            top_k: 100,
            explain: Explain::No,
            deadline: Deadline::after(Duration::from_secs(60)),
        }
    }

    /// One Rank; the user's encoding is kept and found again where `cached`.
    pub fn rank(&self, user: usize, features: &UserFeatures, cached: bool, items: &[u32]) -> Result<()> {
        self.runtime.block_on(self.engine.rank(self.job(user, features.clone(), cached, items)))?;
        Ok(())
    }

    /// Callers that each wait for an answer before they ask again, `rounds` times, with users that are cached; every
    /// answer's duration, sorted.
    pub fn callers(
        &self,
        callers: usize,
        rounds: usize,
        users: &[UserFeatures],
        lists: &[Vec<u32>],
    ) -> Result<Vec<Duration>> {
        let ask = |caller: usize| {
            let job = |round: usize| {
                let user = caller % users.len();
                self.job(user, users[user].clone(), true, &lists[(caller + round) % lists.len()])
            };
            let (engine, jobs) = (self.engine.clone(), (0..rounds).map(job).collect::<Vec<_>>());
            async move {
                let mut times = vec![];
                for job in jobs {
                    let started = std::time::Instant::now();
                    engine.rank(RankJob { deadline: Deadline::after(Duration::from_secs(60)), ..job }).await?;
                    times.push(started.elapsed());
                }
                Ok::<_, sesrec::engine::EngineError>(times)
            }
        };
        let tasks: Vec<_> = (0..callers).map(|caller| self.runtime.spawn(ask(caller))).collect();
        let mut times = vec![];
        for task in tasks {
            times.extend(self.runtime.block_on(task)??);
        }
        times.sort();
        Ok(times)
    }
}
