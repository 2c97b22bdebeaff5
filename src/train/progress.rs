//! What a person sees while a model learns.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Who is told about progress.
#[derive(Debug, Clone, Default)]
pub enum Reporting {
    /// A bar and a line per epoch on standard error; only the lines where that is no terminal.
    #[default]
    Terminal,
    /// A bar below those of whoever runs this training among others.
    Among(MultiProgress),
    /// Nobody.
    Silent,
}

impl Reporting {
    /// A bar over the steps of an epoch.
    pub(super) fn epoch_bar(&self, label: String, steps: usize) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} steps · {msg} · {eta} left")
            .expect("a constant template");
        let bar = match self {
            Self::Terminal => ProgressBar::new(steps as u64),
            Self::Among(bars) => bars.add(ProgressBar::new(steps as u64)),
            Self::Silent => return ProgressBar::hidden(),
        };
        let bar = bar.with_style(style).with_prefix(label);
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }

    /// A line that stays.
    pub(super) fn line(&self, line: &str) {
        if matches!(self, Self::Terminal) {
            eprintln!("{line}");
        }
    }
}

/// "bce 0.457 · align 2.976"
pub(super) fn losses_text<'a>(losses: impl IntoIterator<Item = (&'a str, f64)>) -> String {
    let texts: Vec<String> = losses.into_iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
    texts.join(" · ")
}
