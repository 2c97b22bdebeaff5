//! What is told of an ingestion: a bar or lines while it goes on, a sum at its end.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::{rejects::Rejected, source::Input};
use crate::{cli::client::TOO_OLD, proto::v1::Outcome};

/// How many rejected lines are shown one by one.
const SHOWN_REJECTS: u64 = 20;
/// How often a stream's progress is shown where there is no terminal for a bar.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How many events have met which outcome.
#[derive(Default)]
struct Outcomes(BTreeMap<&'static str, u64>);

/// What has become of events so far, and the bar that shows it.
pub(super) struct Progress {
    outcomes: Outcomes,
    started: Instant,
    told: Instant,
    bar: ProgressBar,
}

/// What became of everything.
pub(super) struct Summary {
    outcomes: Outcomes,
    elapsed: Duration,
    /// Everything up to this line is settled.
    pub(super) settled_line: u64,
}

impl Outcomes {
    fn of(&self, outcome: &str) -> u64 {
        self.0.get(outcome).copied().unwrap_or(0)
    }

    fn events(&self) -> u64 {
        self.0.values().sum()
    }

    fn rejected(&self) -> u64 {
        ["INVALID", "CONFLICT", "FAILED"].into_iter().map(|outcome| self.of(outcome)).sum()
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.0.iter().map(|(name, n)| format!("{name} {}", HumanCount(*n))).collect();
        f.write_str(&counts.join(", "))
    }
}

impl Progress {
    /// Of an input before its first event.
    pub(super) fn of(input: &Input) -> Self {
        let bar = match input.size() {
            Some(size) => ProgressBar::new(size).with_style(style("{bar:30} {percent:>3} %  {msg}")),
            None => ProgressBar::new_spinner().with_style(style("{spinner} {msg}")),
        };
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { outcomes: Outcomes::default(), started: Instant::now(), told: Instant::now(), bar }
    }

    /// Events with an outcome.
    pub(super) fn events(&self) -> u64 {
        self.outcomes.events()
    }

    /// Counts an event.
    pub(super) fn count(&mut self, outcome: &'static str, input: &Input) {
        *self.outcomes.0.entry(outcome).or_default() += 1;
        // Formatting for every event would cost more than sending it.
        if self.events().is_multiple_of(256) {
            self.bar.set_position(input.bytes());
            self.bar.set_message(self.text(input));
        }
    }

    /// Counts an event that is given up, and shows it unless there are many.
    pub(super) fn reject(&mut self, rejected: &Rejected<'_>, input: &Input) {
        let Rejected { position, outcome, reason, .. } = *rejected;
        self.count(outcome, input);
        let shown = self.outcomes.rejected();
        if shown <= SHOWN_REJECTS {
            self.note(format!("{position}: {outcome}: {reason}"));
        } else if shown == SHOWN_REJECTS + 1 {
            self.note("further rejected events are only counted".into());
        }
    }

    /// A stream goes on for days: its progress is shown also while nothing comes, and where there is no terminal.
    pub(super) fn tell(&mut self, input: &Input) {
        if input.status().is_some() {
            self.bar.set_message(self.text(input));
            if self.bar.is_hidden() && self.told.elapsed() > TELL_EVERY {
                self.told = Instant::now();
                eprintln!("{}", self.text(input));
            }
        }
    }

    /// Says something without disturbing the bar; also where there is no terminal for one.
    pub(super) fn note(&self, text: String) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Takes the bar away and sums up.
    pub(super) fn finish(self, settled_line: u64) -> Summary {
        self.bar.finish_and_clear();
        Summary { outcomes: self.outcomes, elapsed: self.started.elapsed(), settled_line }
    }

    fn text(&self, input: &Input) -> String {
        let rate = self.events() as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let status = input.status().map(|status| format!("  {status}")).unwrap_or_default();
        format!("{} events/s  {}{status}", HumanCount(rate as u64), self.outcomes)
    }
}

impl Summary {
    /// One line for people; nothing where nothing could be done.
    pub(super) fn print(&self, ended: &anyhow::Result<()>) {
        let events = self.outcomes.events();
        let rate = events as f64 / self.elapsed.as_secs_f64().max(1e-3);
        let outcomes = match (events, ended) {
            (0, Err(_)) => return,
            (0, Ok(())) => "nothing to do".into(),
            _ => self.outcomes.to_string(),
        };
        println!(
            "{} events in {:.1} s ({rate:.0} events/s): {outcomes}",
            HumanCount(events),
            self.elapsed.as_secs_f64()
        );
    }

    /// What to do, where most events were dropped for their age: that is rarely what was meant.
    pub(super) fn hint(&self) -> Option<String> {
        let events = self.outcomes.events();
        let too_old = self.outcomes.of(Outcome::TooOld.as_str_name());
        (too_old > events / 2).then(|| {
            format!(
                "hint: {} of {} events were TOO_OLD and are not stored. {TOO_OLD}",
                HumanCount(too_old),
                HumanCount(events)
            )
        })
    }

    /// Events that the server refused for good.
    pub(super) fn rejected(&self) -> u64 {
        self.outcomes.rejected()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_events_too_old_is_worth_a_hint() {
        let hint = |outcomes: &[(&'static str, u64)]| {
            let outcomes = Outcomes(outcomes.iter().copied().collect());
            Summary { outcomes, elapsed: Duration::ZERO, settled_line: 0 }.hint()
        };
        let told = hint(&[("TOO_OLD", 1_001), ("APPLIED", 999)]).expect("a hint");
        assert!(told.contains("1,001 of 2,000") && told.contains("serve --time-to-live 0s"), "{told}");
        assert!(hint(&[("TOO_OLD", 1)]).is_some());
        assert_eq!(hint(&[("TOO_OLD", 1_000), ("APPLIED", 900), ("INVALID", 100)]), None);
        assert_eq!(hint(&[("APPLIED", 5)]), None);
        assert_eq!(hint(&[]), None);
    }
}
