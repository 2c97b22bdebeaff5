//! Events that nobody will ever store, and the dead-letter file that keeps them, each with the reason.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;

use super::source::Position;

/// What becomes of events that can't be stored.
pub(super) enum Rejects {
    /// They are a failure, and still to be dealt with: the checkpoint stays before the first of them.
    Fail,
    /// They are only counted.
    Allow,
    /// They go to a file, and are no failure then.
    Keep(DeadLetters),
}

/// An event that is given up.
pub(super) struct Rejected<'a> {
    pub(super) position: &'a Position,
    pub(super) outcome: &'static str,
    pub(super) reason: &'a str,
    pub(super) event: &'a str,
}

/// NDJSON, appended to.
pub(super) struct DeadLetters {
    path: PathBuf,
    file: File,
    /// The input's name, without a password.
    input: String,
    /// Whether all of it is on the disk.
    synced: bool,
}

/// One line of it.
#[derive(Serialize)]
struct DeadLetter<'a> {
    /// When it was given up.
    time: jiff::Timestamp,
    input: &'a str,
    /// Line or entry.
    position: &'a str,
    outcome: &'a str,
    reason: &'a str,
    /// As it came, where it was text.
    event: &'a str,
}

impl DeadLetters {
    pub(super) fn open(path: &Path, input: String) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), file, input, synced: true })
    }

    /// Written before the event is settled: nothing is lost between the two.
    pub(super) fn write(&mut self, rejected: &Rejected<'_>) -> anyhow::Result<()> {
        let Rejected { position, outcome, reason, event } = *rejected;
        let position = position.to_string();
        let (time, input) = (jiff::Timestamp::now(), &self.input);
        let letter = DeadLetter { time, input, position: &position, outcome, reason, event };
        let mut line = serde_json::to_vec(&letter)?;
        line.push(b'\n');
        self.synced = false;
        self.file.write_all(&line).with_context(|| self.path.display().to_string())
    }

    /// Returns when all of it is on the disk: before the input is told that an event has reached its end.
    pub(super) fn sync(&mut self) -> anyhow::Result<()> {
        if !self.synced {
            self.file.sync_data().with_context(|| self.path.display().to_string())?;
            self.synced = true;
        }
        Ok(())
    }
}
