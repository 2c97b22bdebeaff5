//! A thread that owns the device: takes a batch, encodes, scores, answers, and survives whatever the model does.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    EngineError, Explain, ModelSlot,
    batcher::{Batch, BatchLimits, Member, User},
    cores::Cores,
    order::order,
    pace::Pace,
    progress::Progress,
    queue::Queue,
    user_cache::UserCache,
};
use crate::{
    data::UserFeatures,
    domain::{HistoryWeights, ItemAttention, ModelVersion, RankedItem, StageTimings},
    failures::panic_message,
    model::{ModelError, RankingModel, ScoreRequest, UserState},
    telemetry::{Metrics, Stage, Throttle},
};

/// A model that always fails does so for every batch.
static FAILURES: Throttle = Throttle::new();

/// What a waiting request hears.
pub(super) enum Reply {
    /// The scores of its candidates, in request order.
    Scored(Scored),
    /// The model failed.
    Failed(EngineError),
    /// Its deadline had passed when the device came to it: the model never saw it.
    ExpiredInQueue,
    /// Its deadline passed between the stages.
    ExpiredComputing,
}

/// Scores, or, where an explanation was asked for, the order that was explained.
pub(super) struct Scored {
    pub(super) ranking: Ranking,
    pub(super) timings: StageTimings,
}

/// Ordering is left to the caller's task, so that the device can go on; explaining needs it done.
pub(super) enum Ranking {
    /// By candidate.
    Scores(Vec<f32>),
    /// Ordered and cut.
    Explained(Vec<RankedItem>, (HistoryWeights, Vec<ItemAttention>)),
}

/// One device thread.
pub(super) struct Worker {
    pub(super) queue: Arc<Queue>,
    pub(super) cache: Arc<UserCache>,
    pub(super) slot: Arc<ModelSlot>,
    pub(super) pace: Arc<Pace>,
    pub(super) progress: Arc<Progress>,
    /// Which of the device threads this is.
    pub(super) number: usize,
    pub(super) cores: Arc<Cores>,
    pub(super) limits: BatchLimits,
    pub(super) max_explained: usize,
    pub(super) metrics: Metrics,
    /// Calls of the model that have failed since requests were scored.
    pub(super) failures: Arc<AtomicU32>,
}

/// A member between the stages.
struct Encoded {
    member: Member,
    state: UserState,
    queue: Duration,
    encode: Duration,
}

impl Worker {
    /// Works until the queue is closed and empty.
    pub(super) fn run(self) {
        let mut live: ModelVersion = self.slot.live().info.version.clone();
        let lane = self.cores.lane();
        let place = self.progress.place(self.number);
        while let Some(batch) = self.queue.next_batch(&self.limits, &self.cache) {
            let started = Instant::now();
            let candidates = batch.size().candidates;
            place.begins();
            lane.compute(|| self.compute(batch, started));
            place.idles();
            self.pace.record(started.elapsed(), candidates);
            let now_live = self.slot.live();
            if now_live.info.version != live {
                live = now_live.info.version.clone();
                self.cache.keep_only(&live);
            }
        }
    }

    fn compute(&self, batch: Batch, started: Instant) {
        self.metrics.batch(batch.size());
        let lookups = batch.lookups();
        self.metrics.cache_lookups(lookups.hits, lookups.misses);

        let model = batch.model.clone();
        let states = self.encode(&batch);
        let encode_time = started.elapsed();
        if !states.is_empty() {
            self.metrics.device_time(Stage::Encode, encode_time);
            self.cache.report();
        }

        let score_started = Instant::now();
        let mut encoded = Vec::with_capacity(batch.members.len());
        for member in batch.members {
            let submitted = member.entry.submitted;
            let (state, queue, encode) = match &member.user {
                // For a cached user, its neighbours' encoding is waiting for the device.
                User::Cached(state) => (Ok(state.clone()), score_started - submitted, Duration::ZERO),
                User::Encode(n) => (states[*n].clone(), started - submitted, encode_time),
            };
            match state {
                Err(error) => drop(member.entry.reply.send(Reply::Failed(error))),
                Ok(_) if member.entry.reply.is_closed() => {}
                Ok(_) if member.entry.job.deadline.is_past() => {
                    drop(member.entry.reply.send(Reply::ExpiredComputing));
                }
                Ok(state) => encoded.push(Encoded { member, state, queue, encode }),
            }
        }
        if encoded.is_empty() {
            return;
        }
        let requests: Vec<ScoreRequest<'_>> = encoded
            .iter()
            .map(|encoded| ScoreRequest { state: &encoded.state, items: &encoded.member.entry.job.items })
            .collect();
        let scores = self.score(&*model.ranker, &requests);
        // Explaining is more work on the device: nobody who asked for scores only waits for it.
        let answers = encoded.into_iter().zip(scores);
        let (plain, explained): (Vec<_>, Vec<_>) =
            answers.partition(|(encoded, _)| encoded.member.entry.job.explain == Explain::No);
        for (encoded, scores) in plain.into_iter().chain(explained) {
            self.answer(&*model.ranker, encoded, scores, score_started);
        }
        self.metrics.device_time(Stage::Score, score_started.elapsed());
    }

    /// Encodes the batch's users and remembers them. If that fails, one by one: a user that the model can't encode
    /// fails only its own requests.
    fn encode(&self, batch: &Batch) -> Vec<Result<UserState, EngineError>> {
        let ranker = &*batch.model.ranker;
        let users: Vec<&UserFeatures> =
            batch.to_encode.iter().map(|&number| &*batch.members[number].entry.job.features).collect();
        if users.is_empty() {
            return vec![];
        }
        let states = match self.encode_once(ranker, &users) {
            Ok(states) => states.into_iter().map(Ok).collect(),
            Err(error) if users.len() == 1 => vec![Err(error)],
            Err(_) => users
                .iter()
                .map(|user| self.encode_once(ranker, &[user]).map(|mut states| states.remove(0)))
                .collect::<Vec<_>>(),
        };
        for (&number, state) in batch.to_encode.iter().zip(&states) {
            let entry = &batch.members[number].entry;
            if let (Some(key), Ok(state)) = (&entry.job.cache_key, state) {
                self.cache.insert(key, &batch.model.info.version, state.clone(), entry.epoch);
            }
        }
        states
    }

    fn encode_once(&self, ranker: &dyn RankingModel, users: &[&UserFeatures]) -> Result<Vec<UserState>, EngineError> {
        let states = self.guarded(|| ranker.encode(users))?;
        if states.len() != users.len() {
            return Err(self.failure(format!("the model encoded {} of {} users", states.len(), users.len())));
        }
        Ok(states)
    }

    /// Scores all requests. If that fails, one by one: a request that the model can't score fails alone.
    fn score(&self, ranker: &dyn RankingModel, requests: &[ScoreRequest<'_>]) -> Vec<Result<Vec<f32>, EngineError>> {
        match self.score_once(ranker, requests) {
            Ok(scores) => scores,
            Err(error) if requests.len() == 1 => vec![Err(error)],
            Err(_) => requests
                .iter()
                .map(|&request| self.score_once(ranker, &[request]).and_then(|mut scores| scores.remove(0)))
                .collect(),
        }
    }

    fn score_once(
        &self,
        ranker: &dyn RankingModel,
        requests: &[ScoreRequest<'_>],
    ) -> Result<Vec<Result<Vec<f32>, EngineError>>, EngineError> {
        let scores = self.guarded(|| ranker.score(requests))?;
        let right = scores.len() == requests.len()
            && scores.iter().zip(requests).all(|(scores, request)| scores.len() == request.items.len());
        if !right {
            return Err(self.failure("the model returned another number of scores than candidates".into()));
        }
        let checked: Vec<_> = scores
            .into_iter()
            .map(|scores| match scores.iter().position(|score| score.is_nan()) {
                None => Ok(scores),
                Some(candidate) => {
                    Err(self.failure(format!("the model's score of candidate {candidate} is not a number")))
                }
            })
            .collect();
        // Encoding alone is no answer.
        if checked.iter().all(Result::is_ok) {
            self.failures.store(0, Ordering::Relaxed);
        }
        Ok(checked)
    }

    fn answer(
        &self,
        ranker: &dyn RankingModel,
        encoded: Encoded,
        scores: Result<Vec<f32>, EngineError>,
        score_started: Instant,
    ) {
        let Encoded { member, state, queue, encode } = encoded;
        let (job, reply) = (member.entry.job, member.entry.reply);
        // Nobody waits for the rest, and it would take model time.
        if job.explain == Explain::Yes && (reply.is_closed() || job.deadline.is_past()) {
            drop(reply.send(Reply::ExpiredComputing));
            return;
        }
        let ranking = scores.and_then(|scores| match job.explain {
            Explain::No => Ok(Ranking::Scores(scores)),
            Explain::Yes => {
                let items = order(&scores, job.top_k);
                let explained = items.iter().take(self.max_explained);
                let rows: Vec<u32> = explained.map(|item| job.items[item.candidate]).collect();
                let explanation = self.guarded(|| ranker.explain(&state, &rows))?;
                Ok(Ranking::Explained(items, explanation))
            }
        });
        let timings = StageTimings { queue, encode, score: score_started.elapsed() };
        // A caller that went away in the meantime doesn't hear it; its own guard counts that.
        let _ = reply.send(match ranking {
            Ok(ranking) => Reply::Scored(Scored { ranking, timings }),
            Err(error) => Reply::Failed(error),
        });
    }

    /// Calls the model. A panic in it is an error like any other: the thread, and everyone else's requests, go on.
    fn guarded<T>(&self, call: impl FnOnce() -> Result<T, ModelError>) -> Result<T, EngineError> {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.failure(error.to_string())),
            Err(panic) => Err(self.failure(format!("the model panicked: {}", panic_message(&*panic)))),
        }
    }

    fn failure(&self, message: String) -> EngineError {
        self.metrics.model_failure();
        self.failures.fetch_add(1, Ordering::Relaxed);
        if let Some(more) = FAILURES.pass(Instant::now()) {
            tracing::error!(error = %message, more, "model call failed");
        }
        EngineError::Model(message)
    }
}
