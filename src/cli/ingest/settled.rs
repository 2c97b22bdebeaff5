//! How far the input is settled: what the checkpoint says of it, and what is kept of events that can't be stored.

use std::time::{Duration, Instant};

use super::{
    rejects::{Rejected, Rejects},
    source::{Checkpoint, Position},
};

const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// How far the input is read and settled. Where the oldest event without an acknowledgement is, it has to be told.
pub(super) struct Settled {
    /// The last line read.
    pub(super) read_line: u64,
    /// Of lines whose rejection is a failure.
    first_rejected: Option<u64>,
    rejects: Rejects,
    checkpoint: Option<Checkpoint>,
    checkpoint_written: Instant,
}

impl Settled {
    /// Nothing read since the checkpoint.
    pub(super) fn new(checkpoint: Option<Checkpoint>, rejects: Rejects) -> Self {
        Self {
            read_line: checkpoint.as_ref().map_or(0, Checkpoint::line),
            first_rejected: None,
            rejects,
            checkpoint,
            checkpoint_written: Instant::now(),
        }
    }

    /// Whether another run will go on where this one ends.
    pub(super) fn is_resumable(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Whether events that can't be stored are kept elsewhere.
    pub(super) fn keeps_rejects(&self) -> bool {
        matches!(self.rejects, Rejects::Keep(_))
    }

    /// Takes note of an event that is given up, before the input is told that it has reached its end.
    pub(super) fn reject(&mut self, rejected: &Rejected<'_>) -> anyhow::Result<()> {
        match (&mut self.rejects, rejected.position) {
            (Rejects::Keep(letters), position) => {
                letters.write(rejected)?;
                // An entry is acknowledged right away, a line with the next checkpoint.
                if matches!(position, Position::Entry(_)) {
                    letters.sync()?;
                }
            }
            // Some are found out when they are read, others when the server has answered.
            (Rejects::Fail, Position::Line(line)) => {
                self.first_rejected = Some(self.first_rejected.map_or(*line, |first| first.min(*line)));
            }
            (Rejects::Fail | Rejects::Allow, _) => {}
        }
        Ok(())
    }

    /// Everything up to this line is settled.
    pub(super) fn line(&self, oldest_open: Option<&Position>) -> u64 {
        let settled = match oldest_open {
            Some(Position::Line(line)) => line - 1,
            _ => self.read_line,
        };
        self.first_rejected.map_or(settled, |rejected| settled.min(rejected - 1))
    }

    /// Writes the checkpoint if it was not written just now.
    pub(super) fn save_sometimes(&mut self, oldest_open: Option<&Position>) -> anyhow::Result<()> {
        if self.checkpoint_written.elapsed() > CHECKPOINT_EVERY { self.save(oldest_open) } else { Ok(()) }
    }

    /// Writes the checkpoint.
    pub(super) fn save(&mut self, oldest_open: Option<&Position>) -> anyhow::Result<()> {
        let line = self.line(oldest_open);
        self.checkpoint_written = Instant::now();
        if let Rejects::Keep(letters) = &mut self.rejects {
            letters.sync()?;
        }
        self.checkpoint.as_mut().map_or(Ok(()), |checkpoint| checkpoint.write(line))
    }
}
