//! Test rows through a running server: each user's history is appended, then the server ranks the candidates.
//!
//! The server has to see what the offline evaluation sees, no more and no less, or the comparison means nothing: all
//! events before the target, in the data set's order. Events of one time are kept in order by their ids. That no other
//! event is in the way is checked for every user.

use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use tonic::Code;

use crate::{
    cli::client::{Client, ServerArgs, describe, retry_delay, violations},
    data::{Dataset, EvaluationNegatives, RowSearch, Target},
    eval::{EvaluationError, Rank, UserRank, candidates},
    proto::{
        timestamp_of_millis,
        v1::{self, Outcome, event::Payload, search::QueryForm},
    },
    service::convert::MAX_CLICKED_ITEMS,
};

/// Users whose histories are on their way at the same time.
const USERS_AT_ONCE: usize = 16;
/// How often a busy server is asked again, and how long is waited where it doesn't say.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Ranks targets by asking a server.
pub(super) struct Replay<'a> {
    pub dataset: &'a Dataset,
    pub negatives: &'a EvaluationNegatives,
    pub server: &'a ServerArgs,
    pub model: &'a v1::GetModelInfoResponse,
    pub progress: ProgressBar,
}

impl Replay<'_> {
    /// The rank of every target's item, in the targets' order.
    pub async fn ranks(&self, client: &Client, targets: &[Target]) -> anyhow::Result<Vec<UserRank>> {
        ensure!(!targets.is_empty(), EvaluationError::NoTargets);
        self.progress.set_length(targets.len() as u64);
        let ranks = stream::iter(targets)
            .map(|&target| async move {
                let user = self.user_id(target);
                let rank = self.rank(client.clone(), target).await.with_context(|| format!("user {user:?}"))?;
                self.progress.inc(1);
                Ok::<_, anyhow::Error>(UserRank { user: target.user, rank })
            })
            .buffered(USERS_AT_ONCE)
            .try_collect()
            .await;
        self.progress.finish_and_clear();
        ranks
    }

    async fn rank(&self, mut client: Client, target: Target) -> anyhow::Result<Rank> {
        let history_token = self.append(&mut client, target).await?;
        self.check_history(&mut client, target, &history_token).await?;
        let mut rows = candidates(self.dataset, target, self.negatives)?;
        // The clicked item comes last: ties, which a server leaves in the request's order, count against it as they do
        // offline.
        rows.rotate_left(1);
        let item_ids: Vec<String> = rows.iter().map(|&item| self.item_id(item)).collect();
        let request = v1::RankRequest {
            user_id: self.user_id(target),
            candidate_item_ids: item_ids.clone(),
            history_token,
            model_version: self.model.version.clone(),
            ..Default::default()
        };
        let answer = patiently(async || client.clone().rank(self.server.request(request.clone())).await).await?;
        ensure!(!answer.stale_history, "the server answered from an old copy of the history: its store is away");
        if let Some(item) = answer.unknown_item_ids.first() {
            bail!(
                "item {item:?} is a candidate here and not in the server's catalogue: evaluate on the data set that the \
                   served bundle was trained on"
            );
        }
        ensure!(answer.items.len() == item_ids.len(), "the server left out a candidate");
        let clicked = item_ids.last().context("no candidate")?;
        let place = answer.items.iter().position(|item| item.item_id == *clicked);
        Ok(Rank(place.context("the server left out the clicked item")? as u32))
    }

    /// Appends everything before the target; the token of the state with all of it, empty without any event.
    async fn append(&self, client: &mut Client, target: Target) -> anyhow::Result<String> {
        let events = self.events(target);
        if events.is_empty() {
            return Ok(String::new());
        }
        let answers = patiently(async || {
            let requests = stream::iter(events.clone()).map(|event| v1::AppendEventRequest { event: Some(event) });
            let answers = client.clone().append_events(requests).await?;
            let answers: Vec<v1::AppendEventResponse> = answers.into_inner().try_collect().await?;
            Ok(tonic::Response::new(answers))
        })
        .await?;
        ensure!(answers.len() == events.len(), "{} of {} events were acknowledged", answers.len(), events.len());
        for (place, (event, answer)) in events.iter().zip(&answers).enumerate() {
            self.check_outcome(event, answer, &events[place..])?;
        }
        Ok(answers.last().map(|answer| answer.history_token.clone()).unwrap_or_default())
    }

    /// `later` begins with the event itself.
    fn check_outcome(
        &self,
        event: &v1::Event,
        answer: &v1::AppendEventResponse,
        later: &[v1::Event],
    ) -> anyhow::Result<()> {
        let id = &event.event_id;
        match answer.outcome() {
            Outcome::Applied | Outcome::Duplicate => Ok(()),
            Outcome::TooOld => {
                // A replay of more events than a history holds: the oldest ones had to go before, too.
                let same_side = |other: &&v1::Event| is_search(other) == is_search(event);
                let read = if is_search(event) { self.model.max_searches } else { self.model.max_recommendations };
                ensure!(
                    later.iter().filter(same_side).count() > read as usize,
                    "event {id} of {} is TOO_OLD for the server: start it with `serve --time-to-live 0s` and an empty \
                     store (--store memory)",
                    time(event)
                );
                Ok(())
            }
            Outcome::Conflict => bail!(
                "event {id} is stored with another content: the server has replayed another data set; start it with an \
                 empty store (--store memory)"
            ),
            _ => bail!("event {id} of {} is INVALID: {}", time(event), violations(answer)),
        }
    }

    /// The server must know of no event of the user's that was not replayed here: a real one, or one after the target.
    async fn check_history(&self, client: &mut Client, target: Target, token: &str) -> anyhow::Result<()> {
        let request = v1::GetHistoryRequest { user_id: self.user_id(target), history_token: token.to_owned() };
        let history =
            patiently(async || client.clone().get_history(self.server.request(request.clone())).await).await?;
        let recommendations = target.position as usize;
        let searches = self.dataset.searches_before(target);
        let sides = [
            (Side::Recommendation, &history.recommendations, recommendations),
            (Side::Search, &history.searches, searches),
        ];
        for (side, seen, count) in sides {
            let last = count.checked_sub(1).map(|last| side.event_id(last));
            let foreign = seen.iter().find(|event| {
                let ours = event.event_id.starts_with(side.prefix());
                !ours || last.as_ref().is_none_or(|last| event.event_id > *last)
            });
            if let Some(event) = foreign {
                bail!(
                    "the server's history has event {:?}, which is not before the target: start the server with an empty \
                     store (--store memory), anew for each split",
                    event.event_id
                );
            }
        }
        Ok(())
    }

    /// Everything before the target, oldest first.
    fn events(&self, target: Target) -> Vec<v1::Event> {
        let times = &self.dataset.recommendation_times(target.user)[..target.position as usize];
        let items = self.dataset.recommendations(target.user);
        let recommendations = times.iter().enumerate().map(|(n, &time)| {
            let item_id = self.item_id(items[n]);
            self.event(target, Side::Recommendation, n, time, Payload::Recommendation(v1::Recommendation { item_id }))
        });
        let searches = self.dataset.searches(target.user);
        let search_times = &self.dataset.search_times(target.user)[..self.dataset.searches_before(target)];
        let searches = search_times.iter().zip(&searches).enumerate().map(|(n, (&time, search))| {
            self.event(target, Side::Search, n, time, Payload::Search(self.search(n, search)))
        });
        let mut events: Vec<v1::Event> = recommendations.chain(searches).collect();
        events.sort_by_key(|event| event.time.map(|time| (time.seconds, time.nanos)));
        events
    }

    fn event(&self, target: Target, side: Side, n: usize, milliseconds: i64, payload: Payload) -> v1::Event {
        v1::Event {
            event_id: side.event_id(n),
            user_id: self.user_id(target),
            time: Some(timestamp_of_millis(milliseconds)),
            payload: Some(payload),
        }
    }

    fn search(&self, n: usize, search: &RowSearch<'_>) -> v1::Search {
        let catalogue = &self.dataset.catalogue;
        let query = catalogue.queries.id(search.query).unwrap_or_default();
        // As text, as callers send it, where that is what the catalogue calls the query.
        let query_form = if catalogue.tokenizer.canonical(query) == query {
            QueryForm::Query(query.to_owned())
        } else {
            QueryForm::QueryId(query.to_owned())
        };
        v1::Search {
            search_id: Side::Search.event_id(n),
            query_form: Some(query_form),
            source: catalogue.sources.id(search.source).unwrap_or_default().to_owned(),
            clicked_item_ids: search.clicks.iter().take(MAX_CLICKED_ITEMS).map(|&item| self.item_id(item)).collect(),
        }
    }

    fn user_id(&self, target: Target) -> String {
        self.dataset.catalogue.users.id(target.user).unwrap_or_default().to_owned()
    }

    fn item_id(&self, item: u32) -> String {
        self.dataset.catalogue.items.id(item).unwrap_or_default().to_owned()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Recommendation,
    Search,
}

impl Side {
    fn prefix(self) -> &'static str {
        match self {
            Self::Recommendation => "replay-r-",
            Self::Search => "replay-s-",
        }
    }

    /// In the order of events, also as text: it decides between events of one time.
    fn event_id(self, n: usize) -> String {
        format!("{}{n:010}", self.prefix())
    }
}

fn is_search(event: &v1::Event) -> bool {
    matches!(event.payload, Some(Payload::Search(_)))
}

fn time(event: &v1::Event) -> String {
    let time = event.time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or_else(|| "an unknown time".into(), |time| time.to_string())
}

/// Asks again while the server is busy: appends are idempotent, and the others change nothing.
async fn patiently<T>(ask: impl AsyncFn() -> Result<tonic::Response<T>, tonic::Status>) -> anyhow::Result<T> {
    let mut attempt = 1;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => {
                let busy = matches!(status.code(), Code::ResourceExhausted | Code::Unavailable);
                if !busy || attempt == ATTEMPTS {
                    return Err(anyhow!(describe(&status)));
                }
                attempt += 1;
                tokio::time::sleep(retry_delay(&status).unwrap_or(PAUSE)).await;
            }
        }
    }
}
