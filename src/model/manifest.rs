//! `manifest.json`: a checksum per file of a bundle, and the version that follows from them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::BundleError;
use crate::{data::FileChecksum, domain::ModelVersion};

/// The newest bundle layout that this program reads, and the one that it writes.
const FORMAT_VERSION: u32 = 1;

/// What a bundle consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format_version: u32,
    /// By path relative to the bundle, with `/`.
    files: BTreeMap<String, FileChecksum>,
}

impl Manifest {
    /// The file's name in a bundle.
    pub const FILE: &'static str = "manifest.json";

    /// Sums up the files of a directory, this one aside.
    pub(super) fn of(dir: &Path) -> Result<Self, BundleError> {
        let mut files = BTreeMap::new();
        for name in listed(dir, "")? {
            if name != Self::FILE {
                files.insert(name.clone(), checksum(&dir.join(&name))?);
            }
        }
        Ok(Self { format_version: FORMAT_VERSION, files })
    }

    /// Reads it and checks every file against it but for `unread`, which is for [`check`](Self::check).
    pub(super) fn read(dir: &Path, unread: &str) -> Result<Self, BundleError> {
        let path = dir.join(Self::FILE);
        let manifest = match Self::parse(&path) {
            Err(BundleError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let message = format!("is no bundle (it has no {}): `sesrec train` makes one", Self::FILE);
                return Err(BundleError::Format { path: dir.to_owned(), message });
            }
            parsed => parsed?,
        };
        if manifest.format_version != FORMAT_VERSION {
            let message = format!(
                "format version {} where this program reads {FORMAT_VERSION}; use a matching sesrec",
                manifest.format_version
            );
            return Err(BundleError::Format { path, message });
        }
        for (name, sum) in &manifest.files {
            let file = dir.join(name);
            let outside = Path::new(name).components().any(|part| !matches!(part, std::path::Component::Normal(_)));
            if outside {
                return Err(BundleError::Format { path, message: format!("{name:?} is not a file of the bundle") });
            }
            if name != unread && checksum(&file)? != *sum {
                return Err(BundleError::Checksum { path: file });
            }
        }
        Ok(manifest)
    }

    fn parse(path: &Path) -> Result<Self, BundleError> {
        let text = fs::read(path).map_err(BundleError::io(path))?;
        serde_json::from_slice(&text)
            .map_err(|error| BundleError::Format { path: path.to_owned(), message: error.to_string() })
    }

    /// When all files have been read, which was not at the moment that they were summed up: that the directory still is
    /// the same bundle's, and not another one's half.
    pub(super) fn confirm(&self, dir: &Path) -> Result<(), BundleError> {
        let path = dir.join(Self::FILE);
        if Self::parse(&path)? == *self {
            return Ok(());
        }
        let message = "the bundle was replaced while it was read: load it again".into();
        Err(BundleError::Format { path, message })
    }

    /// Checks a file that was read and summed up. What could not be read is not worth reporting where the file is
    /// damaged.
    pub(super) fn check<T>(
        &self,
        (dir, name): (&Path, &str),
        read: Result<(T, FileChecksum), BundleError>,
    ) -> Result<T, BundleError> {
        let path = dir.join(name);
        let sum = match &read {
            Ok((_, sum)) => sum.clone(),
            Err(_) => checksum(&path)?,
        };
        if self.files.get(name) != Some(&sum) {
            return Err(BundleError::Checksum { path });
        }
        read.map(|(content, _)| content)
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), BundleError> {
        let path = dir.join(Self::FILE);
        let json = serde_json::to_string_pretty(self).expect("a manifest has string keys only");
        fs::write(&path, json).map_err(BundleError::io(&path))
    }

    /// A hash over names and checksums: changes whenever a byte of the bundle changes.
    pub fn version(&self) -> ModelVersion {
        let mut hasher = blake3::Hasher::new();
        for (name, sum) in &self.files {
            hasher.update(format!("{name}\n{}\n", sum.blake3).as_bytes());
        }
        ModelVersion::new(&hasher.finalize().to_hex()[..16]).expect("hexadecimal digits are a valid id")
    }

    /// Whether the bundle has this file.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }
}

fn checksum(path: &Path) -> Result<FileChecksum, BundleError> {
    FileChecksum::of(path).map_err(BundleError::io(path))
}

/// The files below a directory, as paths relative to it.
pub(super) fn listed(dir: &Path, prefix: &str) -> Result<Vec<String>, BundleError> {
    let here: PathBuf = dir.join(prefix);
    let mut names = vec![];
    for entry in fs::read_dir(&here).map_err(BundleError::io(&here))? {
        let entry = entry.map_err(BundleError::io(&here))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if entry.file_type().map_err(BundleError::io(&here))?.is_dir() {
            names.extend(listed(dir, &name)?);
        } else {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_bundle_is_called_so() {
        let directory = tempfile::tempdir().unwrap();
        for dir in [directory.path().to_owned(), directory.path().join("nope")] {
            let refused = Manifest::read(&dir, "").unwrap_err().to_string();
            assert!(refused.starts_with(&format!("{}: is no bundle", dir.display())), "{refused}");
            assert!(refused.contains("manifest.json") && refused.contains("`sesrec train`"), "{refused}");
        }
    }
}
