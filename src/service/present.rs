//! From domain values to the contract's messages.

use std::time::Duration;

use crate::{
    data::{Featurized, Featurizer, SearchFeatures},
    domain::{
        EventAttention, EventWeight, History, HistorySearch, HistoryWeights, ItemAttention, Query, StageTimings,
        TimedEvent, UserHistoryView,
    },
    engine::Ranked,
    history::{Appended, HistoryToken, Outcome},
    proto::v1,
    telemetry::{AppendOutcome, RequestStages},
};

/// The items of an answer, explained as far as `ranked` is. `ids` are the candidates that were ranked.
pub fn ranked_items(mut ids: Vec<String>, ranked: &Ranked) -> Vec<v1::RankedItem> {
    let attention = ranked.explanation.as_ref().map(|(_, attention)| attention);
    let items = ranked.items.iter().enumerate();
    let item = |(n, item): (usize, &crate::domain::RankedItem)| v1::RankedItem {
        // Each candidate is at one place of the order.
        item_id: std::mem::take(&mut ids[item.candidate]),
        score: item.score,
        explanation: attention.and_then(|attention| attention.get(n)).map(item_explanation),
    };
    items.map(item).collect()
}

fn item_explanation(attention: &ItemAttention) -> v1::ItemExplanation {
    let side = |side: &EventAttention| {
        let EventAttention { all, similar, dissimilar } = side.clone();
        Some(v1::PoolingAttention { all, similar, dissimilar })
    };
    v1::ItemExplanation { recommendations: side(&attention.recommendations), searches: side(&attention.searches) }
}

/// A history with what the model made of it: which events it sees, and how they are presented.
pub struct SeenHistory<'a> {
    /// All of it.
    pub history: &'a History,
    /// The events' names and times; `None` for inline histories.
    pub view: Option<&'a UserHistoryView>,
    /// What the model sees of it.
    pub seen: &'a Featurized,
    /// The model's featurizer.
    pub featurizer: &'a Featurizer,
}

impl SeenHistory<'_> {
    /// Weights by encoded event → the history's events, by name.
    pub fn explanation(&self, weights: &HistoryWeights) -> v1::HistoryExplanation {
        let recommendations = self.seen.recommendation_events.iter().zip(&weights.recommendations);
        let recommendations = recommendations.map(|(&n, weight)| {
            let payload = v1::event_explanation::Payload::Recommendation(self.recommendation(n));
            explained(self.view.map(|view| &view.recommendation_events[n]), payload, weight)
        });
        let searches = self.searches().zip(&weights.searches).map(|((n, features), weight)| {
            let payload = v1::event_explanation::Payload::Search(self.search(n, features));
            explained(self.view.map(|view| &view.search_events[n]), payload, weight)
        });
        v1::HistoryExplanation { recommendations: recommendations.collect(), searches: searches.collect() }
    }

    /// The recommendation events that the model sees, oldest first.
    pub fn recommendation_events(&self) -> Vec<v1::HistoryEvent> {
        let event = |&n: &usize| {
            let payload = v1::history_event::Payload::Recommendation(self.recommendation(n));
            history_event(self.view.map(|view| &view.recommendation_events[n]), payload, vec![])
        };
        self.seen.recommendation_events.iter().map(event).collect()
    }

    /// The search events that the model sees, oldest first.
    pub fn search_events(&self) -> Vec<v1::HistoryEvent> {
        let words = &self.featurizer.catalogue().words;
        let event = |(n, features): (usize, &SearchFeatures)| {
            let words = features.words.iter().filter_map(|&row| words.id(row)).map(str::to_owned).collect();
            let payload = v1::history_event::Payload::Search(self.search(n, features));
            history_event(self.view.map(|view| &view.search_events[n]), payload, words)
        };
        self.searches().map(event).collect()
    }

    /// Places in the history, with what the model sees there.
    fn searches(&self) -> impl Iterator<Item = (usize, &SearchFeatures)> {
        self.seen.search_events.iter().copied().zip(&self.seen.features.searches)
    }

    fn recommendation(&self, n: usize) -> v1::Recommendation {
        v1::Recommendation { item_id: self.history.recommendations[n].to_string() }
    }

    /// With the source and the clicks that the model sees.
    fn search(&self, n: usize, features: &SearchFeatures) -> v1::Search {
        let HistorySearch { search_id, query, .. } = &self.history.searches[n];
        let catalogue = self.featurizer.catalogue();
        let clicks = features.clicks.iter().filter_map(|&row| catalogue.items.id(row));
        v1::Search {
            search_id: search_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            query_form: Some(match query {
                Query::Text(text) => v1::search::QueryForm::Query(text.to_string()),
                Query::Id(id) => v1::search::QueryForm::QueryId(id.to_string()),
            }),
            source: catalogue.sources.id(features.source).unwrap_or_default().to_owned(),
            clicked_item_ids: clicks.map(str::to_owned).collect(),
        }
    }
}

fn explained(
    event: Option<&TimedEvent>,
    payload: v1::event_explanation::Payload,
    weight: &EventWeight,
) -> v1::EventExplanation {
    v1::EventExplanation {
        event_id: event.map(|event| event.event_id.to_string()).unwrap_or_default(),
        payload: Some(payload),
        coattention: weight.coattention,
        similar: weight.similar,
        dissimilar: weight.dissimilar,
    }
}

fn history_event(
    event: Option<&TimedEvent>,
    payload: v1::history_event::Payload,
    known_words: Vec<String>,
) -> v1::HistoryEvent {
    v1::HistoryEvent {
        event_id: event.map(|event| event.event_id.to_string()).unwrap_or_default(),
        time: event.map(|event| event.time.into()),
        payload: Some(payload),
        known_words,
    }
}

/// The acknowledgement of an event that the store has seen.
pub fn acknowledgement(event_id: String, appended: Appended) -> v1::AppendEventResponse {
    let outcome = match appended.outcome {
        Outcome::Applied => v1::Outcome::Applied,
        Outcome::Duplicate => v1::Outcome::Duplicate,
        Outcome::TooOld => v1::Outcome::TooOld,
        Outcome::Conflict => v1::Outcome::Conflict,
    };
    v1::AppendEventResponse {
        event_id,
        outcome: outcome.into(),
        history_token: HistoryToken::new(appended.version).encode(),
        field_violations: vec![],
    }
}

/// As metrics count it.
pub fn outcome_label(outcome: Outcome) -> AppendOutcome {
    match outcome {
        Outcome::Applied => AppendOutcome::Applied,
        Outcome::Duplicate => AppendOutcome::Duplicate,
        Outcome::TooOld => AppendOutcome::TooOld,
        Outcome::Conflict => AppendOutcome::Conflict,
    }
}

/// Stages that add up to `total`: what no stage claims is `other`.
pub fn stages(engine: StageTimings, history: Duration, total: Duration) -> RequestStages {
    let StageTimings { queue, encode, score } = engine;
    let other = total.saturating_sub(queue + history + encode + score);
    RequestStages { queue, history, encode, score, other }
}

/// In whole microseconds that still add up.
pub fn timings(stages: &RequestStages) -> v1::Timings {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let timings = v1::Timings {
        queue_us: us(stages.queue),
        history_us: us(stages.history),
        encode_us: us(stages.encode),
        score_us: us(stages.score),
        other_us: us(stages.other),
        total_us: 0,
    };
    let v1::Timings { queue_us, history_us, encode_us, score_us, other_us, .. } = timings;
    v1::Timings { total_us: queue_us + history_us + encode_us + score_us + other_us, ..timings }
}
