//! Where the golden values are, and that tests which find none do not pass for it.

use std::path::{Path, PathBuf};

use crate::skip::skipped;

/// The folders of golden values: of `SESREC_GOLDEN`, or of `../shared/golden` where that exists; none, said aloud,
/// where it doesn't.
pub fn folders() -> Vec<PathBuf> {
    match std::env::var_os("SESREC_GOLDEN") {
        Some(root) => folders_in(Path::new(&root)),
        None => {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
            if !root.exists() {
                skipped(&format!("no golden values at {} (set SESREC_GOLDEN)", root.display()));
                return vec![];
            }
            folders_in(&root)
        }
    }
}

/// The folders of a directory.
///
/// # Panics
/// If there are none: whoever names a directory, or has one, wants it tested.
pub fn folders_in(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).unwrap_or_else(|error| panic!("golden values: {}: {error}", root.display()));
    let is_golden = |path: &PathBuf| path.join("config.json").is_file();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(is_golden).collect();
    assert!(!folders.is_empty(), "golden values: {} has no folder with a config.json", root.display());
    folders.sort();
    folders
}
