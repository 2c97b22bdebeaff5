//! Whole Ranks through queue, batches, cache and order, without gRPC and stores.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

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
        let slot = Arc::new(ModelSlot::new(LoadedModel::load(bundle, device, options.ranker())?, metrics.clone()));
        let options = EngineOptions {
            max_queued_requests: 1 << 16,
            max_queued_candidates: Some(1 << 26),
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
            features: Arc::new(features),
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

    /// Callers that each wait for an answer before they ask again, `rounds` times, with users that are cached.
    pub fn callers(
        &self,
        callers: usize,
        rounds: usize,
        users: &[UserFeatures],
        lists: &[Vec<u32>],
    ) -> Result<Answered> {
        let job = |caller: usize, round: usize| {
            let user = caller % users.len();
            self.job(user, users[user].clone(), true, &lists[(caller + round) % lists.len()])
        };
        // All of them before the first is asked: what a benchmark does for itself is not to be measured.
        let jobs: Vec<Vec<RankJob>> =
            (0..callers).map(|caller| (0..rounds).map(|round| job(caller, round)).collect()).collect();
        let ask = |jobs: Vec<RankJob>| {
            let engine = self.engine.clone();
            async move {
                let mut times = vec![];
                for job in jobs {
                    let started = Instant::now();
                    engine.rank(RankJob { deadline: Deadline::after(Duration::from_secs(60)), ..job }).await?;
                    times.push(started.elapsed());
                }
                Ok::<_, sesrec::engine::EngineError>(times)
            }
        };
        let started = Instant::now();
        let tasks: Vec<_> = jobs.into_iter().map(|jobs| self.runtime.spawn(ask(jobs))).collect();
        let mut times = vec![];
        for task in tasks {
            times.extend(self.runtime.block_on(task)??);
        }
        let elapsed = started.elapsed();
        times.sort();
        Ok(Answered { elapsed, times })
    }
}

/// What callers waited for.
pub struct Answered {
    /// From the first question to the last answer.
    pub elapsed: Duration,
    /// Every answer's duration, sorted.
    pub times: Vec<Duration>,
}
