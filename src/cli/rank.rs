//! `sesrec rank`: candidates in, an ordered and explained table out.

use std::{fmt::Write, io::Read, path::PathBuf};

use anyhow::{Context, bail};

use super::client::{ServerArgs, describe};
use crate::{data::without_mark, proto::v1};

/// Options of `sesrec rank`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sesrec rank u42 item1 item2 item3 --explain
  cut -f1 items.tsv | sesrec rank u42 --candidates - --top-k 10 --json")]
pub struct Args {
    /// Whom to rank for.
    #[arg(value_name = "USER")]
    user: String,
    /// What to rank.
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
    /// More items, one per line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    candidates: Option<PathBuf>,
    /// How many items to return; 0 returns all.
    #[arg(long, default_value_t = 0, value_name = "N")]
    top_k: u32,
    /// Show which events of the history counted, and for which item.
    #[arg(long)]
    explain: bool,
    /// The whole answer as proto3 JSON.
    #[arg(long)]
    json: bool,
    /// Reflect at least this state of the history: what an append or an earlier rank returned.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TOKEN")]
    history_token: String,
    /// Rank by this history instead of the stored one: a proto3 JSON `History`.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Refuse unless this model version is live.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "VERSION")]
    model_version: String,
    #[command(flatten, next_help_heading = "Server")]
    server: ServerArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let request = args.request()?;
    let mut client = args.server.connect().await?;
    let response = client.rank(args.server.request(request)).await.map_err(|status| describe(&status))?.into_inner();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&response)?);
    } else {
        print!("{}", table(&response));
    }
    Ok(())
}

impl Args {
    fn request(&self) -> anyhow::Result<v1::RankRequest> {
        let mut candidate_item_ids = self.items.clone();
        if let Some(path) = &self.candidates {
            let lines = read(path)?;
            candidate_item_ids.extend(lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        if candidate_item_ids.is_empty() {
            bail!("nothing to rank: name items, or a file of them with --candidates FILE (- is standard input)");
        }
        let history = match &self.history {
            Some(path) => Some(
                serde_json::from_str(&read(path)?)
                    .with_context(|| format!("{}: not a proto3 JSON sesrec.v1.History", path.display()))?,
            ),
            None => None,
        };
        Ok(v1::RankRequest {
            user_id: self.user.clone(),
            candidate_item_ids,
            top_k: self.top_k,
            history_token: self.history_token.clone(),
            history,
            explain: self.explain,
            model_version: self.model_version.clone(),
        })
    }
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    }
    Ok(without_mark(&text).to_owned())
}

/// An answer for people.
pub(super) fn table(response: &v1::RankResponse) -> String {
    let mut out = String::new();
    let explanation = response.explanation.as_ref();
    if let Some(explanation) = explanation {
        history_table(&mut out, explanation);
    }
    let width = response.items.iter().map(|item| item.item_id.chars().count()).max().unwrap_or(4).max(4);
    let _ = writeln!(out, "{:>5}  {:>8}  {:<width$}", "place", "score", "item");
    for (n, item) in response.items.iter().enumerate() {
        let why = match (explanation, &item.explanation) {
            (Some(history), Some(item)) => strongest(history, item),
            _ => String::new(),
        };
        let line = format!("{:>5}  {:>8.5}  {:<width$}  {why}", n + 1, item.score, item.item_id);
        let _ = writeln!(out, "{}", line.trim_end());
    }
    if !response.unknown_item_ids.is_empty() {
        let _ = writeln!(out, "not in the catalogue: {}", response.unknown_item_ids.join(", "));
    }
    if response.cold_start {
        // There may be a history: a model that reads none sees none.
        let _ = writeln!(out, "the model saw no event of this user: ranked from user and item features alone");
    }
    if response.stale_history {
        let _ = writeln!(out, "the history store could not be reached: ranked by an older copy of the history");
    }
    if let Some(t) = &response.timings {
        let ms = |us: u64| us as f64 / 1000.0;
        let _ = writeln!(
            out,
            "{:.2} ms: queue {:.2}, history {:.2}, encode {:.2}, score {:.2}, other {:.2} · model {}",
            ms(t.total_us),
            ms(t.queue_us),
            ms(t.history_us),
            ms(t.encode_us),
            ms(t.score_us),
            ms(t.other_us),
            response.model_version
        );
    }
    if !response.history_token.is_empty() {
        let _ = writeln!(out, "history token {}", response.history_token);
    }
    out
}

fn history_table(out: &mut String, history: &v1::HistoryExplanation) {
    let events = events(history);
    if events.is_empty() {
        return;
    }
    let _ = writeln!(out, "{:<10}  {:>6}  event, oldest first", "interest", "weight");
    for event in events {
        let interest = match (event.similar, event.dissimilar) {
            // Where a set would be empty, it falls back to all events.
            (true, true) => "both",
            (true, false) => "similar",
            (false, true) => "dissimilar",
            (false, false) => "",
        };
        let _ = writeln!(out, "{interest:<10}  {:>6.3}  {}", event.coattention, describe_event(event));
    }
    out.push('\n');
}

fn events(history: &v1::HistoryExplanation) -> Vec<&v1::EventExplanation> {
    history.recommendations.iter().chain(&history.searches).collect()
}

fn describe_event(event: &v1::EventExplanation) -> String {
    use v1::event_explanation::Payload;
    match &event.payload {
        Some(Payload::Recommendation(recommendation)) => format!("item {}", recommendation.item_id),
        Some(Payload::Search(search)) => describe_search(search),
        None => String::new(),
    }
}

/// `search "red shoes" → 17, 4`.
pub(super) fn describe_search(search: &v1::Search) -> String {
    let query = match &search.query_form {
        Some(v1::search::QueryForm::Query(text)) => format!("{text:?}"),
        Some(v1::search::QueryForm::QueryId(id)) => format!("query {id}"),
        None => "\"\"".into(),
    };
    let clicks = match search.clicked_item_ids.as_slice() {
        [] => String::new(),
        clicks => format!(" → {}", clicks.join(", ")),
    };
    format!("search {query}{clicks}")
}

/// The events that an item looks at most, by the softmax over all events of their side.
fn strongest(history: &v1::HistoryExplanation, item: &v1::ItemExplanation) -> String {
    const SHOWN: usize = 3;
    let attention = [&item.recommendations, &item.searches].into_iter().flatten().flat_map(|side| side.all.iter());
    let mut by_attention: Vec<_> = attention.zip(events(history)).collect();
    by_attention.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let shown = by_attention.iter().take(SHOWN);
    shown
        .map(|(share, event)| format!("{} {:.0} %", describe_event(event), **share * 100.0))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("items.txt");
        std::fs::write(&path, "\u{feff}i1\r\ni2\r\n").unwrap();
        assert_eq!(read(&path).unwrap(), "i1\r\ni2\r\n");
    }

    #[test]
    fn a_cold_start_is_what_the_model_saw() {
        let said = |cold_start| table(&v1::RankResponse { cold_start, ..Default::default() });
        assert!(said(true).contains("the model saw no event of this user"), "{}", said(true));
        assert!(!said(false).contains("no event"), "{}", said(false));
    }
}
