//! What Rank answers.

use sesrec::proto::v1;

use crate::support::{Client, TestServer, click, event, ids, model, rank_request, recommendation, search};

async fn append(client: &mut Client, request: v1::AppendEventRequest) -> v1::AppendEventResponse {
    client.append_event(request).await.unwrap().into_inner()
}

async fn rank(client: &mut Client, request: v1::RankRequest) -> v1::RankResponse {
    client.rank(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn orders_by_score_and_ties_by_request() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    // The logits of rows 1 and 2 are 0.7 and 1.4; 20 has 0.
    let answer =
        rank(&mut client, rank_request("nobody", &["i20", "i1", "i2", "i1", "missing", "i20", "missing"])).await;
    assert_eq!(ids(&answer.items), ["i2", "i1", "i1", "i20", "i20"]);
    let scores: Vec<f32> = answer.items.iter().map(|item| item.score).collect();
    assert_eq!(scores, [2, 1, 1, 20, 20].map(|row| model::score(row, &[])));
    assert_eq!(answer.unknown_item_ids, ["missing"]);
    assert_eq!(answer.model_version, "v1");
    assert!(answer.cold_start && !answer.stale_history);

    let top = rank(&mut client, v1::RankRequest { top_k: 2, ..rank_request("nobody", &["i20", "i1", "i2"]) }).await;
    assert_eq!(ids(&top.items), ["i2", "i1"]);

    let none = rank(&mut client, rank_request("nobody", &["missing"])).await;
    assert!(none.items.is_empty());
    assert_eq!(none.unknown_item_ids, ["missing"]);
}

#[tokio::test]
async fn a_token_reads_ones_own_writes() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let before = rank(&mut client, rank_request("known", &["i1", "i2"])).await;
    assert_eq!(ids(&before.items), ["i2", "i1"]);
    for n in 0..20 {
        let item = if n % 2 == 0 { "i1" } else { "i2" };
        let user = format!("user {}", n / 2);
        let appended = append(&mut client, event(&user, &format!("e{n}"), n, recommendation(item))).await;
        assert_eq!(appended.outcome(), v1::Outcome::Applied);
        let token = appended.history_token;
        let request = v1::RankRequest { history_token: token.clone(), ..rank_request(&user, &["i1", "i2"]) };
        let answer = rank(&mut client, request).await;
        assert_eq!(answer.history_token, token);
        assert!(!answer.cold_start);
        let expected = if n % 2 == 0 { ["i1", "i2"] } else { ["i2", "i1"] };
        assert_eq!(ids(&answer.items), expected, "event {n} does not count");
    }
}

#[tokio::test]
async fn inline_histories_score_like_stored_ones() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    append(&mut client, event("u", "e1", 1, recommendation("i3"))).await;
    append(&mut client, event("u", "e2", 2, search("s1", "red shoes", &["i4"]))).await;
    let last = append(&mut client, event("u", "e3", 3, click("s1", "i5"))).await;

    let all: Vec<String> = (1..=20).map(|n| format!("i{n}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let stored = v1::RankRequest { history_token: last.history_token, ..rank_request("u", &all) };
    let stored = rank(&mut client, stored).await;

    let inline = v1::History {
        recommendations: vec![v1::Recommendation { item_id: "i3".into() }],
        searches: vec![v1::Search {
            query_form: Some(v1::search::QueryForm::QueryId("red shoes".into())),
            clicked_item_ids: vec!["i4".into(), "i5".into()],
            ..Default::default()
        }],
    };
    // A store that nobody may ask.
    server.store.fail(crate::support::Fault::Stalled);
    let inline = rank(&mut client, v1::RankRequest { history: Some(inline), ..rank_request("u", &all) }).await;
    assert_eq!(inline.items, stored.items);
    assert_eq!(inline.items[0].item_id, "i5");
    assert_eq!(inline.history_token, "");
    assert!(!inline.cold_start && !inline.stale_history);

    let empty = v1::RankRequest { history: Some(v1::History::default()), ..rank_request("u", &["i1"]) };
    assert!(rank(&mut client, empty).await.cold_start);
}

#[tokio::test]
async fn explains_the_events_that_the_model_sees() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    // The model reads four recommendations: the newest that it knows.
    for (n, item) in ["i1", "i2", "missing", "i3", "i4", "missing", "i5"].into_iter().enumerate() {
        append(&mut client, event("u", &format!("r{n}"), n as i64, recommendation(item))).await;
    }
    append(&mut client, event("u", "s", 9, search("s1", "red hats", &["missing", "i6"]))).await;

    let request = v1::RankRequest { explain: true, top_k: 2, ..rank_request("u", &["i1", "i5", "i6"]) };
    let answer = rank(&mut client, request).await;
    let explanation = answer.explanation.unwrap();
    let events: Vec<_> = explanation.recommendations.iter().map(|event| event.event_id.as_str()).collect();
    assert_eq!(events, ["r1", "r3", "r4", "r6"]);
    let items: Vec<_> = explanation.recommendations.iter().map(|event| event.payload.clone().unwrap()).collect();
    let expected = ["i2", "i3", "i4", "i5"]
        .map(|item| v1::event_explanation::Payload::Recommendation(v1::Recommendation { item_id: item.into() }));
    assert_eq!(items, expected);
    assert!(explanation.recommendations[0].similar && explanation.recommendations[1].dissimilar);
    let weights: f32 = explanation.recommendations.iter().map(|event| event.coattention).sum();
    assert!((weights - 1.0).abs() < 1e-6);
    let [seen] = &explanation.searches[..] else { panic!("one search: {:?}", explanation.searches) };
    let Some(v1::event_explanation::Payload::Search(seen)) = &seen.payload else { panic!("a search") };
    assert_eq!(seen.clicked_item_ids, ["i6"]);
    assert_eq!(answer.items.len(), 2);
    for item in &answer.items {
        let attention = item.explanation.as_ref().unwrap();
        assert_eq!(attention.recommendations.as_ref().unwrap().all.len(), 4);
        assert_eq!(attention.searches.as_ref().unwrap().similar.len(), 1);
    }

    let history = client.get_history(v1::GetHistoryRequest { user_id: "u".into(), ..Default::default() }).await;
    let history = history.unwrap().into_inner();
    let events: Vec<_> = history.recommendations.iter().map(|event| event.event_id.as_str()).collect();
    assert_eq!(events, ["r1", "r3", "r4", "r6"], "GetHistory tells what the model sees");
    assert_eq!((history.stored_recommendations, history.stored_searches), (7, 1));
    assert_eq!(history.searches[0].known_words, ["red"]);
    assert_eq!(history.searches[0].time, Some(crate::support::time(9)));
    assert!(history.known_user && !history.stale_history);

    let plain = rank(&mut client, rank_request("u", &["i1"])).await;
    assert!(plain.explanation.is_none() && plain.items[0].explanation.is_none());

    // Of the history also where there is nothing to rank.
    let request = v1::RankRequest { explain: true, ..rank_request("u", &["missing"]) };
    let nothing = client.rank(request).await.unwrap().into_inner();
    assert_eq!(nothing.explanation, Some(explanation));
}

#[tokio::test]
async fn a_history_that_the_model_does_not_see_is_a_cold_start() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    append(&mut client, event("u", "e1", 1, recommendation("missing"))).await;
    assert!(rank(&mut client, rank_request("u", &["i1"])).await.cold_start);
    // A search counts even if none of its words are known.
    append(&mut client, event("u", "e2", 2, search("s", "unheard of", &["missing"]))).await;
    assert!(!rank(&mut client, rank_request("u", &["i1"])).await.cold_start);
}

#[tokio::test]
async fn get_history_tells_what_the_model_sees() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    // The catalogue's query "red shoes" has its own words; other texts have theirs, at most three.
    for (n, query) in ["Red  SHOES", "red red red shoes hats"].into_iter().enumerate() {
        let id = n.to_string();
        append(&mut client, event("u", &id, n as i64, search(&format!("s{n}"), query, &["i1", "i2", "i3"]))).await;
    }
    let request = v1::GetHistoryRequest { user_id: "u".into(), ..Default::default() };
    let seen = client.get_history(request).await.unwrap().into_inner().searches;
    assert_eq!(seen[0].known_words, ["shoes", "red"], "the catalogue's, not the text's");
    assert_eq!(seen[1].known_words, ["red", "red", "red"]);
    for (n, event) in seen.into_iter().enumerate() {
        let Some(v1::history_event::Payload::Search(search)) = event.payload else { panic!("a search") };
        assert_eq!(search.search_id, format!("s{n}"));
        assert_eq!(search.source, "search_box", "the bundle's default");
        assert_eq!(search.clicked_item_ids, ["i1", "i2"]);
    }
}

#[tokio::test]
async fn explanations_are_bounded() {
    let server = TestServer::with(|setup| setup.engine.max_explained = 2).await;
    let mut client = server.client().await;
    append(&mut client, event("u", "e1", 1, recommendation("i3"))).await;
    let request = v1::RankRequest { explain: true, ..rank_request("u", &["i1", "i2", "i3", "i4"]) };
    let answer = rank(&mut client, request).await;
    let explained: Vec<bool> = answer.items.iter().map(|item| item.explanation.is_some()).collect();
    assert_eq!(explained, [true, true, false, false]);
    assert_eq!(answer.explanation.unwrap().recommendations.len(), 1);
}

#[tokio::test]
async fn timings_are_disjoint_and_add_up() {
    let server = TestServer::start().await;
    server.model.slow(std::time::Duration::from_millis(20));
    let mut client = server.client().await;
    let started = std::time::Instant::now();
    let timings = rank(&mut client, rank_request("u", &["i1"])).await.timings.unwrap();
    let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap();
    let v1::Timings { queue_us, history_us, encode_us, score_us, other_us, total_us } = timings;
    assert_eq!(queue_us + history_us + encode_us + score_us + other_us, total_us);
    assert!(score_us >= 20_000, "{timings:?}");
    assert!(total_us <= elapsed, "{timings:?} in {elapsed}");
}

#[tokio::test]
async fn sixty_four_callers_get_what_each_would_get_alone() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for n in 1..=20 {
        append(&mut client, event(&format!("u{n}"), "e", 1, recommendation(&format!("i{n}")))).await;
    }
    let request = |n: usize| {
        let items: Vec<String> = (0..=n % 7).map(|k| format!("i{}", (n * 3 + k * 5) % 20 + 1)).collect();
        rank_request(&format!("u{}", n % 20 + 1), &items.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut alone = vec![];
    for n in 0..64 {
        alone.push(rank(&mut client, request(n)).await.items);
    }
    let batches_alone = server.metric("sesrec_engine_batch_requests_count");
    assert_eq!(batches_alone, 64.0);

    // The first is held on the device until all others wait behind it.
    server.model.hold();
    let calls = (0..64).map(|n| {
        let mut client = client.clone();
        async move { rank(&mut client, request(n)).await.items }
    });
    let waiting = async {
        let begun = || server.metric("sesrec_engine_batch_requests_sum") - 64.0;
        let queued = || server.metric("sesrec_engine_queued_requests");
        server.until("all there", || async { begun() + queued() == 64.0 }).await;
        server.model.release();
    };
    let (together, ()) = tokio::join!(futures::future::join_all(calls), waiting);
    assert_eq!(together, alone);
    let batches = server.metric("sesrec_engine_batch_requests_count") - batches_alone;
    assert!(batches <= 2.0, "64 concurrent requests in {batches} batches");
    assert_eq!(server.metric(r#"sesrec_requests_total{rpc="Rank",code="OK"}"#), 128.0);
    assert_eq!(server.metric(r#"sesrec_requests_in_flight{rpc="Rank"}"#), 0.0);
}

#[tokio::test]
async fn model_info_tells_what_is_live() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.get_model_info(v1::GetModelInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.name.as_str(), info.version.as_str(), info.model.as_str()), ("fake", "v1", "fake"));
    assert_eq!((info.items, info.users, info.queries, info.words), (20, 1, 1, 2));
    assert_eq!((info.max_recommendations, info.max_searches, info.load_ms), (4, 3, 3));
    assert_eq!((info.sources, info.device.as_str()), (vec!["search_box".to_owned()], "cpu"));
    assert!(info.loaded_at.unwrap().seconds > 1_700_000_000);

    server.slot.swap(model::loaded("v2").0);
    let answer = rank(&mut client, rank_request("u", &["i1"])).await;
    assert_eq!(answer.model_version, "v2");
}
