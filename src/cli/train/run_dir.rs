//! The directory of a run: checkpoints, curves, and a lock.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};

use crate::{files::lock, train::Checkpoint};

/// A run's directory. Holds its lock: two runs would overwrite each other's checkpoints, and the later one the other's
/// bundle.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Where it is if nobody says: beside the bundle, whatever its path ends with. In it, it would be in the way.
    pub fn beside(bundle: &Path) -> PathBuf {
        let mut name = bundle.file_name().unwrap_or_default().to_owned();
        name.push(".run");
        bundle.with_file_name(name)
    }

    /// Takes it for one run; it is made if there is none.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        let lock_path = path.join(".lock");
        match lock(&lock_path).with_context(|| lock_path.display().to_string())? {
            Some(lock) => Ok(Self { path, _lock: lock }),
            None => bail!(
                "{}: another training is running in this directory: wait for it, or choose another --out",
                path.display()
            ),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Its curves.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> anyhow::Result<Option<Checkpoint>> {
        Checkpoint::read_latest(&self.checkpoints()).map_err(|error| {
            let older = "Remove that checkpoint's directory if an older one lies beside it";
            anyhow!("{error}\n  {older}, or start afresh with --force.")
        })
    }

    /// Removes what earlier runs left.
    pub fn clear(&self) -> anyhow::Result<()> {
        for directory in [self.checkpoints(), self.tensorboard()] {
            if directory.exists() {
                fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_beside_the_bundle() {
        for (bundle, expected) in [("bb", "bb.run"), ("bb/", "bb.run"), ("a/bb//", "a/bb.run"), ("bb/.", "bb.run")] {
            assert_eq!(RunDir::beside(Path::new(bundle)), Path::new(expected), "{bundle}");
        }
    }

    #[test]
    fn is_one_run_s_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.run");
        let first = RunDir::open(path.clone()).unwrap();
        let error = RunDir::open(path.clone()).unwrap_err().to_string();
        assert!(error.contains("bundle.run: another training is running"), "{error}");
        drop(first);
        RunDir::open(path).unwrap();
    }
}
