//! What a person sees of a long experiment: a bar over all runs, the present run's below it, a line per finished run;
//! then a bar over what is measured.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{data::Progress, train::Reporting};

/// Bars and lines on standard error.
#[derive(Debug)]
pub(super) struct Bars {
    shown: Option<MultiProgress>,
    overall: ProgressBar,
}

impl Bars {
    /// Over so many of what is called `what`.
    pub fn new(progress: Progress, count: usize, what: &str) -> Self {
        if progress == Progress::Hidden {
            return Self { shown: None, overall: ProgressBar::hidden() };
        }
        let (bars, bar) = (MultiProgress::new(), ProgressBar::new(count as u64));
        let style = ProgressStyle::with_template("{pos}/{len} {prefix} {wide_bar} {msg} · {elapsed_precise}");
        let bar = bar.with_style(style.expect("a constant template")).with_prefix(what.to_owned());
        let overall = bars.add(bar);
        overall.enable_steady_tick(Duration::from_millis(500));
        Self { shown: Some(bars), overall }
    }

    /// What the trainer reports to.
    pub fn reporting(&self) -> Reporting {
        self.shown.clone().map_or(Reporting::Silent, Reporting::Among)
    }

    /// One begins.
    pub fn begin(&self, name: &str) {
        self.overall.set_message(name.to_owned());
    }

    /// One has ended, or was there.
    pub fn advance(&self) {
        self.overall.inc(1);
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        if let Some(bars) = &self.shown {
            bars.suspend(|| eprintln!("{line}"));
        }
    }

    pub fn finish(&self) {
        self.overall.finish_and_clear();
    }
}
