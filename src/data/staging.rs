//! A directory that appears whole or not at all: written beside its place, then renamed into it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::DatasetError;
use crate::files;

/// What to do when the directory is there already. An empty one is always taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Leave it alone and say so.
    #[default]
    Refuse,
    /// Replace it, provided that it holds what it is to be replaced by (it has the marker file): a mistyped path
    /// never costs a home directory.
    Replace,
}

/// A directory in the making. Dropped before [`Self::commit`], nothing of it remains. What a killed process leaves is
/// removed, on Linux, when the next directory of this name is begun.
#[derive(Debug)]
pub struct StagedDirectory {
    temporary: PathBuf,
    /// Of the temporary directory, where the file system has locks: who holds it is at work, in whichever container.
    _lock: Option<fs::File>,
    target: PathBuf,
    marker: &'static str,
    existing: Existing,
}

impl StagedDirectory {
    /// Whether `target` may be written: worth asking before hours of work. `marker` is the file by which a directory
    /// of this kind is known, for example `dataset.json`.
    pub fn check(target: &Path, marker: &'static str, existing: Existing) -> Result<(), DatasetError> {
        // `.` and `..` are directories that somebody is in: what replaces them is not seen from there.
        if target.file_name().is_none() {
            return Err(unnamed(target));
        }
        let refuse = |message: String| Err(DatasetError::Exists { path: target.to_owned(), message });
        let mut entries = match fs::read_dir(target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(DatasetError::io(target))?,
        };
        match (entries.next().is_some(), existing) {
            (false, _) => Ok(()),
            (true, Existing::Refuse) => {
                refuse("exists and is not empty: choose another directory, or replace it with --force".into())
            }
            (true, Existing::Replace) if target.join(marker).is_file() => Ok(()),
            (true, Existing::Replace) => refuse(format!("holds something else (no {marker}): it is not replaced")),
        }
    }

    /// Makes the temporary directory.
    pub fn begin(target: &Path, marker: &'static str, existing: Existing) -> Result<Self, DatasetError> {
        Self::check(target, marker, existing)?;
        let target = &resolved(target)?;
        let temporary = sibling(target, "partial")?;
        if temporary.exists() {
            // By an earlier process of this one's number, as in containers, where numbers begin anew.
            fs::remove_dir_all(&temporary).map_err(DatasetError::io(&temporary))?;
        }
        remove_abandoned(target);
        let replaced = sibling(target, "replaced")?;
        if target.exists() && replaced.exists() {
            fs::remove_dir_all(&replaced).map_err(DatasetError::io(&replaced))?;
        }
        fs::create_dir(&temporary).map_err(DatasetError::io(&temporary))?;
        let lock = fs::File::open(&temporary).ok().filter(|directory| directory.try_lock().is_ok());
        Ok(Self { temporary, _lock: lock, target: target.to_owned(), marker, existing })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts it in its place. The files have to be on disk by now.
    pub fn commit(self) -> Result<(), DatasetError> {
        Self::check(&self.target, self.marker, self.existing)?;
        let failed = DatasetError::io(&self.target);
        if !self.target.exists() {
            fs::rename(&self.temporary, &self.target).map_err(failed)?;
        } else {
            let old = sibling(&self.target, "replaced")?;
            fs::rename(&self.target, &old).map_err(DatasetError::io(&self.target))?;
            if let Err(error) = fs::rename(&self.temporary, &self.target) {
                // Back to what was there; the first error is the one to report.
                let _ = fs::rename(&old, &self.target);
                return Err(failed(error));
            }
            if let Err(error) = fs::remove_dir_all(&old) {
                // The new one is in its place.
                tracing::warn!(path = %old.display(), %error, "what was replaced could not be removed");
            }
        }
        let parent = parent(&self.target);
        files::sync(parent).map_err(DatasetError::io(parent))
    }
}

impl Drop for StagedDirectory {
    fn drop(&mut self) {
        // Renamed away after a commit. Otherwise an error is on its way already: this one would only hide it.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// The directory that is meant, in one that exists, without links and `..` on the way: what is renamed may be part of
/// the way, and what a link points to may lie on another disk.
fn resolved(target: &Path) -> Result<PathBuf, DatasetError> {
    if target.exists() {
        return target.canonicalize().map_err(DatasetError::io(target));
    }
    let Some(name) = target.file_name() else { return Ok(target.to_owned()) };
    let parent = parent(target);
    fs::create_dir_all(parent).map_err(DatasetError::io(parent))?;
    Ok(parent.canonicalize().map_err(DatasetError::io(parent))?.join(name))
}

/// A hidden name beside `target`, on the same file system, so that renaming is atomic.
fn sibling(target: &Path, purpose: &str) -> Result<PathBuf, DatasetError> {
    let name = target.file_name().ok_or_else(|| unnamed(target))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{purpose}-{}", std::process::id()));
    Ok(parent(target).join(hidden))
}

fn unnamed(target: &Path) -> DatasetError {
    DatasetError::format(target, "has no name of its own: name a directory that isn't there yet")
}

/// Removes what killed processes have left of directories of this name. Whose process is gone is known on Linux only:
/// elsewhere all of it stays.
fn remove_abandoned(target: &Path) {
    let processes = Path::new("/proc");
    let (Some(name), Ok(entries)) = (target.file_name(), fs::read_dir(parent(target))) else { return };
    if !processes.join("self").exists() {
        return;
    }
    let prefix = format!(".{}.partial-", name.to_string_lossy());
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let number = file_name.to_str().and_then(|name| name.strip_prefix(&prefix)).map(str::parse::<u32>);
        let Some(Ok(number)) = number else { continue };
        let (gone, path) = (!processes.join(number.to_string()).exists(), entry.path());
        // Another container's processes are not among these.
        if gone
            && fs::File::open(&path).is_ok_and(|directory| directory.try_lock().is_ok())
            && let Err(error) = fs::remove_dir_all(&path)
        {
            // It takes space and is in nobody's way.
            tracing::warn!(path = %path.display(), %error, "what a killed process left could not be removed");
        }
    }
}

fn parent(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(target: &Path, existing: Existing) -> Result<(), DatasetError> {
        let staged = StagedDirectory::begin(target, "marker", existing)?;
        fs::write(staged.path().join("marker"), "new").unwrap();
        staged.commit()
    }

    #[test]
    fn replaces_only_what_it_made() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("deep/data");
        write(&target, Existing::Refuse).unwrap();
        let message = write(&target, Existing::Refuse).unwrap_err().to_string();
        assert!(message.contains("--force"), "{message}");
        fs::write(target.join("old"), "").unwrap();
        write(&target, Existing::Replace).unwrap();
        assert!(!target.join("old").exists());
        fs::rename(target.join("marker"), target.join("thesis")).unwrap();
        let message = write(&target, Existing::Replace).unwrap_err().to_string();
        assert!(message.contains("not replaced") && target.join("thesis").exists(), "{message}");
        fs::remove_file(target.join("thesis")).unwrap();
        write(&target, Existing::Refuse).expect("an empty directory is taken");
    }

    #[test]
    fn leaves_nothing_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let staged = StagedDirectory::begin(&dir.path().join("data"), "marker", Existing::Refuse).unwrap();
        fs::write(staged.path().join("half"), "").unwrap();
        drop(staged);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_has_no_name_of_its_own_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let above = dir.path().join("..");
        for target in [Path::new("/"), Path::new("."), Path::new(".."), above.as_path()] {
            let message = StagedDirectory::check(target, "marker", Existing::Replace).unwrap_err().to_string();
            assert!(message.contains("name a directory that isn't there yet"), "{message}");
            assert!(write(target, Existing::Replace).is_err());
        }
        write(&dir.path().join("data/"), Existing::Refuse).unwrap();
        assert!(dir.path().join("data/marker").is_file());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_killed_processes_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        // Numbers that no process has.
        let left = |name: &str, number: u32| {
            let path = dir.path().join(format!(".{name}.partial-{number}"));
            fs::create_dir(&path).unwrap();
            fs::write(path.join("half"), "").unwrap();
            path
        };
        let (abandoned, other) = (left("data", u32::MAX), left("other", u32::MAX));
        let (of_parent, locked) = (left("data", std::os::unix::process::parent_id()), left("data", u32::MAX - 1));
        let lock = fs::File::open(&locked).unwrap();
        lock.try_lock().unwrap();
        write(&dir.path().join("data"), Existing::Refuse).unwrap();
        assert!(!abandoned.exists());
        assert!(other.exists() && locked.exists(), "another directory's, and one that is being written");
        // Where the parent is outside the container, it has the number 0 here.
        assert_eq!(of_parent.exists(), std::os::unix::process::parent_id() != 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_way_through_itself_or_a_link_leads_to_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("data");
        write(&target, Existing::Refuse).unwrap();
        write(&target.join("../data"), Existing::Replace).unwrap();
        assert!(target.join("marker").is_file());
        let (disk, link) = (dir.path().join("disk"), dir.path().join("link"));
        fs::create_dir(&disk).unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        write(&link, Existing::Refuse).unwrap();
        assert!(link.is_symlink() && disk.join("marker").is_file());
    }
}
