//! From options to a directory of logs: user after user, and all files or none.

use std::path::Path;

use super::{Summary, SyntheticOptions, TRUTH_FILE, logs::Logs, user::Simulation, world::World};
use crate::data::{DatasetError, Progress, StagedDirectory};

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
