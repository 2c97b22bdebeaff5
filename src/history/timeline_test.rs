//! The rules, event by event and as properties.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::{ItemId, Query, Recommendation, UserId};

fn at(nanos: u64) -> EventTime {
    EventTime::from_nanos(nanos).unwrap()
}

fn event(id: &str, time: u64, payload: Payload) -> Event {
    Event { event_id: EventId::new(id).unwrap(), user_id: UserId::new("u").unwrap(), time: at(time), payload }
}

fn recommendation(id: &str, time: u64, item: &str) -> Event {
    event(id, time, Payload::Recommendation(Recommendation { item_id: ItemId::new(item).unwrap() }))
}

fn search(id: &str, time: u64, search_id: &str, clicked: &[&str]) -> Event {
    let clicked_item_ids = clicked.iter().map(|item| ItemId::new(item).unwrap()).collect();
    let search_id = SearchId::new(search_id).unwrap();
    let query = Query::Text(id.into());
    event(id, time, Payload::Search(Search { search_id, query, source: None, clicked_item_ids }))
}

fn click(id: &str, time: u64, search_id: &str, item: &str) -> Event {
    let (search_id, item_id) = (SearchId::new(search_id).unwrap(), ItemId::new(item).unwrap());
    event(id, time, Payload::SearchClick(SearchClick { search_id, item_id }))
}

fn options() -> HistoryOptions {
    HistoryOptions { max_recommendations: 3, max_searches: 2, max_clicks: 2, max_pending_clicks: 3, time_to_live: None }
}

#[track_caller]
fn append(timeline: &mut UserTimeline, event: &Event, expected: Outcome) {
    let before = timeline.clone();
    let (appended, change) = timeline.apply(event, &options(), at(0));
    assert_eq!(appended.outcome, expected, "{event:?}");
    assert_eq!(appended.version, timeline.version());
    if expected == Outcome::Applied {
        assert!(timeline.version() > before.version());
        assert!(change.inserted.is_some());
    } else {
        assert_eq!(*timeline, before);
        assert_eq!(change, Change::default());
    }
}

fn clicked(timeline: &UserTimeline) -> Vec<Vec<String>> {
    let names = |s: &HistorySearch| s.clicked_item_ids.iter().map(|item| item.as_str().to_owned()).collect();
    timeline.view().history.searches.iter().map(names).collect()
}

#[test]
fn a_full_side_keeps_the_newest() {
    let mut timeline = UserTimeline::default();
    append(&mut timeline, &recommendation("b", 20, "i2"), Outcome::Applied);
    append(&mut timeline, &recommendation("d", 40, "i4"), Outcome::Applied);
    append(&mut timeline, &recommendation("c", 30, "i3"), Outcome::Applied);
    append(&mut timeline, &recommendation("c", 30, "i3"), Outcome::Duplicate);
    append(&mut timeline, &recommendation("c", 30, "other"), Outcome::Conflict);
    append(&mut timeline, &recommendation("c", 31, "i3"), Outcome::Conflict);
    append(&mut timeline, &search("c", 30, "s", &[]), Outcome::Conflict);
    append(&mut timeline, &recommendation("a", 10, "i1"), Outcome::TooOld);
    append(&mut timeline, &recommendation("a", 20, "i1"), Outcome::TooOld);
    append(&mut timeline, &recommendation("bb", 20, "i5"), Outcome::Applied);
    let ids: Vec<_> = timeline.view().recommendation_events.iter().map(|e| e.event_id.to_string()).collect();
    assert_eq!(ids, ["bb", "c", "d"]);
}

#[test]
fn clicks_join_their_search_in_any_order() {
    let mut timeline = UserTimeline::default();
    append(&mut timeline, &click("c2", 12, "s1", "y"), Outcome::Applied);
    assert_eq!(timeline.view().pending_clicks, 1);
    append(&mut timeline, &search("e1", 10, "s1", &["w"]), Outcome::Applied);
    assert_eq!(timeline.view().pending_clicks, 0);
    append(&mut timeline, &click("c1", 11, "s1", "x"), Outcome::Applied);
    append(&mut timeline, &click("c1", 11, "s1", "x"), Outcome::Duplicate);
    assert_eq!(clicked(&timeline), [["w", "x", "y"]]);
    // Two are kept: the earliest.
    append(&mut timeline, &click("c3", 13, "s1", "z"), Outcome::TooOld);
    append(&mut timeline, &click("c0", 10, "s1", "v"), Outcome::Applied);
    assert_eq!(clicked(&timeline), [["w", "v", "x"]]);
}

#[test]
fn clicks_go_with_their_search() {
    let mut timeline = UserTimeline::default();
    append(&mut timeline, &search("e1", 10, "s1", &[]), Outcome::Applied);
    append(&mut timeline, &click("c1", 11, "s1", "x"), Outcome::Applied);
    append(&mut timeline, &search("e2", 20, "s2", &[]), Outcome::Applied);
    append(&mut timeline, &search("e3", 30, "s3", &[]), Outcome::Applied);
    append(&mut timeline, &click("c1", 11, "s1", "x"), Outcome::TooOld);
    append(&mut timeline, &search("e1", 10, "s1", &[]), Outcome::TooOld);
    assert_eq!(timeline.view().pending_clicks, 0);
    assert_eq!(timeline.side(Side::Clicks).len(), 0);
}

#[test]
fn waiting_clicks_are_bounded() {
    let mut timeline = UserTimeline::default();
    for n in 0..5 {
        append(&mut timeline, &click(&format!("c{n}"), 10 + n, &format!("s{n}"), "x"), Outcome::Applied);
    }
    assert_eq!(timeline.view().pending_clicks, 3);
    append(&mut timeline, &click("c", 5, "s", "x"), Outcome::TooOld);
}

#[test]
fn a_shared_search_id_belongs_to_the_earliest_search() {
    let mut timeline = UserTimeline::default();
    append(&mut timeline, &search("e2", 20, "s", &[]), Outcome::Applied);
    append(&mut timeline, &click("c1", 21, "s", "x"), Outcome::Applied);
    append(&mut timeline, &search("e1", 10, "s", &[]), Outcome::Applied);
    assert_eq!(clicked(&timeline), [vec!["x"], vec![]]);
    append(&mut timeline, &search("e3", 30, "t", &[]), Outcome::Applied);
    assert_eq!(clicked(&timeline), [vec!["x"], vec![]], "e2 is now the earliest");
}

#[test]
fn expiry_and_erasure() {
    let options = HistoryOptions { time_to_live: Some(Duration::from_nanos(100)), ..options() };
    let mut timeline = UserTimeline::default();
    let apply = |timeline: &mut UserTimeline, event: &Event, now| timeline.apply(event, &options, at(now)).0.outcome;
    assert_eq!(apply(&mut timeline, &recommendation("a", 49, "i"), 150), Outcome::TooOld);
    assert_eq!(apply(&mut timeline, &recommendation("a", 50, "i"), 150), Outcome::Applied);
    assert!(timeline.clone().expire(&options, at(150)).is_none());
    let mut later = timeline.clone();
    assert_eq!(later.expire(&options, at(151)).unwrap().removed.len(), 1);
    assert!(later.version() > timeline.version() && later.view().history.is_empty());
    // The id of an expired event is free again.
    assert_eq!(apply(&mut timeline, &recommendation("a", 60, "i"), 151), Outcome::Applied);
    assert_eq!(timeline.side(Side::Recommendations).len(), 1);

    // An event from the future is erased, too.
    assert_eq!(apply(&mut timeline, &recommendation("b", 500, "i"), 151), Outcome::Applied);
    let version = timeline.version();
    assert_eq!(timeline.erase(at(152)).removed.len(), 2);
    assert!(timeline.version() > version);
    assert_eq!(timeline.erased_through(), at(500));
    assert_eq!(apply(&mut timeline, &recommendation("b", 500, "i"), 153), Outcome::TooOld);
    assert_eq!(apply(&mut timeline, &recommendation("c", 501, "i"), 153), Outcome::Applied);
}

#[test]
fn versions_follow_the_clock_and_never_repeat() {
    let mut timeline = UserTimeline::default();
    let options = options();
    let now = EventTime::from_millis(1_700_000_000_000).unwrap();
    assert_eq!(timeline.apply(&recommendation("a", 1, "i"), &options, now).0.version.0, 1_700_000_000_000_000);
    assert_eq!(timeline.apply(&recommendation("b", 2, "i"), &options, at(5)).0.version.0, 1_700_000_000_000_001);
}

/// Up to 16 events; each search_id names one search, and no click is older than its search.
fn any_events() -> impl Strategy<Value = Vec<Event>> {
    let one = (0_u8..4, 0_u64..8, 0_u64..5, 0_u8..3);
    prop::collection::vec(one, 1..16).prop_map(|specs| {
        specs
            .iter()
            .enumerate()
            .map(|(n, &(kind, time, search, item))| match kind {
                0 | 1 => recommendation(&format!("e{n}"), time, &format!("i{item}")),
                // Search s<n> happens at time n.
                2 => search_at(search),
                _ => click(&format!("e{n}"), search + time, &format!("s{search}"), &format!("i{item}")),
            })
            .collect()
    })
}

fn search_at(time: u64) -> Event {
    search(&format!("search{time}"), time, &format!("s{time}"), &["own"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_order_with_any_duplicates_gives_the_same_history(
        (events, shuffled) in any_events().prop_flat_map(|events| {
            let twice: Vec<_> = events.iter().chain(&events).cloned().collect();
            (Just(events), Just(twice).prop_shuffle())
        }),
    ) {
        // Within the pending bound: it is the one bound that can't be independent of the order.
        let options = HistoryOptions { max_pending_clicks: 16, ..options() };
        let history = |events: &[Event]| {
            let mut timeline = UserTimeline::default();
            for event in events {
                timeline.apply(event, &options, at(0));
            }
            (timeline.view().history, timeline.view().recommendation_events, timeline.view().search_events)
        };
        prop_assert_eq!(history(&events), history(&shuffled));
    }

    #[test]
    fn changes_tell_exactly_what_happened(events in any_events()) {
        let mut timeline = UserTimeline::default();
        let mut rows: Vec<Arc<Row>> = vec![];
        for event in &events {
            let (_, change) = timeline.apply(event, &options(), at(0));
            rows.extend(change.inserted);
            for removed in change.removed {
                let place = rows.iter().position(|row| *row == removed).expect("was stored");
                rows.remove(place);
            }
            let restored =
                UserTimeline::restore(rows.iter().map(|row| (**row).clone()), timeline.version(), at(0));
            prop_assert_eq!(&restored, &timeline);
            prop_assert!(timeline.side(Side::Recommendations).len() <= 3);
            prop_assert!(timeline.side(Side::Searches).len() <= 2);
            prop_assert!(timeline.side(Side::Clicks).len() <= 2 * 2 + 3);
        }
    }
}
