//! The truth about synthetic logs, read back: what each event of a data set that was imported from them was.

use std::path::Path;

use hashbrown::HashMap;

use super::TruthLabel;
use crate::data::{
    Catalogue, DatasetError, Progress,
    kuaisar::log::{BadRows, Log},
};

/// The file with the truth; by it a directory is known as one of synthetic logs.
pub const TRUTH_FILE: &str = "truth.csv";

/// `truth.csv` in a data set's rows.
#[derive(Debug, Default)]
pub struct Truth {
    /// By user row, item row and time.
    recommendations: HashMap<(u32, u32, i64), TruthLabel>,
    /// By user row and time.
    searches: HashMap<(u32, i64), TruthLabel>,
}

impl Truth {
    /// Reads it for a data set with this catalogue, plain or gzipped. Events of users or items that the catalogue lacks
    /// are passed over.
    ///
    /// # Errors
    /// Names the file, and for a row its line and column.
    pub fn read(path: &Path, catalogue: &Catalogue) -> Result<Self, DatasetError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let log = Log::open(dir, name.strip_suffix(".gz").unwrap_or(&name), Progress::Hidden)?;
        let (user, event, item) = (log.column("user_id")?, log.column("event")?, log.column("item_id")?);
        let (time, label) = (log.column("timestamp")?, log.column("label")?);
        let mut truth = Self::default();
        log.each_row(&mut BadRows::new(0), |row| {
            let milliseconds = row.milliseconds(time)?;
            let name = row.text(label)?;
            let known = TruthLabel::ALL.into_iter().find(|known| known.name() == name);
            let what =
                known.ok_or_else(|| row.fault(label, format!("is {name:?}, must be similar, dissimilar or none")))?;
            let Some(user) = catalogue.users.row(row.id(user)?) else { return Ok(()) };
            match row.text(event)? {
                "search" => {
                    truth.searches.insert((user, milliseconds), what);
                }
                "recommendation" => {
                    if let Some(item) = catalogue.items.row(row.id(item)?) {
                        truth.recommendations.insert((user, item, milliseconds), what);
                    }
                }
                other => return Err(row.fault(event, format!("is {other:?}, must be search or recommendation"))),
            }
            Ok(())
        })?;
        Ok(truth)
    }

    /// What a recommendation click was; `None` if the truth doesn't know of it.
    pub fn recommendation(&self, user: u32, item: u32, time: i64) -> Option<TruthLabel> {
        self.recommendations.get(&(user, item, time)).copied()
    }

    /// What a search was.
    pub fn search(&self, user: u32, time: i64) -> Option<TruthLabel> {
        self.searches.get(&(user, time)).copied()
    }
}
