//! How well the live service ranks: the rank log joined with the events that came later.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{Metrics, Rank};
use crate::{
    data::Vocabulary,
    domain::{EventTime, TimeError},
    telemetry::rank_log::RankLogLine,
};

/// Logged answers by user, waiting for events.
#[derive(Debug)]
pub struct LiveJoin {
    window: Duration,
    shown: HashMap<String, Vec<Shown>>,
    /// Of items and of model versions, which are numbers from here on: an answer may have a thousand items.
    items: Vocabulary,
    models: Vocabulary,
    events: u64,
    unattributed: u64,
}

#[derive(Debug)]
struct Shown {
    at: EventTime,
    model: u32,
    items: Box<[u32]>,
    /// Places that were clicked.
    clicked: Vec<u32>,
}

/// What a model version did.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct LiveMetrics {
    /// Means over the attributed clicks: a click's rank is its item's place in the answer.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Logged answers.
    pub answers: u64,
    /// Those with at least one click.
    pub clicked_answers: u64,
}

/// The result of a join.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LiveReport {
    /// By model version.
    pub models: BTreeMap<String, LiveMetrics>,
    /// Interactions with recommended items that were read.
    pub events: u64,
    /// Those that no logged answer had shown in time: most of them, where the log is a sample.
    pub unattributed: u64,
}

impl LiveJoin {
    /// An event belongs to the user's latest logged answer that had its item, at most `window` before it.
    pub fn new(window: Duration) -> Self {
        let [items, models] = [Vocabulary::new(), Vocabulary::new()];
        Self { window, shown: HashMap::new(), items, models, events: 0, unattributed: 0 }
    }

    /// Takes a line of the rank log in.
    ///
    /// # Errors
    /// For a time before 1970 or after 2262.
    pub fn answer(&mut self, line: RankLogLine) -> Result<(), TimeError> {
        let nanos = u64::try_from(line.time.as_nanosecond()).unwrap_or(u64::MAX);
        let at = EventTime::from_nanos(nanos)?;
        let items = line.items.iter().map(|item| self.items.insert(item)).collect();
        let shown = Shown { at, model: self.models.insert(&line.model_version), items, clicked: vec![] };
        self.shown.entry(line.user_id).or_default().push(shown);
        Ok(())
    }

    /// No more lines come: events may.
    pub fn sort(&mut self) {
        self.shown.values_mut().for_each(|shown| shown.sort_by_key(|shown| shown.at));
    }

    /// Takes an interaction with a recommended item in.
    pub fn event(&mut self, user: &str, item: &str, at: EventTime) {
        self.events += 1;
        let oldest = at.saturating_sub(self.window);
        let shown = self.shown.get_mut(user).map(Vec::as_mut_slice).unwrap_or_default();
        let later = shown.partition_point(|shown| shown.at <= at);
        let mut in_time = shown[..later].iter_mut().rev().take_while(|shown| shown.at >= oldest);
        let item = self.items.get(item);
        let place = |shown: &Shown| shown.items.iter().position(|&shown| Some(shown) == item);
        let found = in_time.find_map(|shown| Some((place(shown)?, shown)));
        match found {
            // A second click on the same item is not a second success.
            Some((place, shown)) if !shown.clicked.contains(&(place as u32)) => shown.clicked.push(place as u32),
            Some(_) => {}
            None => self.unattributed += 1,
        }
    }

    /// Sums up.
    pub fn report(self) -> LiveReport {
        let mut by_model: BTreeMap<u32, (LiveMetrics, Vec<Rank>)> = BTreeMap::new();
        for shown in self.shown.into_values().flatten() {
            let (metrics, ranks) = by_model.entry(shown.model).or_default();
            metrics.answers += 1;
            metrics.clicked_answers += u64::from(!shown.clicked.is_empty());
            ranks.extend(shown.clicked.into_iter().map(Rank));
        }
        let models = by_model.into_iter().map(|(model, (live, ranks))| {
            let metrics = Metrics::of(ranks);
            (self.models.name(model).unwrap_or_default().to_owned(), LiveMetrics { metrics, ..live })
        });
        LiveReport { models: models.collect(), events: self.events, unattributed: self.unattributed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: i64, user: &str, model: &str, items: &[&str]) -> RankLogLine {
        RankLogLine {
            time: jiff::Timestamp::from_second(second).expect("a time"),
            user_id: user.into(),
            model_version: model.into(),
            items: items.iter().map(|&item| item.to_owned()).collect(),
            scores: vec![],
            unknown_items: 0,
            cold_start: false,
            stale_history: false,
        }
    }

    #[test]
    fn a_click_counts_for_the_latest_answer_that_showed_it_in_time() {
        let mut join = LiveJoin::new(Duration::from_secs(100));
        // Not in order: several replicas' logs are read one after another.
        join.answer(line(2000, "u", "b", &["z", "y"])).unwrap();
        join.answer(line(1000, "u", "a", &["x", "y", "z"])).unwrap();
        join.answer(line(1050, "u", "a", &["y", "x"])).unwrap();
        join.answer(line(1000, "v", "a", &["x"])).unwrap();
        join.sort();
        let second = |second: u64| EventTime::from_millis(second * 1000).expect("a time");
        join.event("u", "z", second(1060)); // the first answer's third
        join.event("u", "y", second(1060)); // the second answer's first
        join.event("u", "y", second(1070)); // the same again
        join.event("u", "x", second(1151)); // too late for both
        join.event("u", "x", second(999)); // before anything was shown
        join.event("u", "y", second(2000)); // at once; the other model's second
        join.event("w", "x", second(1000)); // nobody
        let report = join.report();
        assert_eq!((report.events, report.unattributed), (7, 3));
        let of = |ranks: &[u32]| Metrics::of(ranks.iter().copied().map(Rank));
        let a = LiveMetrics { metrics: of(&[2, 0]), answers: 3, clicked_answers: 2 };
        let b = LiveMetrics { metrics: of(&[1]), answers: 1, clicked_answers: 1 };
        let near = |left: Metrics, right: Metrics| {
            let pairs = left.values().into_iter().zip(right.values());
            pairs.into_iter().all(|(left, right)| (left - right).abs() < 1e-12)
        };
        assert_eq!(report.models.keys().collect::<Vec<_>>(), ["a", "b"]);
        for (model, expected) in [("a", a), ("b", b)] {
            let got = report.models[model];
            assert!(near(got.metrics, expected.metrics) && got.metrics.users == expected.metrics.users, "{got:?}");
            assert_eq!((got.answers, got.clicked_answers), (expected.answers, expected.clicked_answers), "{model}");
        }
    }
}
