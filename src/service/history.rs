//! GetHistory and DeleteHistory.

use tokio::sync::SemaphorePermit;

use super::{
    ServiceError, Violations, convert,
    present::SeenHistory,
    shared::{Fallback, Freshness, Shared},
};
use crate::{
    domain::{Deadline, HistoryVersion, UserId},
    history::HistoryToken,
    proto::v1,
    telemetry::{Rejection, StoreOperation},
};

/// What the live model would see for a user now.
pub(super) async fn get(
    shared: &Shared,
    request: v1::GetHistoryRequest,
    deadline: Deadline,
) -> Result<v1::GetHistoryResponse, ServiceError> {
    let _place = shared.place_for_history()?;
    let (user, at_least) = convert::history_question(&request)?;
    let stored = shared.history(&user, at_least, deadline, Fallback::Copy).await?;
    let model = shared.slot.live();
    let view = &stored.known.view;
    let seen = stored.seen(&user, &model);
    let seen = SeenHistory { history: &view.history, view: Some(view), seen: &seen, featurizer: &model.featurizer };
    Ok(v1::GetHistoryResponse {
        recommendations: seen.recommendation_events(),
        searches: seen.search_events(),
        history_token: HistoryToken::new(view.version).encode(),
        stored_recommendations: count(view.history.recommendations.len()),
        stored_searches: count(view.history.searches.len()),
        pending_clicks: count(view.pending_clicks),
        known_user: view.version > HistoryVersion::default(),
        stale_history: stored.freshness == Freshness::Stale,
        user_id: request.user_id,
    })
}

impl Shared {
    /// Bounded: an answer has a whole history, and the store's connections are the Ranks', too.
    fn place_for_history(&self) -> Result<SemaphorePermit<'_>, ServiceError> {
        self.place(&self.histories, Rejection::Histories, "too many histories are read or erased")
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Erases a user from the store, then from this replica's memory. Other replicas find out by the version on their next
/// read, their encoded users are unreachable from then on; without a store, `Timeouts::stale` ends what they can
/// answer.
pub(super) async fn delete(
    shared: &Shared,
    request: v1::DeleteHistoryRequest,
    deadline: Deadline,
) -> Result<v1::DeleteHistoryResponse, ServiceError> {
    let _place = shared.place_for_history()?;
    let user = UserId::new(&request.user_id).map_err(|error| Violations::of("user_id", error))?;
    let erase = shared.store.delete(&user, shared.store_deadline(deadline));
    let version = shared.store_call(StoreOperation::Delete, deadline, erase).await?;
    shared.last_known.erase(&user, version);
    shared.engine.forget(&user);
    Ok(v1::DeleteHistoryResponse { history_token: HistoryToken::new(version).encode() })
}
