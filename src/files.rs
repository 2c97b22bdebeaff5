//! Files that are there as a whole or not at all, what is on the disk, and locks of directories.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// Returns when a file's content, or a directory's list of names, is on the disk.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes JSON that people may read, too; returns when it is on the disk.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut json = serde_json::to_vec_pretty(value)?;
    json.push(b'\n');
    fs::write(path, json)?;
    sync(path)
}

/// The number of a JSON file's format, whatever else that format has.
pub(crate) fn format_of(json: &[u8]) -> serde_json::Result<u32> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    serde_json::from_slice(json).map(|Format { format }| format)
}

/// Puts `content` in the file's place in one step, on the disk: what is killed, or loses its power, leaves the old one.
/// Two writers of one file at once are not meant.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    // The whole name: `events.1` and `events.2` may be written at once.
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Takes the lock that a file is, for as long as it is open; the file is made if there is none. Nothing if somebody else
/// holds it.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_one_holder_s() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(".lock");
        let held = lock(&path).expect("made");
        assert!(held.is_some() && lock(&path).expect("there").is_none());
        drop(held);
        assert!(lock(&path).expect("there").is_some());
    }

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.json");
        write_whole(&path, b"old").expect("written");
        // Where the new one can't be made, nothing has changed.
        fs::create_dir(directory.path().join("state.json.new")).expect("made");
        write_whole(&path, b"new").expect_err("a directory is in the way");
        assert_eq!(fs::read(&path).expect("there"), b"old");
        fs::remove_dir(directory.path().join("state.json.new")).expect("removed");
        write_whole(&path, b"new").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"new");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
    }
}
