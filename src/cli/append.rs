//! `sesrec append`: one event, from flags or as JSON.

use anyhow::{Context, bail};
use pbjson_types::Timestamp;

use super::client::{ServerArgs, TOO_OLD, describe, random_id};
use crate::{
    domain::EventTime,
    proto::v1::{self, Outcome, event::Payload, search::QueryForm},
};

/// Options of `sesrec append`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sesrec append --user u42 --item item7                      an interaction with a recommended item
  sesrec append --user u42 --query 'red shoes' --clicked i1  a search, with a click
  sesrec append --user u42 --click-of s1 --item i2           a later click on a result of search s1")]
pub struct Args {
    /// Whose history.
    #[arg(long, value_name = "USER", required_unless_present = "json")]
    user: Option<String>,
    /// The recommended item, or with --click-of the clicked result.
    #[arg(long, value_name = "ITEM", conflicts_with_all = ["query", "query_id"])]
    item: Option<String>,
    /// A search by text.
    #[arg(long, value_name = "TEXT", group = "asked")]
    query: Option<String>,
    /// A search by a query of the catalogue.
    #[arg(long, value_name = "ID", group = "asked")]
    query_id: Option<String>,
    /// Ties later clicks to this search. Default: the --event-id, or else made up.
    #[arg(long, value_name = "ID", requires = "asked")]
    search_id: Option<String>,
    /// How the search began.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "SOURCE", requires = "asked")]
    source: String,
    /// Items clicked in this search.
    #[arg(long, value_name = "ITEM", value_delimiter = ',', requires = "asked")]
    clicked: Vec<String>,
    /// The search whose result was clicked.
    #[arg(long, value_name = "SEARCH", requires = "item")]
    click_of: Option<String>,
    /// Makes a repetition harmless: the event is stored once. Takes --time, because a repetition at another time (the
    /// default is now) would be another event of the same id, which is refused. Made up where it is missing.
    #[arg(long, value_name = "ID", requires = "time")]
    event_id: Option<String>,
    /// When it happened, as in 2026-01-31T12:00:00Z. Default: now.
    #[arg(long, value_name = "TIME")]
    time: Option<jiff::Timestamp>,
    /// The whole event as proto3 JSON instead.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["user", "item", "query", "query_id", "click_of"])]
    json: Option<String>,
    #[command(flatten, next_help_heading = "Server")]
    server: ServerArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let event = args.event()?;
    let search_id = match &event.payload {
        Some(Payload::Search(search)) => Some(search.search_id.clone()),
        _ => None,
    };
    let mut client = args.server.connect().await?;
    let request = args.server.request(v1::AppendEventRequest { event: Some(event) });
    let response = client.append_event(request).await.map_err(|status| describe(&status))?.into_inner();
    println!("{} {}", response.outcome().as_str_name(), response.event_id);
    if let Some(hint) = hint(response.outcome()) {
        eprintln!("{hint}");
    }
    if let Some(search_id) = search_id {
        println!("search id     {search_id}");
    }
    println!("history token {}", response.history_token);
    Ok(())
}

/// What to do, where the event is not stored.
fn hint(outcome: Outcome) -> Option<String> {
    (outcome == Outcome::TooOld).then(|| format!("hint: the event is not stored. {TOO_OLD}"))
}

impl Args {
    fn event(&self) -> anyhow::Result<v1::Event> {
        if let Some(json) = &self.json {
            return serde_json::from_str(json).context("--json: not a proto3 JSON sesrec.v1.Event");
        }
        let query = self.query.clone().map(QueryForm::Query);
        let query_form = query.or_else(|| self.query_id.clone().map(QueryForm::QueryId));
        let payload = match (&self.click_of, &self.item, query_form) {
            (Some(search_id), Some(item_id), None) => {
                Payload::SearchClick(v1::SearchClick { search_id: search_id.clone(), item_id: item_id.clone() })
            }
            (None, Some(item_id), None) => Payload::Recommendation(v1::Recommendation { item_id: item_id.clone() }),
            (None, None, Some(form)) => Payload::Search(v1::Search {
                // A repetition has to be the same in all parts.
                search_id: self
                    .search_id
                    .clone()
                    .or_else(|| self.event_id.clone())
                    .unwrap_or_else(|| random_id("search")),
                query_form: Some(form),
                source: self.source.clone(),
                clicked_item_ids: self.clicked.clone(),
            }),
            _ => bail!("what happened? give one of --item, --query, --query-id, or --click-of with --item, or --json"),
        };
        let time = match self.time {
            Some(time) => Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() },
            None => EventTime::now().into(),
        };
        Ok(v1::Event {
            event_id: self.event_id.clone().unwrap_or_else(|| random_id("event")),
            user_id: self.user.clone().unwrap_or_default(),
            time: Some(time),
            payload: Some(payload),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from([&["append", "--user", "u"][..], words].concat()).map(|line| line.args)
    }

    #[test]
    fn an_event_with_an_id_and_a_time_is_the_same_when_it_is_repeated() {
        for what in [["--item", "i1"], ["--query", "red shoes"]] {
            let error = parse(&[&what[..], &["--event-id", "e1"]].concat()).unwrap_err().to_string();
            assert!(error.contains("--time <TIME>"), "{error}");
            let words = [&what[..], &["--event-id", "e1", "--time", "2026-01-31T12:00:00Z"]].concat();
            assert_eq!(parse(&words).unwrap().event().unwrap(), parse(&words).unwrap().event().unwrap());
        }
        let event = |words: &[&str]| parse(words).unwrap().event().unwrap();
        assert_ne!(event(&["--item", "i1"]).event_id, event(&["--item", "i1"]).event_id);
    }

    #[test]
    fn only_an_event_that_is_too_old_is_worth_a_hint() {
        assert!(hint(Outcome::TooOld).is_some_and(|hint| hint.contains("serve --time-to-live 0s")));
        assert!([Outcome::Applied, Outcome::Duplicate].into_iter().all(|outcome| hint(outcome).is_none()));
    }
}
