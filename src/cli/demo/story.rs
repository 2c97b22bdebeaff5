//! Drives the demo's own server as a real client: history in, rank, searches in, rank again, and why.

use std::collections::HashMap;

use anyhow::Context;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use super::{
    cast::{Cast, TOPIC},
    stages::section,
};
use crate::{
    data::Dataset,
    domain::EventTime,
    proto::{
        timestamp_of_millis,
        v1::{
            AppendEventRequest, Event, EventExplanation, GetHistoryRequest, Outcome, RankRequest, RankResponse,
            Recommendation, Search, event, event_explanation, ranking_service_client::RankingServiceClient, search,
        },
    },
};

type Client = RankingServiceClient<Channel>;

/// Tells it once.
pub(super) async fn tell(client: &mut Client, data: &Dataset, cast: &Cast) -> anyhow::Result<()> {
    section("6. Stream in the user's own log (AppendEvents)");
    report(&append(client, log_of(data, cast)).await?);

    section("7. Rank");
    let before = rank(client, cast, String::new()).await?;
    println!("user {}, {} candidates, model {}", cast.user, cast.candidates.len(), before.model_version);
    print_timings(&before);

    section("8. The user searches for something new, and clicks");
    let searches = new_searches(cast);
    for (query, _, clicked) in &cast.searches {
        println!("  searched {query:?}, clicked item {clicked} (topic {}, never touched before)", cast.new_topic);
    }
    let token = report(&append(client, searches).await?);

    section("9. Rank again, with the token of the last acknowledgement: read your writes");
    let after = rank(client, cast, token).await?;
    print_moves(data, cast, &before, &after);
    print_timings(&after);
    print_reasons(&after);
    Ok(())
}

/// The first suitable user that the store knows nothing of: each run tells the story of another one.
pub(super) async fn new_user(client: &mut Client, data: &Dataset) -> anyhow::Result<u32> {
    for row in Cast::users(data) {
        let user_id = data.catalogue.users.id(row).unwrap_or_default().to_owned();
        let known = client.get_history(GetHistoryRequest { user_id, ..Default::default() }).await?.into_inner();
        if known.stored_recommendations == 0 && known.stored_searches == 0 {
            return Ok(row);
        }
    }
    anyhow::bail!(
        "the store has a history of every user worth showing: delete the demo's directory, or enlarge --users"
    )
}

/// Sends events and collects the acknowledgements, which come in the same order.
async fn append(client: &mut Client, events: Vec<Event>) -> anyhow::Result<Vec<(Outcome, String)>> {
    let requests = tokio_stream::iter(events.into_iter().map(|event| AppendEventRequest { event: Some(event) }));
    let mut answers = client.append_events(requests).await.context("AppendEvents")?.into_inner();
    let mut acknowledged = vec![];
    while let Some(answer) = answers.next().await {
        let answer = answer.context("AppendEvents")?;
        acknowledged.push((answer.outcome(), answer.history_token));
    }
    Ok(acknowledged)
}

/// Prints what became of the events; returns the newest token.
fn report(acknowledged: &[(Outcome, String)]) -> String {
    let mut outcomes: HashMap<&str, usize> = HashMap::new();
    for (outcome, _) in acknowledged {
        *outcomes.entry(outcome.as_str_name()).or_default() += 1;
    }
    println!("  acknowledged, durable: {outcomes:?}");
    acknowledged.last().map(|(_, token)| token.clone()).unwrap_or_default()
}

async fn rank(client: &mut Client, cast: &Cast, history_token: String) -> anyhow::Result<RankResponse> {
    let request = RankRequest {
        user_id: cast.user.clone(),
        candidate_item_ids: cast.candidates.clone(),
        history_token,
        explain: true,
        ..RankRequest::default()
    };
    Ok(client.rank(request).await.context("Rank")?.into_inner())
}

/// The user's events of the data set, as a log would hold them.
fn log_of(data: &Dataset, cast: &Cast) -> Vec<Event> {
    let catalogue = &data.catalogue;
    let name = |id: Option<&str>| id.unwrap_or_default().to_owned();
    let item = |row: u32| name(catalogue.items.id(row));
    let event = |event_id: String, millis: i64, payload: event::Payload| Event {
        event_id,
        user_id: cast.user.clone(),
        time: Some(timestamp_of_millis(millis)),
        payload: Some(payload),
    };
    let recommendations = data.recommendations(cast.user_row).iter().zip(data.recommendation_times(cast.user_row));
    let recommendations = recommendations.enumerate().map(|(n, (&row, &millis))| {
        event(format!("rec-{n}"), millis, event::Payload::Recommendation(Recommendation { item_id: item(row) }))
    });
    let searches = data.searches(cast.user_row).into_iter().zip(data.search_times(cast.user_row));
    let searches = searches.enumerate().map(|(n, (search, &millis))| {
        let payload = Search {
            search_id: format!("session-{n}"),
            source: name(catalogue.sources.id(search.source)),
            clicked_item_ids: search.clicks.iter().map(|&row| item(row)).collect(),
            query_form: Some(search::QueryForm::Query(name(catalogue.queries.id(search.query)))),
        };
        event(format!("search-{n}"), millis, event::Payload::Search(payload))
    });
    recommendations.chain(searches).collect()
}

fn new_searches(cast: &Cast) -> Vec<Event> {
    let now = (EventTime::now().nanos() / 1_000_000) as i64;
    let searches = cast.searches.iter().enumerate();
    let event = |(n, (query, source, clicked)): (usize, &(String, String, String))| Event {
        event_id: format!("demo-{now}-{n}"),
        user_id: cast.user.clone(),
        time: Some(timestamp_of_millis(now + n as i64)),
        payload: Some(event::Payload::Search(Search {
            search_id: format!("demo-{now}-{n}"),
            source: source.clone(),
            clicked_item_ids: vec![clicked.clone()],
            query_form: Some(search::QueryForm::Query(query.clone())),
        })),
    };
    searches.map(event).collect()
}

fn print_moves(data: &Dataset, cast: &Cast, before: &RankResponse, after: &RankResponse) {
    let old: HashMap<&str, (usize, f32)> =
        before.items.iter().enumerate().map(|(place, item)| (&*item.item_id, (place + 1, item.score))).collect();
    let topics = data.catalogue.items.attribute(TOPIC).map(|attribute| &attribute.values);
    let moves = after.items.iter().zip(1..).map(|(item, place)| {
        let (was, before) = old[&*item.item_id];
        let row = data.catalogue.items.row(&item.item_id);
        let topic = topics.zip(row).map_or(0, |(topics, row)| topics[row as usize]);
        Move { item: &item.item_id, topic, is_new: topic == cast.new_topic, place, was, score: item.score, before }
    });
    print!("{}", moves_table(&moves.collect::<Vec<_>>()));
    let mean = |answer: &RankResponse| {
        let is_new = |id: &str| {
            let row = data.catalogue.items.row(id);
            topics.zip(row).is_some_and(|(topics, row)| topics[row as usize] == cast.new_topic)
        };
        let items: Vec<(usize, f32)> = answer
            .items
            .iter()
            .enumerate()
            .filter(|(_, item)| is_new(&item.item_id))
            .map(|(place, item)| (place + 1, item.score))
            .collect();
        let count = items.len().max(1) as f32;
        let (place, score) = items.iter().fold((0.0, 0.0), |sum, item| (sum.0 + item.0 as f32, sum.1 + item.1));
        (place / count, score / count)
    };
    let ((place_before, score_before), (place_after, score_after)) = (mean(before), mean(after));
    println!(
        "  items of the searched topic, on average: place {place_before:.1} → {place_after:.1}, score {score_before:.3} → {score_after:.3}"
    );
}

/// What has become of a candidate.
struct Move<'a> {
    item: &'a str,
    topic: u32,
    /// Whether the topic is the one that was searched.
    is_new: bool,
    place: usize,
    was: usize,
    score: f32,
    before: f32,
}

/// A line each, with room for the longest id.
fn moves_table(moves: &[Move<'_>]) -> String {
    let width = moves.iter().map(|one| one.item.chars().count()).max().unwrap_or(0).max(8);
    let mut table = format!("  place  was   {:<width$} topic       {:<6}  change\n", "item", "score");
    for Move { item, topic, is_new, place, was, score, before } in moves {
        let new = if *is_new { "new" } else { "   " };
        let arrow = match place.cmp(was) {
            std::cmp::Ordering::Less => "▲",
            std::cmp::Ordering::Equal => " ",
            std::cmp::Ordering::Greater => "▼",
        };
        let change = score - before;
        table +=
            &format!("  {place:>4} {arrow} {was:>3}   {item:<width$} {topic:>5} {new}   {score:.4}  {change:+.4}\n");
    }
    table
}

/// The events that weigh most on each side, and whether they count as similar or dissimilar interests.
fn print_reasons(answer: &RankResponse) {
    let (Some(events), Some(best)) = (&answer.explanation, answer.items.first()) else { return };
    let attention = best.explanation.as_ref();
    println!(
        "\n  Why: the user's events by co-attention weight (similar = an interest that search and recommendation share),"
    );
    println!("  and the attention each gives to item {}, ranked first:", best.item_id);
    let sides = [
        ("recommendation", &events.recommendations, attention.and_then(|item| item.recommendations.as_ref())),
        ("search", &events.searches, attention.and_then(|item| item.searches.as_ref())),
    ];
    for (side, events, attention) in sides {
        let mut weighed: Vec<(usize, &EventExplanation)> = events.iter().enumerate().collect();
        weighed.sort_by(|(_, a), (_, b)| b.coattention.total_cmp(&a.coattention));
        for (n, event) in weighed.into_iter().take(6) {
            let interest = match (event.similar, event.dissimilar) {
                (true, false) => "similar",
                (false, true) => "dissimilar",
                _ => "both",
            };
            let attention = attention.and_then(|pooling| pooling.all.get(n)).copied().unwrap_or_default();
            println!(
                "  {side:<15} {:<32} weight {:.3}  {interest:<10}  attention {attention:.3}",
                describe(event),
                event.coattention
            );
        }
    }
}

fn describe(event: &EventExplanation) -> String {
    match &event.payload {
        Some(event_explanation::Payload::Recommendation(recommendation)) => format!("item {}", recommendation.item_id),
        Some(event_explanation::Payload::Search(search)) => {
            let query = match &search.query_form {
                Some(search::QueryForm::Query(text)) => text.as_str(),
                Some(search::QueryForm::QueryId(id)) => id.as_str(),
                None => "",
            };
            format!("{query:?} → {}", search.clicked_item_ids.join(", "))
        }
        None => String::new(),
    }
}

fn print_timings(answer: &RankResponse) {
    if let Some(timings) = &answer.timings {
        println!(
            "  {} µs in the server: queue {}, history {}, encode {}, score {}, other {}",
            timings.total_us,
            timings.queue_us,
            timings.history_us,
            timings.encode_us,
            timings.score_us,
            timings.other_us
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_however_long_ids_are() {
        let moved = |item, is_new, place, was| Move { item, topic: 7, is_new, place, was, score: 0.5, before: 0.25 };
        let table = moves_table(&[moved("i1", true, 1, 12), moved("an item with a long name", false, 2, 2)]);
        // Of letters, not of bytes: arrows have several.
        let column = |line: &str, text: &str| line.split_once(text).map(|(before, _)| before.chars().count());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(column(lines[0], "score"), column(lines[1], "0.5000"), "{table}");
        assert_eq!(column(lines[1], "0.5000"), column(lines[2], "0.5000"), "{table}");
        assert_eq!(column(lines[0], "item"), column(lines[2], "an item"), "{table}");
        assert_eq!(column(lines[0], "change"), column(lines[1], "+0.2500"), "{table}");
        assert!(lines[1].contains("▲") && !lines[2].contains("▲"), "{table}");
    }
}
