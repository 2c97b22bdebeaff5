//! A data set on disk: the catalogue's files and
//!
//! | file | columns |
//! |---|---|
//! | `recommendations.parquet` | `user_row`, `item_row` uint32, `time` timestamp\[ms, UTC\], `split` train / validation / test |
//! | `searches.parquet` | `user_row` uint32, `search_id` string, `time`, `query_row`, `source_row` uint32, `clicked_item_rows` list\<uint32\> |
//! | `attribute_values.parquet` | `table`, `attribute` string, `row` uint32, `value` string: what the catalogue's attribute rows mean |
//! | `dataset.json` | format version, statistics, what the import left out, a checksum per file |
//!
//! Both tables are sorted by user, then time, then their order in the logs. `split` follows from the order; it is
//! there for readers besides this program.

use std::{collections::BTreeMap, fs, io, ops::Range, path::Path, sync::Arc};

use arrow_array::{ArrayRef, StringArray, TimestampMillisecondArray};
use arrow_schema::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};

use super::{
    Catalogue, Dataset, DatasetError, Existing, FileChecksum, Split, StagedDirectory, Statistics, Vocabulary,
    catalogue_io::{check_version, write_json},
    parquet_io::{BATCH_ROWS, TableReader, TableWriter, field, list_column, list_field, u32_column},
};

/// The newest format of a data set that this program reads, and the one that it writes.
pub const DATASET_FORMAT_VERSION: u32 = 1;

/// What a data set's directory is known by.
pub const DATASET_MANIFEST: &str = "dataset.json";
const RECOMMENDATIONS: &str = "recommendations.parquet";
const SEARCHES: &str = "searches.parquet";
const ATTRIBUTE_VALUES: &str = "attribute_values.parquet";

/// What things are called in the logs that a [`Dataset`] only numbers: needed by readers of the files, not in memory.
#[derive(Debug, Default)]
pub struct LogNames {
    /// Distinct ids of searches; users may share one.
    pub search_ids: Vocabulary,
    /// The number in `search_ids` by search, in the data set's order.
    pub by_search: Vec<u32>,
    /// Values of all attributes.
    pub attributes: Vec<AttributeValues>,
}

/// What the rows of an attribute mean.
#[derive(Debug)]
pub struct AttributeValues {
    /// "items" or "users".
    pub table: &'static str,
    /// The attribute's name.
    pub attribute: String,
    /// The value of row 1, 2, ...; row 0 is unknown.
    pub values: Vocabulary,
}

/// `dataset.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format_version: u32,
    statistics: Statistics,
    /// What the import read and left out, for people.
    import: serde_json::Value,
    checksum: String,
    files: BTreeMap<String, FileChecksum>,
}

impl Dataset {
    /// Reads what [`Self::write`] wrote, and checks every file against its checksum.
    ///
    /// # Errors
    /// Names the file that is missing, changed, of a newer format or inconsistent.
    pub fn read(dir: &Path) -> Result<Self, DatasetError> {
        let path = dir.join(DATASET_MANIFEST);
        let json = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = "is no data set (it has no dataset.json): make one with `sesrec import`";
                return Err(DatasetError::format(dir, message));
            }
            json => json.map_err(DatasetError::io(&path))?,
        };
        check_version(&path, &json, DATASET_FORMAT_VERSION)?;
        let manifest: Manifest =
            serde_json::from_slice(&json).map_err(|error| DatasetError::format(&path, error.to_string()))?;
        for (name, expected) in &manifest.files {
            let file = dir.join(name);
            if FileChecksum::of(&file).map_err(DatasetError::io(&file))? != *expected {
                let message = "has changed since the import (its checksum differs): import again";
                return Err(DatasetError::format(&file, message));
            }
        }
        if checksum(&manifest.files) != manifest.checksum {
            return Err(DatasetError::format(&path, "checksum doesn't fit the files' checksums: import again"));
        }
        let catalogue = Arc::new(Catalogue::read(dir)?);
        let mut dataset = Self::empty(catalogue);
        dataset.checksum = manifest.checksum;
        dataset.read_recommendations(&dir.join(RECOMMENDATIONS))?;
        dataset.read_searches(&dir.join(SEARCHES))?;
        dataset.count();
        if dataset.statistics != manifest.statistics {
            return Err(DatasetError::format(&path, "statistics don't fit the tables: import again"));
        }
        Ok(dataset)
    }

    /// Writes the data set to `dir`, whole or not at all, and takes over the checksum. `import` says where it is from
    /// and what was left out; it is recorded as it is.
    ///
    /// # Errors
    /// If `dir` exists and may not be replaced, or can't be written.
    pub fn write(
        &mut self,
        dir: &Path,
        existing: Existing,
        names: &LogNames,
        import: &impl Serialize,
    ) -> Result<(), DatasetError> {
        let staged = StagedDirectory::begin(dir, DATASET_MANIFEST, existing)?;
        self.catalogue.write(staged.path())?;
        self.write_recommendations(&staged.path().join(RECOMMENDATIONS))?;
        self.write_searches(&staged.path().join(SEARCHES), names)?;
        write_attribute_values(&staged.path().join(ATTRIBUTE_VALUES), &names.attributes)?;
        let mut files = BTreeMap::new();
        for name in Catalogue::FILES.into_iter().chain([RECOMMENDATIONS, SEARCHES, ATTRIBUTE_VALUES]) {
            let path = staged.path().join(name);
            files.insert(name.to_owned(), FileChecksum::of(&path).map_err(DatasetError::io(&path))?);
        }
        self.checksum = checksum(&files);
        let path = staged.path().join(DATASET_MANIFEST);
        let manifest = Manifest {
            format_version: DATASET_FORMAT_VERSION,
            statistics: self.statistics,
            import: serde_json::to_value(import).map_err(|error| DatasetError::format(&path, error.to_string()))?,
            checksum: self.checksum.clone(),
            files,
        };
        write_json(&path, &manifest)?;
        staged.commit()
    }

    /// Without interactions yet.
    pub fn empty(catalogue: Arc<Catalogue>) -> Self {
        Self {
            catalogue,
            statistics: Statistics::default(),
            checksum: String::new(),
            columns: Arc::default(),
            validation_learned: false,
        }
    }

    /// Brings the statistics up to date.
    pub(super) fn count(&mut self) {
        self.statistics = Statistics {
            users: self.catalogue.users.ids.len() as u64,
            items: self.catalogue.items.ids.len() as u64,
            queries: self.catalogue.queries.ids.len() as u64,
            actions_search: self.columns.src_times.len() as u64,
            actions_recommendation: self.columns.rec_times.len() as u64,
        };
    }

    fn read_recommendations(&mut self, path: &Path) -> Result<(), DatasetError> {
        let (catalogue, columns) = (&self.catalogue, Arc::make_mut(&mut self.columns));
        let mut users = UserRows::new(catalogue.users.ids.len());
        let mut reader = TableReader::open(path.to_owned())?;
        while let Some(rows) = reader.next()? {
            let (user_rows, item_rows, times) = (rows.u32s("user_row")?, rows.u32s("item_row")?, rows.times("time")?);
            for n in 0..rows.len() {
                users.push(user_rows.value(n), times.value(n)).map_err(|m| DatasetError::format(path, m))?;
                check_row(path, "item_row", item_rows.value(n), 1..catalogue.items.rows())?;
            }
            columns.rec_items.extend(item_rows.values());
            columns.rec_times.extend(times.values());
        }
        columns.rec_ends = users.finish();
        Ok(())
    }

    fn read_searches(&mut self, path: &Path) -> Result<(), DatasetError> {
        let (catalogue, columns) = (&self.catalogue, Arc::make_mut(&mut self.columns));
        let mut users = UserRows::new(catalogue.users.ids.len());
        let mut reader = TableReader::open(path.to_owned())?;
        while let Some(rows) = reader.next()? {
            let (user_rows, times, clicks) =
                (rows.u32s("user_row")?, rows.times("time")?, rows.lists("clicked_item_rows")?);
            let (queries, sources) = (rows.u32s("query_row")?, rows.u32s("source_row")?);
            for n in 0..rows.len() {
                users.push(user_rows.value(n), times.value(n)).map_err(|m| DatasetError::format(path, m))?;
                check_row(path, "query_row", queries.value(n), 1..catalogue.queries.rows())?;
                check_row(path, "source_row", sources.value(n), 0..catalogue.sources.rows())?;
                for &item in clicks.get(n) {
                    check_row(path, "clicked_item_rows", item, 1..catalogue.items.rows())?;
                }
                columns.clicks.extend(clicks.get(n));
                columns.click_ends.push(columns.clicks.len() as u64);
            }
            columns.src_times.extend(times.values());
            columns.src_queries.extend(queries.values());
            columns.src_sources.extend(sources.values());
        }
        columns.src_ends = users.finish();
        Ok(())
    }

    fn write_recommendations(&self, path: &Path) -> Result<(), DatasetError> {
        let fields = vec![
            field("user_row", DataType::UInt32),
            field("item_row", DataType::UInt32),
            field("time", time_type()),
            field("split", DataType::Utf8),
        ];
        let mut writer = TableWriter::create(path.to_owned(), fields)?;
        let (mut users, mut splits): (Vec<u32>, Vec<&str>) = (vec![], vec![]);
        let mut start = 0;
        let mut flush = |users: &mut Vec<u32>, splits: &mut Vec<&str>| {
            let rows = start..start + users.len();
            start = rows.end;
            writer.write(vec![
                u32_column(users.drain(..)),
                u32_column(self.columns.rec_items[rows.clone()].iter().copied()),
                time_column(&self.columns.rec_times[rows]),
                Arc::new(StringArray::from_iter_values(splits.drain(..))),
            ])
        };
        for user in 0..self.users() as u32 {
            let interactions = self.recommendations(user).len();
            for position in 0..interactions {
                users.push(user);
                splits.push(Split::of(position, interactions).name());
                if users.len() == BATCH_ROWS {
                    flush(&mut users, &mut splits)?;
                }
            }
        }
        flush(&mut users, &mut splits)?;
        writer.close()
    }

    fn write_searches(&self, path: &Path, names: &LogNames) -> Result<(), DatasetError> {
        if names.by_search.len() != self.columns.src_times.len() {
            let (ids, searches) = (names.by_search.len(), self.columns.src_times.len());
            return Err(DatasetError::format(path, format!("{ids} search ids for {searches} searches")));
        }
        let fields = vec![
            field("user_row", DataType::UInt32),
            field("search_id", DataType::Utf8),
            field("time", time_type()),
            field("query_row", DataType::UInt32),
            field("source_row", DataType::UInt32),
            list_field("clicked_item_rows"),
        ];
        let mut writer = TableWriter::create(path.to_owned(), fields)?;
        let mut user = 0;
        for start in (0..self.columns.src_times.len()).step_by(BATCH_ROWS) {
            let rows = start..self.columns.src_times.len().min(start + BATCH_ROWS);
            let users = rows.clone().map(|n| {
                while self.columns.src_ends[user] <= n as u64 {
                    user += 1;
                }
                user as u32
            });
            let users = u32_column(users);
            let ids = names.by_search[rows.clone()].iter().map(|&id| names.search_ids.name(id).unwrap_or_default());
            writer.write(vec![
                users,
                Arc::new(StringArray::from_iter_values(ids)),
                time_column(&self.columns.src_times[rows.clone()]),
                u32_column(self.columns.src_queries[rows.clone()].iter().copied()),
                u32_column(self.columns.src_sources[rows.clone()].iter().copied()),
                list_column(rows.map(|n| self.clicked(n))),
            ])?;
        }
        writer.close()
    }
}

fn write_attribute_values(path: &Path, attributes: &[AttributeValues]) -> Result<(), DatasetError> {
    let fields = vec![
        field("table", DataType::Utf8),
        field("attribute", DataType::Utf8),
        field("row", DataType::UInt32),
        field("value", DataType::Utf8),
    ];
    let mut writer = TableWriter::create(path.to_owned(), fields)?;
    for AttributeValues { table, attribute, values } in attributes {
        let count = values.len() as u32;
        for start in (0..count).step_by(BATCH_ROWS) {
            let numbers = start..count.min(start.saturating_add(BATCH_ROWS as u32));
            writer.write(vec![
                Arc::new(StringArray::from_iter_values(numbers.clone().map(|_| table))),
                Arc::new(StringArray::from_iter_values(numbers.clone().map(|_| attribute))),
                u32_column(numbers.clone().map(|number| number + 1)),
                Arc::new(StringArray::from_iter_values(numbers.map(|n| values.name(n).unwrap_or_default()))),
            ])?;
        }
    }
    writer.close()
}

/// Rows that come sorted by user, then time: checks that, and notes where each user ends.
pub(super) struct UserRows {
    users: usize,
    ends: Vec<u64>,
    rows: u64,
    newest: i64,
}

impl UserRows {
    pub fn new(users: usize) -> Self {
        Self { users, ends: Vec::with_capacity(users), rows: 0, newest: i64::MIN }
    }

    pub fn push(&mut self, user: u32, time: i64) -> Result<(), String> {
        let row = self.rows;
        if user as usize >= self.users {
            return Err(format!("row {row}: user_row {user} is not a row of users.parquet"));
        }
        if user as usize > self.ends.len() {
            self.ends.resize(user as usize, row);
            self.newest = i64::MIN;
        }
        if (user as usize) < self.ends.len() || time < self.newest {
            return Err(format!("row {row}: rows must be sorted by user_row, then time"));
        }
        self.newest = time;
        self.rows += 1;
        Ok(())
    }

    pub fn finish(mut self) -> Vec<u64> {
        self.ends.resize(self.users, self.rows);
        self.ends
    }
}

fn check_row(path: &Path, column: &str, row: u32, valid: Range<usize>) -> Result<(), DatasetError> {
    if valid.contains(&(row as usize)) {
        return Ok(());
    }
    Err(DatasetError::format(path, format!("{column} {row} is not a row of the catalogue ({valid:?})")))
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

fn time_column(times: &[i64]) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(times.iter().copied()).with_timezone("UTC"))
}

/// Over names and checksums, so that it changes with any byte of any file.
fn checksum(files: &BTreeMap<String, FileChecksum>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, file) in files {
        hasher.update(format!("{name} {}\n", file.blake3).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
