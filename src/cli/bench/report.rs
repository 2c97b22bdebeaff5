//! What was measured, as a table and as JSON.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::load::Measured;
use crate::{cli::shell::quoted, proto::v1::GetModelInfoResponse, secrets::without_passwords};

/// All runs of one command.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    date: String,
    command: String,
    model: Option<Model>,
    runs: Vec<Run>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    costs: Vec<Costs>,
}

/// What replicas that share a Redis spend; processor time in microseconds, of all servers and of Redis.
#[derive(Debug, Serialize)]
pub(super) struct Costs {
    pub(super) replicas: usize,
    /// At most, within the bound on latency.
    pub(super) ranks_per_second: f64,
    pub(super) events_per_second: f64,
    /// For a Rank.
    pub(super) rank: (f64, f64),
    /// For an event.
    pub(super) event: (f64, f64),
    /// Of a replica, on average.
    pub(super) resident_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    version: String,
    architecture: String,
    device: String,
    items: u64,
}

/// One run.
#[derive(Debug, Serialize)]
struct Run {
    name: String,
    /// Per second; `None` for closed loops.
    rate: Option<f64>,
    /// Answers with code OK per second.
    achieved: f64,
    seconds: f64,
    answered: u64,
    errors: BTreeMap<String, u64>,
    not_sent: u64,
    latency_us: Latency,
    /// Means per answer, as the server tells.
    stages_us: BTreeMap<&'static str, f64>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
    mean: f64,
}

impl Report {
    pub(super) fn new(info: Option<&GetModelInfoResponse>) -> Self {
        let model = info.map(|info| Model {
            name: info.name.clone(),
            version: info.version.clone(),
            architecture: info.model.clone(),
            device: info.device.clone(),
            items: info.items,
        });
        if let Some(model) = &model {
            println!(
                "model {} ({}) on {}, {} items, version {:.12}",
                model.name, model.architecture, model.device, model.items, model.version
            );
        }
        Self {
            date: jiff::Timestamp::now().to_string(),
            command: command_line(std::env::args().skip(1)),
            model,
            runs: vec![],
            costs: vec![],
        }
    }

    /// Adds a run of an open loop and prints its line.
    pub(super) fn rank(&mut self, name: &str, measured: &Measured) {
        let answered = measured.latency.len().max(1) as f64;
        let stages = &measured.stages;
        let latency = Latency::of(&measured.latency);
        let mean = |sum: u64| sum as f64 / answered;
        let stages_us = BTreeMap::from([
            ("queue", mean(stages.queue_us)),
            ("history", mean(stages.history_us)),
            ("encode", mean(stages.encode_us)),
            ("score", mean(stages.score_us)),
            ("other", mean(stages.other_us)),
            ("total", mean(stages.total_us)),
        ]);
        self.add(Run {
            name: name.into(),
            rate: Some(measured.rate),
            achieved: measured.achieved(),
            seconds: measured.duration.as_secs_f64(),
            answered: measured.latency.len(),
            errors: measured.errors.clone(),
            not_sent: measured.not_sent,
            latency_us: latency,
            stages_us,
        });
    }

    /// Adds a run of a closed loop and prints its line.
    pub(super) fn closed(
        &mut self,
        name: &str,
        latency: &Histogram<u64>,
        errors: BTreeMap<String, u64>,
        duration: Duration,
    ) {
        self.add(Run {
            name: name.into(),
            rate: None,
            achieved: latency.len() as f64 / duration.as_secs_f64(),
            seconds: duration.as_secs_f64(),
            answered: latency.len(),
            errors,
            not_sent: 0,
            latency_us: Latency::of(latency),
            stages_us: BTreeMap::new(),
        });
    }

    /// Adds what a number of replicas spent.
    pub(super) fn costs(&mut self, costs: Costs) {
        self.costs.push(costs);
    }

    /// Prints the table of costs, where there are any, and writes the JSON file, if one was asked for.
    pub(super) fn finish(self, json: Option<&Path>) -> anyhow::Result<()> {
        if !self.costs.is_empty() {
            println!(
                "\n| replicas | Ranks/s | µs of a core per Rank: servers, Redis | events/s | µs of a core per event: servers, \
                 Redis | MB per replica |"
            );
            println!("|---|---|---|---|---|---|");
            self.costs.iter().for_each(|costs| println!("{}", costs.row()));
        }
        let Some(path) = json else { return Ok(()) };
        let text = serde_json::to_string_pretty(&self).context("the report as JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("--json {}", path.display()))?;
        println!("written: {}", path.display());
        Ok(())
    }

    fn add(&mut self, run: Run) {
        if self.runs.is_empty() {
            println!(
                "{:<44} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  server: queue/history/encode/score/other",
                "", "rate/s", "done/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"
            );
        }
        println!("{}", run.line());
        self.runs.push(run);
    }
}

/// This process's command line as a shell reads it, without what must not be in a report: tokens, and passwords in
/// URLs.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let mut line = "sesrec".to_owned();
    let mut secret = false;
    for word in words {
        let said = match word.split_once('=') {
            _ if std::mem::take(&mut secret) => without_secret(&word),
            Some(("--token", value)) => format!("--token={}", without_secret(value)),
            _ => without_passwords(&word),
        };
        secret = word == "--token";
        line = line + " " + &quoted(&said);
    }
    line
}

/// A token's value; the name of a file that has it is none.
fn without_secret(value: &str) -> String {
    if value.starts_with('@') { value.to_owned() } else { "***".into() }
}

impl Costs {
    fn row(&self) -> String {
        let pair = |(servers, redis): (f64, f64)| format!("{servers:.0}, {redis:.0}");
        let resident = self.resident_bytes.map_or("-".into(), |bytes| (bytes / 1_000_000).to_string());
        format!(
            "| {} | {:.0} | {} | {:.0} | {} | {resident} |",
            self.replicas,
            self.ranks_per_second,
            pair(self.rank),
            self.events_per_second,
            pair(self.event)
        )
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
            mean: if histogram.is_empty() { 0.0 } else { histogram.mean() },
        }
    }
}

impl Run {
    fn line(&self) -> String {
        let ms = |us: u64| format!("{:.2}", us as f64 / 1e3);
        let rate = self.rate.map_or("-".into(), |rate| format!("{rate:.1}"));
        let latency = &self.latency_us;
        let mut line = format!(
            "{:<44} {:>9} {:>9.1} {:>9} {:>9} {:>9} {:>9} {:>9}",
            self.name,
            rate,
            self.achieved,
            ms(latency.p50),
            ms(latency.p90),
            ms(latency.p99),
            ms(latency.p999),
            ms(latency.max)
        );
        if let Some(total) = self.stages_us.get("total").filter(|&&total| total > 0.0) {
            let share = |stage| format!("{:.0}%", 100.0 * self.stages_us[stage] / total);
            let shares = ["queue", "history", "encode", "score", "other"].map(share).join("/");
            line += &format!("  {:.2} ms: {shares}", total / 1e3);
        }
        for (code, count) in &self.errors {
            line += &format!("  {code}: {count}");
        }
        if self.not_sent > 0 {
            line += &format!("  not sent: {}", self.not_sent);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_no_secrets() {
        let line = |words: &[&str]| command_line(words.iter().map(|word| (*word).to_owned()));
        let server = ["bench", "rank", "--server", "https://host:1", "--rate", "5"];
        assert_eq!(line(&server), "sesrec bench rank --server https://host:1 --rate 5");
        assert_eq!(line(&["bench", "--token", "pass", "rank"]), "sesrec bench --token '***' rank");
        assert_eq!(line(&["bench", "--token=pass"]), "sesrec bench '--token=***'");
        assert_eq!(line(&["bench", "--token", "@file", "--token=@file"]), "sesrec bench --token @file --token=@file");
        let redis = ["--redis=redis://user:p@ss@host:6379/1", "--redis", "redis://:pass@host"];
        assert_eq!(line(&redis), "sesrec '--redis=redis://***@host:6379/1' --redis 'redis://***@host'");
    }

    #[test]
    fn a_command_can_be_pasted() {
        let words = ["bench", "rank", "--items", "my items", "--json", "it's.json"];
        let line = command_line(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(line, r"sesrec bench rank --items 'my items' --json 'it'\''s.json'");
    }
}
