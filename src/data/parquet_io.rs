//! Parquet tables, written and read a batch at a time, with errors that name the file, the column and the row.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, ListArray, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array,
    builder::{ListBuilder, UInt32Builder},
};
use arrow_schema::{DataType, Field, Schema};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

use super::DatasetError;

/// Rows that are in memory at a time, writing and reading: some megabytes, whatever the table's size.
pub(super) const BATCH_ROWS: usize = 65_536;

impl DatasetError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn format(path: &Path, message: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), message: message.into() }
    }
}

/// A table being written.
pub(super) struct TableWriter {
    path: PathBuf,
    writer: ArrowWriter<File>,
    schema: Arc<Schema>,
}

impl TableWriter {
    /// Creates the file.
    pub fn create(path: PathBuf, fields: Vec<Field>) -> Result<Self, DatasetError> {
        let file = File::create(&path).map_err(DatasetError::io(&path))?;
        let schema = Arc::new(Schema::new(fields));
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let writer =
            ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(|error| unwritable(&path, error))?;
        Ok(Self { path, writer, schema })
    }

    /// Appends rows: one array per field.
    pub fn write(&mut self, columns: Vec<ArrayRef>) -> Result<(), DatasetError> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| DatasetError::format(&self.path, error.to_string()))?;
        self.writer.write(&batch).map_err(|error| unwritable(&self.path, error))
    }

    /// Writes the footer and waits until the file is on disk.
    pub fn close(self) -> Result<(), DatasetError> {
        let file = self.writer.into_inner().map_err(|error| unwritable(&self.path, error))?;
        file.sync_all().map_err(DatasetError::io(&self.path))
    }
}

/// A table being read, batch by batch.
pub(super) struct TableReader {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    rows: u64,
}

impl TableReader {
    /// Opens a file and reads its footer.
    pub fn open(path: PathBuf) -> Result<Self, DatasetError> {
        let file = File::open(&path).map_err(DatasetError::io(&path))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(&path, error))?;
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| unreadable(&path, error))?;
        Ok(Self { path, reader, rows })
    }

    /// How many rows the footer promises.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The next rows, or `None` at the end.
    pub fn next(&mut self) -> Result<Option<Rows>, DatasetError> {
        let batch =
            self.reader.next().transpose().map_err(|error| DatasetError::format(&self.path, error.to_string()))?;
        Ok(batch.map(|batch| Rows { path: self.path.clone(), batch }))
    }
}

/// Some rows of a table.
pub(super) struct Rows {
    path: PathBuf,
    batch: RecordBatch,
}

impl Rows {
    /// How many.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// A column of numbers.
    pub fn u32s(&self, name: &str) -> Result<&UInt32Array, DatasetError> {
        self.column(name, "uint32")
    }

    /// A column of times.
    pub fn times(&self, name: &str) -> Result<&TimestampMillisecondArray, DatasetError> {
        self.column(name, "timestamp[ms, UTC]")
    }

    /// A column of text.
    pub fn strings(&self, name: &str) -> Result<&StringArray, DatasetError> {
        self.column(name, "string")
    }

    /// A column of lists of numbers.
    pub fn lists(&self, name: &str) -> Result<Lists<'_>, DatasetError> {
        let lists: &ListArray = self.column(name, "list<uint32>")?;
        let values = lists.values().as_any().downcast_ref::<UInt32Array>();
        match values {
            Some(values) if values.null_count() == 0 => Ok(Lists { offsets: lists.value_offsets(), values }),
            Some(_) => Err(DatasetError::format(&self.path, format!("column {name} has empty values in its lists"))),
            None => Err(self.wrong_type(name, "list<uint32>", lists.data_type())),
        }
    }

    fn column<A: Array + 'static>(&self, name: &str, wanted: &str) -> Result<&A, DatasetError> {
        let Some(column) = self.batch.column_by_name(name) else {
            return Err(DatasetError::format(&self.path, format!("has no column {name} ({wanted})")));
        };
        if column.null_count() > 0 {
            return Err(DatasetError::format(&self.path, format!("column {name} has empty values")));
        }
        column.as_any().downcast_ref().ok_or_else(|| self.wrong_type(name, wanted, column.data_type()))
    }

    fn wrong_type(&self, name: &str, wanted: &str, found: &DataType) -> DatasetError {
        DatasetError::format(&self.path, format!("column {name} holds {found}, not {wanted}"))
    }
}

/// A column of lists.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    offsets: &'a [i32],
    values: &'a UInt32Array,
}

impl<'a> Lists<'a> {
    /// The list of a row.
    pub fn get(&self, row: usize) -> &'a [u32] {
        &self.values.values()[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }
}

/// A field that is never empty.
pub(super) fn field(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, false)
}

/// The field of a column of lists, as [`list_column`] fills it.
pub(super) fn list_field(name: &str) -> Field {
    field(name, DataType::List(element()))
}

/// A column of lists.
pub(super) fn list_column<'a>(lists: impl Iterator<Item = &'a [u32]>) -> ArrayRef {
    let mut builder = ListBuilder::new(UInt32Builder::new()).with_field(element());
    for list in lists {
        builder.values().append_slice(list);
        builder.append(true);
    }
    Arc::new(builder.finish())
}

/// A column of numbers.
pub(super) fn u32_column(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(UInt32Array::from_iter_values(values))
}

fn element() -> Arc<Field> {
    Arc::new(field("element", DataType::UInt32))
}

fn unreadable(path: &Path, error: ParquetError) -> DatasetError {
    failed(path, "is not a readable Parquet file", error)
}

/// A full disk, most often.
fn unwritable(path: &Path, error: ParquetError) -> DatasetError {
    failed(path, "can't be written", error)
}

fn failed(path: &Path, how: &str, error: ParquetError) -> DatasetError {
    match error {
        ParquetError::External(error) => match error.downcast::<std::io::Error>() {
            Ok(source) => DatasetError::Io { path: path.to_owned(), source: *source },
            Err(error) => DatasetError::format(path, error.to_string()),
        },
        error => DatasetError::format(path, format!("{how}: {error}")),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_unreadable_file() {
        let fields = vec![field("row", DataType::UInt32)];
        let mut table = TableWriter::create("/dev/full".into(), fields).unwrap();
        table.write(vec![u32_column(0..3)]).unwrap();
        let refused = table.close().unwrap_err().to_string();
        assert!(refused.contains("/dev/full: ") && refused.contains("No space left"), "{refused}");
        assert!(!refused.contains("readable"), "{refused}");
    }
}
