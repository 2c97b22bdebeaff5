//! What a file of a data set or a bundle has to be, byte for byte.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// Length and BLAKE3 hash of a file, as recorded in `dataset.json` and `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChecksum {
    /// Its length.
    pub bytes: u64,
    /// The hash of its content, hexadecimal.
    pub blake3: String,
}

impl FileChecksum {
    /// Of a file as it is now, read in pieces.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(path)?)?;
        Ok(hasher.into())
    }
}

/// Of what went through it.
impl From<blake3::Hasher> for FileChecksum {
    fn from(hasher: blake3::Hasher) -> Self {
        Self { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() }
    }
}
