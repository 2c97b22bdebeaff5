//! Every rule of the contract, by table.

use pbjson_types::Timestamp;

use super::*;
use crate::{
    data::EntityTable,
    proto::v1::{event::Payload as P, search::QueryForm},
};

fn rank_request() -> v1::RankRequest {
    v1::RankRequest { user_id: "u".into(), candidate_item_ids: vec!["a".into()], ..Default::default() }
}

fn search() -> v1::Search {
    v1::Search { search_id: "s".into(), query_form: Some(QueryForm::Query("red shoes".into())), ..Default::default() }
}

fn append(change: impl FnOnce(&mut v1::Event)) -> v1::AppendEventRequest {
    let mut event = v1::Event {
        event_id: "e".into(),
        user_id: "u".into(),
        time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        payload: Some(P::Search(search())),
    };
    change(&mut event);
    v1::AppendEventRequest { event: Some(event) }
}

/// At the end of time, where no event is too early.
fn event(request: v1::AppendEventRequest) -> Result<Event, Violations> {
    super::event(request, EventTime::from_nanos(i64::MAX as u64).expect("the last one"))
}

fn fields(violations: &Violations) -> Vec<&str> {
    violations.listed().iter().map(|violation| violation.field.as_str()).collect()
}

#[test]
fn no_event_is_longer_than_the_largest() {
    let id = "x".repeat(MAX_ID_BYTES);
    let request = append(|event| {
        event.event_id = id.clone();
        event.user_id = id.clone();
        event.time = Some(Timestamp { seconds: 9_223_372_036, nanos: 854_775_807 });
        event.payload = Some(P::Search(v1::Search {
            search_id: id.clone(),
            query_form: Some(QueryForm::Query("x".repeat(MAX_QUERY_BYTES))),
            source: id.clone(),
            clicked_item_ids: vec![id.clone(); MAX_CLICKED_ITEMS],
        }));
    });
    let bytes = prost::Message::encoded_len(&request);
    assert!((LARGEST_EVENT_BYTES - 512..=LARGEST_EVENT_BYTES).contains(&bytes), "{bytes}");
    event(request).expect("the largest event is valid");
}

#[test]
fn rank_rules_name_their_fields() {
    let long = "x".repeat(513);
    type Change = Box<dyn Fn(&mut v1::RankRequest)>;
    let inline = |history: v1::History| -> Change { Box::new(move |r| r.history = Some(history.clone())) };
    let recommendation = |id: &str| v1::Recommendation { item_id: id.into() };
    let with_search = |change: &dyn Fn(&mut v1::Search)| {
        let mut search = search();
        change(&mut search);
        inline(v1::History { searches: vec![search], ..Default::default() })
    };
    let table: Vec<(Change, &[&str])> = vec![
        (Box::new(|r| r.user_id = String::new()), &["user_id"]),
        (Box::new(move |r| r.user_id = long.clone()), &["user_id"]),
        (Box::new(|r| r.user_id = "a\u{7}b".into()), &["user_id"]),
        (Box::new(|r| r.candidate_item_ids.clear()), &["candidate_item_ids"]),
        (Box::new(|r| r.candidate_item_ids = vec!["a".into(); 4]), &["candidate_item_ids"]),
        (
            Box::new(|r| r.candidate_item_ids = vec!["a".into(), String::new(), "\0".into()]),
            &["candidate_item_ids[1]", "candidate_item_ids[2]"],
        ),
        (Box::new(|r| r.history_token = "h1-xyz".into()), &["history_token"]),
        (Box::new(|r| r.model_version = "\n".into()), &["model_version"]),
        (
            inline(v1::History {
                recommendations: vec![recommendation("a"), recommendation("")],
                ..Default::default()
            }),
            &["history.recommendations[1].item_id"],
        ),
        (
            inline(v1::History { recommendations: vec![recommendation("a"); 10_001], ..Default::default() }),
            &["history.recommendations"],
        ),
        (with_search(&|s| s.query_form = Some(QueryForm::Query("x".repeat(4097)))), &["history.searches[0].query"]),
        (with_search(&|s| s.query_form = Some(QueryForm::Query("\0".into()))), &["history.searches[0].query"]),
        (with_search(&|s| s.query_form = Some(QueryForm::QueryId(String::new()))), &["history.searches[0].query_id"]),
        (with_search(&|s| s.source = "\u{1}".into()), &["history.searches[0].source"]),
        (with_search(&|s| s.clicked_item_ids = vec!["a".into(); 257]), &["history.searches[0].clicked_item_ids"]),
        (
            with_search(&|s| s.clicked_item_ids = vec!["a".into(), String::new()]),
            &["history.searches[0].clicked_item_ids[1]"],
        ),
    ];
    for (change, expected) in table {
        let mut request = rank_request();
        change(&mut request);
        let violations = RankQuestion::parse(request, 3, &Catalogue::default()).expect_err(expected[0]);
        assert_eq!(fields(&violations), expected);
    }
}

#[test]
fn all_violations_are_reported_together() {
    let request = v1::RankRequest { history_token: "?".into(), ..Default::default() };
    let violations = RankQuestion::parse(request, 3, &Catalogue::default()).expect_err("three rules broken");
    assert_eq!(fields(&violations), ["user_id", "candidate_item_ids", "history_token"]);

    let violations = event(v1::AppendEventRequest { event: Some(v1::Event::default()) }).expect_err("empty event");
    assert_eq!(fields(&violations), ["event.event_id", "event.user_id", "event.time", "event.payload"]);
    assert_eq!(fields(&event(v1::AppendEventRequest::default()).expect_err("no event")), ["event"]);
}

#[test]
fn event_rules_name_their_fields() {
    let time = |seconds, nanos| move |e: &mut v1::Event| e.time = Some(Timestamp { seconds, nanos });
    let table: Vec<(v1::AppendEventRequest, &[&str])> = vec![
        (append(|e| e.event_id = "x".repeat(513)), &["event.event_id"]),
        (append(|e| e.time = None), &["event.time"]),
        (append(time(-1, 0)), &["event.time"]),
        (append(time(0, -1)), &["event.time"]),
        (append(time(0, 1_000_000_000)), &["event.time"]),
        (append(time(i64::MAX, 0)), &["event.time"]),
        (append(|e| e.payload = None), &["event.payload"]),
        (append(|e| e.payload = Some(P::Recommendation(Default::default()))), &["event.recommendation.item_id"]),
        (
            append(|e| e.payload = Some(P::Search(v1::Search::default()))),
            &["event.search.search_id", "event.search.query"],
        ),
        (
            append(|e| e.payload = Some(P::SearchClick(Default::default()))),
            &["event.search_click.search_id", "event.search_click.item_id"],
        ),
    ];
    for (request, expected) in table {
        assert_eq!(fields(&event(request).expect_err(expected[0])), expected);
    }
}

#[test]
fn events_may_be_a_little_ahead() {
    let latest = EventTime::from_nanos(1_700_000_000_000_000_005).expect("a time");
    super::event(append(|_| ()), latest).expect("the last nanosecond that is allowed");
    let later = append(|e| e.time = Some(Timestamp { seconds: 1_700_000_000, nanos: 6 }));
    assert_eq!(fields(&super::event(later, latest).expect_err("too far ahead")), ["event.time"]);
}

#[test]
fn limits_themselves_are_allowed() {
    let mut request = rank_request();
    request.user_id = "ü".repeat(256);
    request.candidate_item_ids = vec!["a".into(); 3];
    request.history = Some(v1::History { searches: vec![v1::Search::default()], ..Default::default() });
    let question = RankQuestion::parse(request, 3, &Catalogue::default()).expect("at the limits");
    let HistorySource::Inline(history) = question.history else { panic!("inline") };
    assert_eq!(history.searches[0].query, Query::Text("".into()));

    let last = append(|e| e.time = Some(Timestamp { seconds: 9_223_372_036, nanos: 854_775_807 }));
    assert_eq!(event(last).expect("the last nanosecond").time.nanos(), i64::MAX as u64);
    let explicit = append(|e| {
        e.payload = Some(P::Search(v1::Search { query_form: Some(QueryForm::Query(String::new())), ..search() }));
    });
    assert!(event(explicit).is_ok(), "an explicit empty query");
}

#[test]
fn unknown_candidates_are_told_apart() {
    let items = EntityTable { ids: ["a", "b"].into_iter().collect(), ..EntityTable::padded() };
    let catalogue = Catalogue { items, ..Default::default() };
    let request = |ids: &[&str]| v1::RankRequest {
        candidate_item_ids: ids.iter().map(|&id| id.to_owned()).collect(),
        ..rank_request()
    };
    let question = RankQuestion::parse(request(&["x", "b", "a", "y", "b", "x"]), 6, &catalogue).expect("all are ids");
    let resolved = question.candidates;
    assert_eq!(resolved.ids, ["b", "a", "b"]);
    assert_eq!(resolved.rows, [2, 1, 2]);
    assert_eq!(resolved.unknown, ["x", "y"]);
    assert_eq!(resolved.unknown_candidates, 3);

    let violations = RankQuestion::parse(request(&["a", "", "b", "\n"]), 6, &catalogue).expect_err("two are no ids");
    assert_eq!(fields(&violations), ["candidate_item_ids[1]", "candidate_item_ids[3]"]);
}
