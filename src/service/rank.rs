//! Rank: the candidates' rows, a place in the engine, the user's history, one job, an answer.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    ServiceError,
    convert::{HistorySource, RankQuestion, Resolved},
    present::{self, SeenHistory},
    shared::{Fallback, Freshness, Shared, StoredHistory},
};
use crate::{
    data::{Featurized, UserRow},
    domain::{Deadline, History, HistoryVersion, UserHistoryView, UserId},
    engine::{EngineError, Explain, LoadedModel, RankJob, Ranked},
    history::HistoryToken,
    proto::v1,
    telemetry::{ItemPlace, RequestStages, rank_log::RankLogLine, trace},
};

/// How many scores of an answer go into the metrics, evenly spaced over its order.
const OBSERVED_SCORES: usize = 8;

/// Answers a Rank that arrived at `arrival`.
pub(super) async fn rank(
    shared: &Shared,
    request: v1::RankRequest,
    arrival: Instant,
    deadline: Deadline,
) -> Result<v1::RankResponse, ServiceError> {
    // Pinned: the answer comes from it, whatever is live by then.
    let model = shared.slot.live();
    let question = RankQuestion::parse(request, shared.options.max_candidates, model.featurizer.catalogue())?;
    check_version(&model, &question)?;
    let resolved = question.candidates;
    // Before anything is waited for: a refusal comes at once, and Ranks that wait for the store are bounded too.
    let admitted = shared.engine.admit(resolved.rows.len()).map_err(|error| shared.engine_error(error))?;

    let history_started = Instant::now();
    let user = question.user_id;
    let basis = shared.basis(question.history, &user, deadline).await?;
    let history_time = history_started.elapsed();
    let seen = basis.seen(&user, &model);
    shared.count_items(&seen, &resolved);

    let queued = Instant::now();
    // Without candidates there is nothing to compute but the history's explanation.
    let ranked = if resolved.rows.is_empty() && question.explain == Explain::No {
        Ranked { items: vec![], explanation: None, timings: Default::default() }
    } else {
        let job = RankJob {
            model: model.clone(),
            features: seen.features.clone(),
            cache_key: basis.cache_key(&user),
            items: resolved.rows,
            top_k: question.top_k,
            explain: question.explain,
            deadline,
        };
        shared.engine.rank_admitted(admitted, job).await.map_err(|error| shared.engine_error(error))?
    };

    let view = basis.view();
    let as_seen = SeenHistory { history: basis.history(), view, seen: &seen, featurizer: &model.featurizer };
    let explanation = ranked.explanation.as_ref().map(|(weights, _)| as_seen.explanation(weights));
    let mut response = v1::RankResponse {
        items: present::ranked_items(resolved.ids, &ranked),
        history_token: view.map(|view| HistoryToken::new(view.version).encode()).unwrap_or_default(),
        model_version: model.info.version.to_string(),
        cold_start: seen.features.is_cold(),
        stale_history: basis.is_stale(),
        unknown_item_ids: resolved.unknown,
        timings: None,
        explanation,
    };
    let stages = present::stages(ranked.timings, history_time, arrival.elapsed());
    response.timings = Some(present::timings(&stages));
    note_stages(&stages, history_started, queued);
    shared.count_answer(&response, &stages, seen.features.user);
    if let Some(log) = &shared.options.rank_log {
        log.offer(|| logged(&user, &response));
    }
    Ok(response)
}

/// The stages as spans of the caller's trace.
fn note_stages(stages: &RequestStages, history_started: Instant, queued: Instant) {
    let encoding = queued + stages.queue;
    trace::note("history", history_started, stages.history);
    trace::note("queue", queued, stages.queue);
    trace::note("encode", encoding, stages.encode);
    trace::note("score", encoding + stages.encode, stages.score);
}

fn logged(user: &UserId, response: &v1::RankResponse) -> RankLogLine {
    RankLogLine {
        time: jiff::Timestamp::now(),
        user_id: user.to_string(),
        model_version: response.model_version.clone(),
        items: response.items.iter().map(|item| item.item_id.clone()).collect(),
        scores: response.items.iter().map(|item| item.score).collect(),
        unknown_items: response.unknown_item_ids.len(),
        cold_start: response.cold_start,
        stale_history: response.stale_history,
    }
}

/// Whether the request takes this model.
fn check_version(model: &LoadedModel, question: &RankQuestion) -> Result<(), ServiceError> {
    match &question.model_version {
        Some(wanted) if *wanted != model.info.version => {
            Err(ServiceError::ModelNotLive { wanted: wanted.clone(), live: model.info.version.clone() })
        }
        _ => Ok(()),
    }
}

/// The history that an answer follows from.
enum Basis {
    /// The request's own.
    Inline(History),
    /// The store's, or a copy of it.
    Stored(StoredHistory),
}

impl Basis {
    fn history(&self) -> &History {
        match self {
            Self::Inline(history) => history,
            Self::Stored(stored) => &stored.known.view.history,
        }
    }

    /// Only what is stored has versions.
    fn view(&self) -> Option<&UserHistoryView> {
        match self {
            Self::Inline(_) => None,
            Self::Stored(stored) => Some(&stored.known.view),
        }
    }

    fn seen(&self, user: &UserId, model: &LoadedModel) -> Arc<Featurized> {
        match self {
            Self::Inline(history) => Arc::new(model.featurizer.features(user, history)),
            Self::Stored(stored) => stored.seen(user, model),
        }
    }

    /// Under what the encoded user may be kept.
    fn cache_key(&self, user: &UserId) -> Option<(UserId, HistoryVersion)> {
        match self {
            Self::Stored(stored) if stored.cacheable => Some((user.clone(), stored.known.view.version)),
            _ => None,
        }
    }

    fn is_stale(&self) -> bool {
        matches!(self, Self::Stored(stored) if stored.freshness == Freshness::Stale)
    }
}

impl Shared {
    /// Reads the store where the request brings no history.
    async fn basis(&self, source: HistorySource, user: &UserId, deadline: Deadline) -> Result<Basis, ServiceError> {
        Ok(match source {
            HistorySource::Inline(history) => Basis::Inline(history),
            HistorySource::Stored { at_least } => {
                let stored = self.history(user, at_least, deadline, Fallback::CopyOrColdStart).await;
                if matches!(stored, Err(ServiceError::TokenAhead { .. })) {
                    self.metrics.token_ahead();
                }
                Basis::Stored(stored?)
            }
        })
    }

    pub(super) fn engine_error(&self, error: EngineError) -> ServiceError {
        let retry_after = self.engine.retry_after();
        ServiceError::Engine(error, retry_after)
    }

    fn count_answer(&self, answer: &v1::RankResponse, stages: &RequestStages, user: UserRow) {
        self.metrics.rank_stages(stages);
        let step = answer.items.len().div_ceil(OBSERVED_SCORES).max(1);
        self.metrics.scores(answer.items.iter().step_by(step).map(|item| item.score));
        if user == UserRow::Mean {
            self.metrics.unknown_user();
        }
        if answer.cold_start {
            self.metrics.cold_start();
        }
        if answer.stale_history {
            self.metrics.stale_answer();
        }
    }

    fn count_items(&self, seen: &Featurized, resolved: &Resolved) {
        self.metrics.items(ItemPlace::History, seen.items, seen.unknown_items);
        let searches = &seen.features.searches;
        let unknown = searches.iter().filter(|search| search.query == 0 && search.words.is_empty()).count();
        self.metrics.searches(searches.len(), unknown);
        let (known, unknown) = (resolved.rows.len(), resolved.unknown_candidates);
        self.metrics.items(ItemPlace::Candidate, known + unknown, unknown);
    }
}
