//! What a person sees of a long experiment: a bar over all runs, the present run's below it, a line per finished run.

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
    pub fn new(progress: Progress, runs: usize) -> Self {
        if progress == Progress::Hidden {
            return Self { shown: None, overall: ProgressBar::hidden() };
        }
        let (bars, bar) = (MultiProgress::new(), ProgressBar::new(runs as u64));
        let style = ProgressStyle::with_template("{pos}/{len} runs {wide_bar} {msg} · {elapsed_precise}");
        let overall = bars.add(bar.with_style(style.expect("a constant template")));
        overall.enable_steady_tick(Duration::from_millis(500));
        Self { shown: Some(bars), overall }
    }

    /// What the trainer reports to.
    pub fn reporting(&self) -> Reporting {
        self.shown.clone().map_or(Reporting::Silent, Reporting::Among)
    }

    /// A run begins.
    pub fn begin(&self, run: &str) {
        self.overall.set_message(run.to_owned());
    }

    /// A run has ended, or was there.
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
