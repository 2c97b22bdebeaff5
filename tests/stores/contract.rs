//! What every store promises.

use std::{sync::Arc, time::Duration};

use sesrec::{
    domain::{HistoryVersion, UserHistoryView},
    history::{HistoryOptions, Loaded, Outcome},
};

use crate::fixture::*;

pub async fn an_unknown_user_is_empty(kind: Kind) {
    let fixture = Fixture::new(kind, options()).await;
    assert_eq!(*fixture.view(&user("u")).await, UserHistoryView::default());
    let known = Some(HistoryVersion(0));
    assert_eq!(fixture.store.load(&user("u"), known, soon()).await.unwrap(), Loaded::Unchanged);
    fixture.store.ping(soon()).await.unwrap();
    assert_eq!(fixture.store.append(&[], soon()).await.len(), 0);
}

pub async fn events_are_ordered_by_time_then_id(kind: Kind) {
    let options = HistoryOptions { max_recommendations: 10, ..options() };
    let fixture = Fixture::new(kind, options).await;
    for id in ["b", "é", "a", "ab", "日本", "Z", "aa"] {
        fixture.expect(&recommendation(id, 1 << 40, "i"), Outcome::Applied).await;
    }
    fixture.expect(&recommendation("late", (1 << 40) + 1, "i"), Outcome::Applied).await;
    fixture.expect(&recommendation("early", (1 << 40) - 1, "i"), Outcome::Applied).await;
    // By bytes, as Rust compares strings; not by any locale.
    assert_eq!(fixture.recommended().await, ["early", "Z", "a", "aa", "ab", "b", "é", "日本", "late"]);
}

pub async fn outcomes_are_exact(kind: Kind) {
    let fixture = Fixture::new(kind, options()).await;
    fixture.expect(&recommendation("b", 20, "i2"), Outcome::Applied).await;
    fixture.expect(&recommendation("d", 40, "i4"), Outcome::Applied).await;
    fixture.expect(&recommendation("c", 30, "i3"), Outcome::Applied).await;
    fixture.expect(&recommendation("c", 30, "i3"), Outcome::Duplicate).await;
    fixture.expect(&recommendation("c", 30, "other"), Outcome::Conflict).await;
    fixture.expect(&recommendation("c", 31, "i3"), Outcome::Conflict).await;
    fixture.expect(&search("c", 30, "s", &[]), Outcome::Conflict).await;
    fixture.expect(&click("c", 30, "s", "i3"), Outcome::Conflict).await;
    fixture.expect(&recommendation("a", 10, "i1"), Outcome::TooOld).await;
    fixture.expect(&recommendation("a", 20, "i1"), Outcome::TooOld).await;
    fixture.expect(&recommendation("bb", 20, "i5"), Outcome::Applied).await;
    assert_eq!(fixture.recommended().await, ["bb", "c", "d"]);
}

pub async fn clicks_join_their_search(kind: Kind) {
    let fixture = Fixture::new(kind, options()).await;
    fixture.expect(&click("c2", 12, "s1", "y"), Outcome::Applied).await;
    assert_eq!(fixture.view(&user("u")).await.pending_clicks, 1);
    fixture.expect(&search("e1", 10, "s1", &["w"]), Outcome::Applied).await;
    assert_eq!(fixture.view(&user("u")).await.pending_clicks, 0);
    fixture.expect(&click("c1", 11, "s1", "x"), Outcome::Applied).await;
    fixture.expect(&click("c1", 11, "s1", "x"), Outcome::Duplicate).await;
    assert_eq!(fixture.clicked().await, [["w", "x", "y"]]);
    fixture.expect(&click("c3", 13, "s1", "z"), Outcome::TooOld).await;
    fixture.expect(&click("c0", 10, "s1", "w"), Outcome::Applied).await;
    assert_eq!(fixture.clicked().await, [["w", "x"]], "the earliest two clicks, distinct items");
}

pub async fn clicks_go_with_their_search(kind: Kind) {
    let fixture = Fixture::new(kind, options()).await;
    fixture.expect(&search("e1", 10, "s1", &[]), Outcome::Applied).await;
    fixture.expect(&click("c1", 11, "s1", "x"), Outcome::Applied).await;
    fixture.expect(&search("e2", 20, "s2", &[]), Outcome::Applied).await;
    fixture.expect(&search("e3", 30, "s3", &[]), Outcome::Applied).await;
    fixture.expect(&click("c1", 11, "s1", "x"), Outcome::TooOld).await;
    fixture.expect(&search("e1", 10, "s1", &[]), Outcome::TooOld).await;
    let view = fixture.view(&user("u")).await;
    assert_eq!((view.pending_clicks, view.history.searches.len()), (0, 2));
    for n in 0..5 {
        fixture.expect(&click(&format!("p{n}"), 40 + n, &format!("later{n}"), "x"), Outcome::Applied).await;
    }
    assert_eq!(fixture.view(&user("u")).await.pending_clicks, 3);
}

pub async fn events_expire(kind: Kind) {
    let options = HistoryOptions { time_to_live: Some(Duration::from_micros(100)), ..options() };
    let fixture = Fixture::new(kind, options).await;
    let oldest = (START_MICROS - 100) * 1000;
    fixture.expect(&recommendation("a", oldest - 1, "i"), Outcome::TooOld).await;
    fixture.expect(&recommendation("a", oldest, "i"), Outcome::Applied).await;
    fixture.expect(&search("s", oldest, "s", &[]), Outcome::Applied).await;
    fixture.expect(&click("c", oldest, "s", "i"), Outcome::Applied).await;
    fixture.expect(&recommendation("b", oldest + 5000, "i"), Outcome::Applied).await;
    let full = fixture.view(&user("u")).await;
    assert_eq!(full.history.searches.len() + full.history.recommendations.len(), 3);
    fixture.clock.advance(1);
    let known = Some(full.version);
    let Loaded::History(rest) = fixture.store.load(&user("u"), known, soon()).await.unwrap() else {
        panic!("the history has changed by time alone")
    };
    assert!(rest.version > full.version);
    assert_eq!((rest.history.recommendations.len(), rest.history.searches.len(), rest.pending_clicks), (1, 0, 0));
    // The same step that inserts drops what is expired: its id is free again.
    fixture.clock.advance(5);
    fixture.expect(&recommendation("b", oldest + 7000, "i"), Outcome::Applied).await;
    assert_eq!(fixture.recommended().await, ["b"]);
}

pub async fn erased_events_stay_out(kind: Kind) {
    let fixture = Fixture::new(kind, options()).await;
    let now = START_MICROS * 1000;
    let events = [
        recommendation("a", now - 5, "i"),
        search("s", now - 4, "s", &["i"]),
        click("c", now - 3, "s", "j"),
        recommendation("future", now + 500, "i"),
    ];
    for event in &events {
        fixture.expect(event, Outcome::Applied).await;
    }
    let before = fixture.version(&user("u")).await;
    let erased = fixture.store.delete(&user("u"), soon()).await.unwrap();
    assert!(erased > before);
    let view = fixture.view(&user("u")).await;
    assert_eq!(*view, UserHistoryView { version: erased, ..UserHistoryView::default() });
    for event in &events {
        fixture.expect(event, Outcome::TooOld).await;
    }
    fixture.expect(&recommendation("a", now + 501, "i"), Outcome::Applied).await;
    assert_eq!(fixture.recommended().await, ["a"]);
    // A user that was never seen can be erased, too.
    fixture.store.delete(&user("v"), soon()).await.unwrap();
    assert_eq!(fixture.append(&of_user("v", recommendation("a", now, "i"))).await.outcome, Outcome::TooOld);
}

pub async fn versions_grow_and_unchanged_is_said(kind: Kind) {
    let fixture = Fixture::new(kind, options()).await;
    let first = fixture.append(&recommendation("a", 1, "i")).await.version;
    assert_eq!(first, HistoryVersion(START_MICROS));
    assert_eq!(fixture.append(&recommendation("b", 2, "i")).await.version, HistoryVersion(START_MICROS + 1));
    fixture.clock.advance(50);
    let third = fixture.append(&recommendation("c", 3, "i")).await.version;
    assert_eq!(third, HistoryVersion(START_MICROS + 50));
    let load = async |known| fixture.store.load(&user("u"), Some(known), soon()).await.unwrap();
    assert_eq!(load(third).await, Loaded::Unchanged);
    assert!(matches!(load(first).await, Loaded::History(view) if view.version == third));
    assert!(matches!(load(HistoryVersion(third.0 + 1)).await, Loaded::History(_)));
}

pub async fn one_call_may_mix_users(kind: Kind) {
    let fixture = Fixture::new(kind, options()).await;
    let events: Vec<_> = (0..600)
        .map(|n| of_user(&format!("u{}", n % 7), recommendation(&format!("e{}", n / 2), 1000 + n, "i")))
        .collect();
    let model = Fixture::new(Kind::Memory, options()).await;
    let expected = model.store.append(&events, soon()).await;
    let answers = fixture.store.append(&events, soon()).await;
    assert_eq!(answers.len(), events.len());
    for ((event, expected), answer) in events.iter().zip(expected).zip(answers) {
        assert_eq!(answer.unwrap(), expected.unwrap(), "{event:?}");
    }
    for n in 0..7 {
        let user = user(&format!("u{n}"));
        assert_eq!(fixture.view(&user).await, model.view(&user).await);
    }
}

pub async fn any_order_gives_the_same_history(kind: Kind) {
    let fixture = Fixture::new(kind, options()).await;
    let events = [
        recommendation("a", 10, "i1"),
        recommendation("b", 10, "i2"),
        recommendation("c", 12, "i3"),
        recommendation("d", 13, "i4"),
        search("s1", 10, "s1", &["own"]),
        search("s2", 20, "s2", &[]),
        search("s3", 30, "s3", &[]),
        click("c1", 21, "s2", "x"),
        click("c2", 22, "s2", "y"),
        click("c3", 31, "s3", "z"),
    ];
    let mut histories = vec![];
    for round in 0..12_usize {
        let name = format!("u{round}");
        // A different order each round, every event twice.
        let mut order: Vec<usize> = (0..events.len() * 2).collect();
        order.sort_by_key(|&n| blake3::hash(&[round as u8, n as u8]).as_bytes()[0]);
        for n in order {
            fixture.append(&of_user(&name, events[n % events.len()].clone())).await;
        }
        let view = fixture.view(&user(&name)).await;
        histories.push((view.history.clone(), view.recommendation_events.clone(), view.search_events.clone()));
    }
    assert_eq!(histories[0].1.len(), 3);
    assert_eq!(histories[0].0.searches[0].clicked_item_ids.len(), 2);
    for history in &histories {
        assert_eq!(*history, histories[0]);
    }
}

pub async fn sixteen_writers_lose_nothing(kind: Kind) {
    let options = HistoryOptions { max_recommendations: 1000, max_searches: 500, ..options() };
    let fixture = Arc::new(Fixture::new(kind, options).await);
    let writers: Vec<_> = (0..16_u64)
        .map(|writer| {
            let fixture = fixture.clone();
            tokio::spawn(async move {
                let mut last = HistoryVersion(0);
                for n in 0..50 {
                    let id = format!("w{writer}-{n}");
                    let event = match n % 4 {
                        0 => search(&id, 100 + n, &id, &[]),
                        _ => recommendation(&id, 100 + n, "i"),
                    };
                    let appended = fixture.append(&event).await;
                    assert_eq!(appended.outcome, Outcome::Applied);
                    assert!(appended.version > last, "versions grow");
                    last = appended.version;
                    // Read your writes.
                    let view = fixture.view(&user("u")).await;
                    assert!(view.version >= last);
                    let events = if n % 4 == 0 { &view.search_events } else { &view.recommendation_events };
                    assert!(events.iter().any(|event| event.event_id.as_str() == id));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let view = fixture.view(&user("u")).await;
    let events = [&view.recommendation_events, &view.search_events];
    assert_eq!(events.map(Vec::len), [16 * 37, 16 * 13]);
    for side in events {
        assert!(side.is_sorted_by(|a, b| (a.time, &a.event_id) < (b.time, &b.event_id)));
    }
}

pub async fn memory_is_bounded_under_an_endless_stream(kind: Kind) {
    let fixture = Fixture::new(kind, options()).await;
    for round in 0..20_u64 {
        let events: Vec<_> = (0..150)
            .map(|n| {
                let (id, time) = (format!("e{round}-{n}"), 1000 + round * 1000 + n);
                match n % 3 {
                    0 => recommendation(&id, time, "i"),
                    1 => search(&id, time, &id, &[]),
                    _ => click(&id, time, &format!("e{round}-{}", n - 1), "i"),
                }
            })
            .collect();
        for answer in fixture.store.append(&events, soon()).await {
            assert_eq!(answer.unwrap().outcome, Outcome::Applied);
        }
    }
    let view = fixture.view(&user("u")).await;
    assert_eq!((view.recommendation_events.len(), view.search_events.len(), view.pending_clicks), (3, 2, 0));
    assert_eq!(fixture.clicked().await, [["i"], ["i"]]);
}
