//! Synthetic logs in KuaiSAR's layout whose truth is known: for trying everything out, and for measuring whether a
//! model finds what was planted.
//!
//! What is planted:
//! - **Items** belong to topics, topics to categories; topics, items within a topic, and queries are popular by Zipf.
//! - **Users** have interests, each a topic: shared by search and recommendation, only in recommendation, or only in
//!   search. Interests *drift*: now and then one gives way to a new topic, and recent ones weigh more. A new shared
//!   interest shows in a search first; recommendation clicks on it follow, so that searches foretell them before the
//!   recommendation history can.
//! - **Searches** are 57 % spontaneous, 43 % passive (set off by a recommendation just clicked); 23 % of the spontaneous
//!   ones are about interests that recommendation doesn't know (the paper's Fig. 1b). A search makes its topic *hot*:
//!   the next clicks are likely on it.
//! - **Noise**: clicks out of the blue, shown items and results without a click, searches without a click, foreign words.
//!
//! `truth.csv` says for every click and search what it was: `similar` (a shared interest), `dissimilar` (an interest of
//! one side only) or `none` (noise), where it came from, and its topic. The importer doesn't read it.
//!
//! Users are simulated one after another, each from a random stream of its own: memory is bounded by the items, and the
//! same options give the same bytes.

mod logs;
mod truth;
mod user;
mod world;

use std::{fmt, path::Path};

use indicatif::HumanCount;

use super::{DatasetError, Existing, Progress, StagedDirectory};
pub use truth::Truth;
pub use user::Label as TruthLabel;

use logs::Logs;
use user::Simulation;
use world::World;

/// The file with the truth; by it a directory is known as one of synthetic logs.
pub const TRUTH_FILE: &str = "truth.csv";

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SyntheticOptions {
    /// Users, at least 1.
    pub users: u32,
    /// Items, at least 100.
    pub items: u32,
    /// Everything follows from it.
    pub seed: u64,
    /// Clicked recommendations per user on average, at least 5; searches come to half as many.
    pub clicks_per_user: f64,
    /// What to do with logs that are there already.
    pub existing: Existing,
    /// Whether to show how far it is.
    pub progress: Progress,
}

impl Default for SyntheticOptions {
    fn default() -> Self {
        Self {
            users: 1_000,
            items: 2_000,
            seed: 1,
            clicks_per_user: 24.0,
            existing: Existing::Refuse,
            progress: Progress::Hidden,
        }
    }
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Users.
    pub users: u64,
    /// Items.
    pub items: u64,
    /// Topics.
    pub topics: u64,
    /// Clicked recommendations.
    pub clicks: u64,
    /// Recommendations that were shown and not clicked.
    pub unclicked: u64,
    /// Searches.
    pub searches: u64,
    /// Shown search results, clicked or not.
    pub results: u64,
    /// Searches that were not set off by a recommendation.
    pub spontaneous: u64,
    /// Spontaneous searches about interests that recommendation doesn't know.
    pub dissimilar: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        writeln!(
            f,
            "{} users, {} items in {} topics",
            HumanCount(self.users),
            HumanCount(self.items),
            HumanCount(self.topics)
        )?;
        writeln!(
            f,
            "{} recommendations clicked, {} shown and not clicked",
            HumanCount(self.clicks),
            HumanCount(self.unclicked)
        )?;
        write!(
            f,
            "{} searches ({} shown results): {:.1} % spontaneous, {:.1} % passive; {:.1} % of the spontaneous ones dissimilar",
            HumanCount(self.searches),
            HumanCount(self.results),
            share(self.spontaneous, self.searches),
            share(self.searches - self.spontaneous, self.searches),
            share(self.dissimilar, self.spontaneous)
        )
    }
}

/// Writes `rec_inter.csv`, `src_inter.csv`, `item_features.csv`, `user_features.csv` and `truth.csv` into `out`, all or
/// none. `sesrec import kuaisar` reads them.
///
/// # Errors
/// If the options make no sense, or `out` exists and may not be replaced, or can't be written.
pub fn write(options: &SyntheticOptions, out: &Path) -> Result<Summary, DatasetError> {
    let refuse = |message: &str| Err(DatasetError::format(out, message));
    if options.users == 0 {
        return refuse("synthetic logs need at least 1 user");
    }
    if !(100..=100_000_000).contains(&options.items) {
        return refuse("synthetic logs need between 100 and 100,000,000 items");
    }
    if !(5.0..=100_000.0).contains(&options.clicks_per_user) {
        return refuse("synthetic logs need between 5 and 100,000 clicks per user");
    }
    let staged = StagedDirectory::begin(out, TRUTH_FILE, options.existing)?;
    let world = World::new(options.items, options.seed);
    let mut logs = Logs::create(staged.path())?;
    logs.items(&world)?;
    let bar = match options.progress {
        Progress::Hidden => indicatif::ProgressBar::hidden(),
        Progress::Bars => indicatif::ProgressBar::new(options.users.into()).with_prefix("users"),
    };
    for number in 0..options.users {
        let user = Simulation::new(&world, options, number).run();
        logs.user(&world, &user)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let summary = logs.finish(&world)?;
    staged.commit()?;
    Ok(summary)
}
