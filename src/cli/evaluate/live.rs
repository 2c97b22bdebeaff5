//! `sesrec evaluate --rank-log`: the metrics of live traffic.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use serde::de::DeserializeOwned;

use crate::{
    cli::ndjson::fault,
    data::without_mark,
    domain::EventTime,
    eval::{LiveJoin, LiveReport, MetricsRow, metrics_table},
    proto::v1::{self, event::Payload},
    units::parse_duration,
};

/// Options about live traffic.
#[derive(Debug, clap::Args)]
pub struct LiveFlags {
    /// Instead of a model on a data set: live traffic, from files that `sesrec serve --rank-log` wrote.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "events", conflicts_with_all = ["model", "data", "popularity", "via_server"])]
    rank_log: Vec<PathBuf>,
    /// The events that came later as NDJSON, as `sesrec ingest` reads them.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "rank_log")]
    events: Vec<PathBuf>,
    /// How long after an answer an interaction counts as its success.
    #[arg(long, default_value = "30m", value_parser = parse_duration, value_name = "DURATION")]
    within: Duration,
}

impl LiveFlags {
    /// Whether it is live traffic that is measured.
    pub(super) fn wanted(&self) -> bool {
        !self.rank_log.is_empty()
    }
}

/// Joins, prints, and writes the report where wanted.
pub(super) fn evaluate(flags: &LiveFlags, json: Option<&Path>) -> anyhow::Result<()> {
    let mut join = LiveJoin::new(flags.within);
    for path in &flags.rank_log {
        lines(path, "line of a rank log", |line| join.answer(line).context("time"))?;
    }
    join.sort();
    for path in &flags.events {
        lines(path, "proto3 JSON sesrec.v1.Event", |event: v1::Event| {
            let Some(Payload::Recommendation(recommendation)) = event.payload else { return Ok(()) };
            let time = event.time.context("time: is missing")?;
            let nanos = u64::try_from(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos));
            let Some(at) = nanos.ok().and_then(|nanos| EventTime::from_nanos(nanos).ok()) else {
                bail!("time: must lie between 1970-01-01 and 2262-04-11");
            };
            join.event(&event.user_id, &recommendation.item_id, at);
            Ok(())
        })?;
    }
    let report = join.report();
    print(&report);
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn print(report: &LiveReport) {
    let rows = report.models.iter().map(|(model, live)| MetricsRow { name: model.clone(), metrics: live.metrics });
    let rows: Vec<_> = rows.collect();
    print!("{}", metrics_table(&rows).replacen("  users\n", " clicks\n", 1));
    for (model, live) in &report.models {
        let share = 100.0 * live.clicked_answers as f64 / live.answers.max(1) as f64;
        println!("{model}: {} of {} logged answers were clicked ({share:.2} %)", live.clicked_answers, live.answers);
    }
    println!("{} of {} interactions belong to no logged answer", report.unattributed, report.events);
}

/// Hands each line of a file to `take`; errors name file and line.
fn lines<T: DeserializeOwned>(
    path: &Path,
    what: &str,
    mut take: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let reader = BufReader::new(File::open(path).with_context(|| path.display().to_string())?);
    for (number, line) in (1..).zip(reader.lines()) {
        let at = || format!("{}, line {number}", path.display());
        let line = line.with_context(at)?;
        let line = if number == 1 { without_mark(&line) } else { &line };
        if !line.trim().is_empty() {
            let value = serde_json::from_str(line);
            let value = value.map_err(|error| anyhow!("{}: not a {what}: {}", at(), fault(&error)))?;
            take(value).with_context(at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_behind_a_byte_order_mark_and_a_wrong_one_is_named_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.ndjson");
        std::fs::write(&path, "\u{feff}{\"eventId\":\"e1\"}\r\n\r\n{\"eventId\":7}\r\n").unwrap();
        let mut ids = vec![];
        let take = |event: v1::Event| {
            ids.push(event.event_id);
            Ok(())
        };
        let error = format!("{:#}", lines(&path, "sesrec.v1.Event", take).unwrap_err());
        assert_eq!(ids, ["e1"]);
        assert!(error.contains("events.ndjson, line 3: not a sesrec.v1.Event: "), "{error}");
        assert!(error.contains(" at column ") && !error.contains("line 1"), "{error}");
    }
}
