//! Amazon Beauty, where its files are at hand.

use std::path::{Path, PathBuf};

use sesrec::data::{Dataset, Existing, Split};

use crate::{fixtures::*, skip::skipped};

/// `../shared/data/beauty`, or where `SESREC_BEAUTY` says.
fn beauty() -> Option<PathBuf> {
    let dir = std::env::var_os("SESREC_BEAUTY")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/beauty"), PathBuf::from);
    if !dir.is_dir() {
        skipped(&format!("{} is not there (set SESREC_BEAUTY)", dir.display()));
        return None;
    }
    Some(dir)
}

#[test]
fn amazon_beauty_has_the_size_its_readme_says() {
    let Some(logs) = beauty() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut imported = import(&logs);
    imported.write(&dir.path().join("data"), Existing::Refuse).unwrap();
    let dataset = Dataset::read(&dir.path().join("data")).unwrap();
    let statistics = dataset.statistics;
    assert_eq!((statistics.users, statistics.items), (22_363, 12_101));
    assert_eq!(imported.report.items_acted_upon, 12_101);
    assert_eq!((statistics.actions_recommendation, statistics.actions_search), (198_502, 145_264));
    // Every user has at least five interactions, so that each is tested once.
    assert_eq!(dataset.targets(Split::Test).len(), 22_363);
    assert_eq!(dataset.targets(Split::Validation).len(), 22_363);
    // The release trained on targets 2 ... n - 2 with an earlier search.
    let train = dataset.targets(Split::Train);
    assert_eq!(train.len(), 198_502 - 3 * 22_363);
    let with_search = train.iter().filter(|&&target| dataset.searches_before(target) > 0).count();
    assert_eq!(with_search, 131_413, "the number of training targets in the data's README");
}
