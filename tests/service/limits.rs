//! Every field of every request at its limits and beyond, by table.

use std::collections::BTreeSet;

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use sesrec::proto::v1::{self, event::Payload, search::QueryForm};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{Client, TestServer, click, event, rank_request, recommendation, search, time};

/// What an identifier may be.
fn ids() -> Vec<(String, bool)> {
    let text = |text: &str, allowed| (text.to_owned(), allowed);
    vec![
        text("", false),
        text(" ", true),
        text("日本", true),
        text("\u{10ffff}", true),
        ("x".repeat(512), true),
        ("x".repeat(513), false),
        ("é".repeat(256), true),
        ("é".repeat(257), false),
        text("a\0b", false),
        text("a\nb", false),
        text("a\u{7f}", false),
        text("\u{85}", false),
    ]
}

/// Nothing at all, or an identifier.
fn optional_ids() -> Vec<(String, bool)> {
    ids().into_iter().map(|(id, allowed)| (id.clone(), allowed || id.is_empty())).collect()
}

#[track_caller]
fn judge(answer: Result<(), Status>, field: &str, allowed: bool, what: &str) {
    match answer {
        Ok(()) => assert!(allowed, "{field}: {what} was taken"),
        Err(status) => {
            assert!(!allowed, "{field}: {what}: {status:?}");
            assert_eq!(status.code(), Code::InvalidArgument, "{field}: {what}: {status:?}");
            let violations = status.get_details_bad_request().expect("what is wrong").field_violations;
            assert!(violations.iter().any(|violation| violation.field == field), "{field}: {what}: {violations:?}");
        }
    }
}

fn short(text: &str) -> String {
    format!("{:?} of {} bytes", text.chars().take(8).collect::<String>(), text.len())
}

type Change<M> = Box<dyn Fn(&mut M, String)>;
/// A field, what it may be, and how it is set.
type Field<M> = (&'static str, Vec<(String, bool)>, Change<M>);

fn with_history(change: fn(&mut v1::History, String)) -> Change<v1::RankRequest> {
    Box::new(move |request, text| {
        let mut history = v1::History {
            recommendations: vec![v1::Recommendation { item_id: "i1".into() }],
            searches: vec![a_search()],
        };
        change(&mut history, text);
        request.history = Some(history);
    })
}

fn a_search() -> v1::Search {
    v1::Search {
        search_id: "s".into(),
        query_form: Some(QueryForm::Query("red".into())),
        source: "search_box".into(),
        clicked_item_ids: vec!["i2".into()],
    }
}

fn rank_fields() -> Vec<Field<v1::RankRequest>> {
    vec![
        ("user_id", ids(), Box::new(|request, text| request.user_id = text)),
        ("candidate_item_ids[0]", ids(), Box::new(|request, text| request.candidate_item_ids = vec![text])),
        ("history.recommendations[0].item_id", ids(), with_history(|h, text| h.recommendations[0].item_id = text)),
        ("history.searches[0].search_id", optional_ids(), with_history(|h, text| h.searches[0].search_id = text)),
        ("history.searches[0].source", optional_ids(), with_history(|h, text| h.searches[0].source = text)),
        (
            "history.searches[0].query_id",
            ids(),
            with_history(|h, text| h.searches[0].query_form = Some(QueryForm::QueryId(text))),
        ),
        (
            "history.searches[0].clicked_item_ids[0]",
            ids(),
            with_history(|h, text| h.searches[0].clicked_item_ids = vec![text]),
        ),
    ]
}

fn event_fields() -> Vec<Field<v1::Event>> {
    let payload = |change: fn(String) -> Payload| -> Change<v1::Event> {
        Box::new(move |event, text| event.payload = Some(change(text)))
    };
    let of_search = |change: fn(&mut v1::Search, String)| -> Change<v1::Event> {
        Box::new(move |event, text| {
            let mut search = a_search();
            change(&mut search, text);
            event.payload = Some(Payload::Search(search));
        })
    };
    vec![
        ("event.event_id", ids(), Box::new(|event, text| event.event_id = text)),
        ("event.user_id", ids(), Box::new(|event, text| event.user_id = text)),
        ("event.recommendation.item_id", ids(), payload(|text| recommendation(&text))),
        ("event.search_click.search_id", ids(), payload(|text| click(&text, "i1"))),
        ("event.search_click.item_id", ids(), payload(|text| click("s", &text))),
        ("event.search.search_id", ids(), payload(|text| search(&text, "red", &[]))),
        ("event.search.source", optional_ids(), of_search(|search, text| search.source = text)),
        ("event.search.query_id", ids(), of_search(|search, text| search.query_form = Some(QueryForm::QueryId(text)))),
        ("event.search.clicked_item_ids[0]", ids(), of_search(|search, text| search.clicked_item_ids = vec![text])),
    ]
}

/// Fields that have no fields, by path, of a message of ours.
fn leaves(message: &MessageDescriptor) -> BTreeSet<String> {
    let of = |field: FieldDescriptor| match field.kind() {
        Kind::Message(inner) if inner.package_name() == "sesrec.v1" => {
            leaves(&inner).into_iter().map(|leaf| format!("{}.{leaf}", field.name())).collect()
        }
        _ => vec![field.name().to_owned()],
    };
    message.fields().flat_map(of).collect()
}

/// A field that is new in `proto/` has to get into the tables, or into what the tests below do by hand.
#[test]
fn no_field_of_a_request_is_forgotten() {
    let pool = DescriptorPool::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let methods = pool.services().find(|service| service.name() == "RankingService").unwrap();
    let inputs = methods.methods().map(|method| method.input());
    let all: BTreeSet<String> = inputs.flat_map(|input| leaves(&input)).collect();
    let of_rank = rank_fields().into_iter().map(|(field, ..)| field);
    let of_events = event_fields().into_iter().map(|(field, ..)| field);
    // `explain` is true or false.
    let by_hand = [
        "top_k",
        "history_token",
        "explain",
        "model_version",
        "history.searches.query",
        "event.search.query",
        "event.time",
    ];
    let tested = of_rank.chain(of_events).chain(by_hand).map(|field| field.replace("[0]", "")).collect();
    assert_eq!(all, tested);
}

#[tokio::test]
async fn fields_of_rank() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (field, values, change) in rank_fields() {
        for (text, allowed) in values {
            let mut request = rank_request("u", &["i1"]);
            change(&mut request, text.clone());
            judge(client.rank(request).await.map(drop), field, allowed, &short(&text));
        }
    }
    let queries = [("".to_owned(), true), ("tab\tand\nline".into(), true), ("x".repeat(4096), true)];
    let wrong = [("x".repeat(4097), false), ("a\0".into(), false), ("\u{1b}[0m".into(), false)];
    for (text, allowed) in queries.into_iter().chain(wrong) {
        let mut request = rank_request("u", &["i1"]);
        with_history(|h, text| h.searches[0].query_form = Some(QueryForm::Query(text)))(&mut request, text.clone());
        judge(client.rank(request).await.map(drop), "history.searches[0].query", allowed, &short(&text));
    }
    for (token, allowed) in [
        ("", true),
        ("h1-0", true),
        ("h1-00000000000000000", false),
        ("h1-", false),
        ("h1-g", false),
        ("h1-+1", false),
        ("h2-1", false),
        ("\u{0}", false),
    ] {
        let request = v1::RankRequest { history_token: token.into(), ..rank_request("u", &["i1"]) };
        judge(client.rank(request).await.map(drop), "history_token", allowed, token);
    }
    for (top_k, items) in [(0, 3), (1, 1), (3, 3), (4, 3), (u32::MAX, 3)] {
        let request = v1::RankRequest { top_k, ..rank_request("u", &["i1", "i2", "i3"]) };
        assert_eq!(client.rank(request).await.unwrap().into_inner().items.len(), items);
    }
}

#[tokio::test]
async fn lists_of_rank() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (count, allowed) in [(0, false), (1, true), (10_000, true), (10_001, false)] {
        let request = rank_request("u", &vec!["i1"; count]);
        judge(client.rank(request).await.map(drop), "candidate_item_ids", allowed, &count.to_string());
    }
    let of = |recommendations: usize, searches: usize, clicks: usize| {
        let search = v1::Search { clicked_item_ids: vec!["i2".into(); clicks], ..a_search() };
        let history = v1::History {
            recommendations: vec![v1::Recommendation { item_id: "i1".into() }; recommendations],
            searches: vec![search; searches],
        };
        v1::RankRequest { history: Some(history), ..rank_request("u", &["i1"]) }
    };
    for (request, field, allowed) in [
        (of(10_000, 0, 0), "history.recommendations", true),
        (of(10_001, 0, 0), "history.recommendations", false),
        (of(0, 10_000, 1), "history.searches", true),
        (of(0, 10_001, 1), "history.searches", false),
        (of(0, 1, 256), "history.searches[0].clicked_item_ids", true),
        (of(0, 1, 257), "history.searches[0].clicked_item_ids", false),
        (of(0, 0, 0), "history", true),
    ] {
        judge(client.rank(request).await.map(drop), field, allowed, "its length");
    }
    let version = |version: &str| v1::RankRequest { model_version: version.into(), ..rank_request("u", &["i1"]) };
    client.rank(version("v1")).await.unwrap();
    for (text, allowed) in optional_ids().into_iter().filter(|(text, _)| !text.is_empty()) {
        let status = client.rank(version(&text)).await.unwrap_err();
        match allowed {
            true => assert_eq!(status.code(), Code::FailedPrecondition, "another version: {}", short(&text)),
            false => judge(Err(status), "model_version", false, &short(&text)),
        }
    }
}

/// Appends an event with its own id each time, so that none is a conflict.
async fn append(client: &mut Client, number: &mut usize, change: impl Fn(&mut v1::Event)) -> Result<(), Status> {
    *number += 1;
    let mut request = event("u", &format!("e{number}"), 1, recommendation("i1"));
    change(request.event.as_mut().unwrap());
    client.append_event(request).await.map(drop)
}

#[tokio::test]
async fn fields_of_events() {
    let server = TestServer::start().await;
    let (mut client, mut number) = (server.client().await, 0);
    for (field, values, change) in event_fields() {
        for (text, allowed) in values {
            let answer = append(&mut client, &mut number, |event| change(event, text.clone())).await;
            judge(answer, field, allowed, &short(&text));
        }
    }
    for (length, allowed) in [(0, true), (4096, true), (4097, false)] {
        let query = "x".repeat(length);
        let answer = append(&mut client, &mut number, |event| event.payload = Some(search("s", &query, &[]))).await;
        judge(answer, "event.search.query", allowed, &length.to_string());
    }
    for (count, allowed) in [(256, true), (257, false)] {
        let clicks = vec!["i1"; count];
        let answer = append(&mut client, &mut number, |event| event.payload = Some(search("s", "q", &clicks))).await;
        judge(answer, "event.search.clicked_item_ids", allowed, &count.to_string());
    }
    let without_query = |event: &mut v1::Event| {
        event.payload = Some(Payload::Search(v1::Search { query_form: None, ..a_search() }));
    };
    judge(append(&mut client, &mut number, without_query).await, "event.search.query", false, "none");
    judge(append(&mut client, &mut number, |event| event.payload = None).await, "event.payload", false, "none");
    judge(append(&mut client, &mut number, |event| event.time = None).await, "event.time", false, "none");
    let day = 86_400;
    for (seconds, nanos, allowed) in [
        (time(0).seconds, 0, true),
        (time(0).seconds, 999_999_999, true),
        (time(0).seconds, 1_000_000_000, false),
        (time(0).seconds, -1, false),
        (time(0).seconds, i32::MIN, false),
        (0, 0, true),
        (-1, 0, false),
        (i64::MIN, 0, false),
        (i64::MAX, 999_999_999, false),
        (time(0).seconds + 4 * day, 0, false),
    ] {
        let answer =
            append(&mut client, &mut number, |event| event.time = Some(pbjson_types::Timestamp { seconds, nanos }))
                .await;
        judge(answer, "event.time", allowed, &format!("{seconds} s, {nanos} ns"));
    }
}

#[tokio::test]
async fn fields_of_the_other_methods() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (text, allowed) in ids() {
        let get = v1::GetHistoryRequest { user_id: text.clone(), ..Default::default() };
        judge(client.get_history(get).await.map(drop), "user_id", allowed, &short(&text));
        let delete = v1::DeleteHistoryRequest { user_id: text.clone() };
        judge(client.delete_history(delete).await.map(drop), "user_id", allowed, &short(&text));
    }
    for (token, allowed) in [("h1-0", true), ("h1-x", false), ("x", false)] {
        let get = v1::GetHistoryRequest { user_id: "u".into(), history_token: token.into() };
        judge(client.get_history(get).await.map(drop), "history_token", allowed, token);
    }
}
