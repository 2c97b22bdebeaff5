//! One CSV file, streamed row by row; whatever is wrong with a row is told by file, line and column.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    rc::Rc,
    time::Instant,
};

use csv::ByteRecord;
use flate2::read::MultiGzDecoder;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::{
    data::{DatasetError, NoText, Progress, lines_before_row},
    domain::MAX_ID_BYTES,
};

/// Rows between two updates of the progress bar's text.
const ROWS_PER_UPDATE: u64 = 1 << 14;
/// Bad rows that are kept for the report.
const BAD_ROW_EXAMPLES: usize = 10;
/// A row with more bytes or more lines than this is no row: a quote that nobody closes has swallowed what follows it.
const MAX_ROW_BYTES: usize = 64 << 10;
const MAX_ROW_LINES: usize = 100;
/// What is read for one row at most before it is given up: what bounds the memory that such a row takes. More than the
/// above by far, because the reader fills its buffer in large steps.
const MAX_BYTES_READ_FOR_ROW: usize = 1 << 20;

/// What is wrong with a row.
pub(in crate::data) struct Fault {
    pub column: String,
    pub message: String,
}

/// Rows that can't be used: how many there may be, and what they were. Beside them those that can, and go on over
/// several lines: what an open quote has swallowed looks like one of them.
#[derive(Debug)]
pub(in crate::data) struct BadRows {
    allowed: u64,
    pub count: u64,
    pub examples: Vec<String>,
    pub spread: SpreadRows,
}

/// Rows on more than one line.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct SpreadRows {
    /// How many.
    pub rows: u64,
    /// Their lines besides the first.
    pub further_lines: u64,
    /// Where the longest begins, as `file:line`.
    pub longest: Option<String>,
    #[serde(skip)]
    longest_lines: usize,
}

impl SpreadRows {
    fn note(&mut self, path: &Path, line: u64, further_lines: usize) {
        self.rows += 1;
        self.further_lines += further_lines as u64;
        if further_lines > self.longest_lines {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            (self.longest, self.longest_lines) = (Some(format!("{name}:{line}")), further_lines);
        }
    }
}

impl BadRows {
    pub fn new(allowed: u64) -> Self {
        Self { allowed, count: 0, examples: vec![], spread: SpreadRows::default() }
    }

    /// Notes a bad row, or gives it back as an error when there have been too many.
    fn tolerate(&mut self, row: DatasetError) -> Result<(), DatasetError> {
        if self.count == self.allowed {
            return Err(row);
        }
        self.count += 1;
        if self.examples.len() < BAD_ROW_EXAMPLES {
            self.examples.push(row.to_string());
        }
        Ok(())
    }
}

/// A log file.
pub(in crate::data) struct Log {
    path: PathBuf,
    reader: csv::Reader<RowLimit>,
    header: Vec<String>,
    header_line: u64,
    row: Rc<RefCell<RowBytes>>,
    bar: ProgressBar,
}

/// What was read of the input since the present row began, or the line breaks before it.
#[derive(Default)]
struct RowBytes {
    bytes: Vec<u8>,
    /// Where in the input they begin.
    offset: u64,
    /// Where the present row begins, or the line breaks before it do.
    row: u64,
}

impl RowBytes {
    /// A row begins here, or after line breaks: the ones before it are used up.
    fn begin(&mut self, row: u64) {
        self.row = row;
    }

    /// Adds what was read, and drops what belongs to earlier rows.
    fn extend(&mut self, bytes: &[u8]) {
        let earlier = self.earlier();
        self.bytes.drain(..earlier);
        self.offset = self.row;
        self.bytes.extend_from_slice(bytes);
    }

    /// How many of the bytes belong to earlier rows.
    fn earlier(&self) -> usize {
        (self.row - self.offset) as usize
    }

    /// How many belong to the present one, and to those after it that were read with it.
    fn len(&self) -> usize {
        self.bytes.len() - self.earlier()
    }

    /// The line that the present row begins at, where the reader was at line `reader` before it.
    fn line(&self, reader: u64) -> u64 {
        reader + lines_before_row(self.bytes[self.earlier()..].iter().copied())
    }
}

/// What [`RowLimit`] fails with.
#[derive(Debug, thiserror::Error)]
#[error("a row without an end")]
struct RowWithoutEnd;

/// Ends in an error where a row has no end.
struct RowLimit {
    input: Box<dyn Read>,
    row: Rc<RefCell<RowBytes>>,
}

impl Read for RowLimit {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The reader asks for more when it has used up all that it was given: all of it is of one row.
        if self.row.borrow().len() > MAX_BYTES_READ_FOR_ROW {
            return Err(io::Error::new(io::ErrorKind::InvalidData, RowWithoutEnd));
        }
        let read = self.input.read(buffer)?;
        self.row.borrow_mut().extend(&buffer[..read]);
        Ok(read)
    }
}

impl Log {
    /// Opens `name` or `name.gz` in `dir`.
    pub fn open(dir: &Path, name: &str, progress: Progress) -> Result<Self, DatasetError> {
        let (plain, zipped) = (dir.join(name), dir.join(format!("{name}.gz")));
        let path = match (plain.is_file(), zipped.is_file()) {
            (true, false) => plain,
            (false, true) => zipped,
            (true, true) => {
                let message = format!("has both {name} and {name}.gz: remove the one that is not meant");
                return Err(DatasetError::format(dir, message));
            }
            (false, false) => {
                let message = match dir.metadata() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => "there is no such directory".to_owned(),
                    Ok(found) if !found.is_dir() => "is not a directory".to_owned(),
                    _ => format!("has no {name} (or {name}.gz)"),
                };
                return Err(DatasetError::format(dir, message));
            }
        };
        let file = File::open(&path).map_err(DatasetError::io(&path))?;
        let bytes = file.metadata().map_err(DatasetError::io(&path))?.len();
        let bar = progress_bar(name, bytes, progress);
        let file = bar.wrap_read(file);
        let input: Box<dyn Read> = match path.extension() {
            Some(extension) if extension == "gz" => Box::new(MultiGzDecoder::new(io::BufReader::new(file))),
            _ => Box::new(file),
        };
        let row = Rc::new(RefCell::new(RowBytes::default()));
        let input = RowLimit { input, row: Rc::clone(&row) };
        let mut reader = csv::ReaderBuilder::new().flexible(true).buffer_capacity(1 << 17).from_reader(input);
        let header = reader.byte_headers().cloned();
        let (no_text, header_line) = (NoText::of(&row.borrow().bytes), row.borrow().line(1));
        // Before anything is said of columns, which would be binary.
        match no_text {
            Some(NoText::Gzip) if path.extension().is_some_and(|extension| extension == "gz") => {
                return Err(DatasetError::format(&path, "is compressed twice: decompress it once"));
            }
            Some(NoText::Gzip) => return Err(DatasetError::format(&path, format!("is gzip: name it {name}.gz"))),
            Some(NoText::Utf16) => return Err(DatasetError::format(&path, "is UTF-16: save it as UTF-8")),
            None => {}
        }
        let header = header.map_err(|error| unreadable(&path, header_line, error))?;
        let header: Vec<String> = header
            .iter()
            .map(|name| String::from_utf8_lossy(name).trim_start_matches('\u{feff}').trim().to_owned())
            .collect();
        Ok(Self { path, reader, header, header_line, row, bar })
    }

    /// The names of all columns.
    pub fn columns(&self) -> &[String] {
        &self.header
    }

    /// Where a column is. Of two with its name, nobody knows which one is meant.
    pub fn column(&self, name: &str) -> Result<usize, DatasetError> {
        let mut places = (0..self.header.len()).filter(|&place| self.header[place] == name);
        let message = match (places.next(), places.next()) {
            (Some(place), None) => return Ok(place),
            (None, _) => {
                // Escaped: a terminal obeys what a broken file may hold.
                let columns: Vec<String> = self.header.iter().map(|name| name.escape_debug().to_string()).collect();
                format!("has no column {name}; its columns are: {}", columns.join(", "))
            }
            (Some(_), Some(_)) => {
                format!("line {}: has two columns {name}: remove or rename the one that is not meant", self.header_line)
            }
        };
        Err(DatasetError::format(&self.path, message))
    }

    /// An error about the file as a whole.
    pub fn error(&self, message: String) -> DatasetError {
        DatasetError::format(&self.path, message)
    }

    /// Gives every row to `take`; rows that it finds a fault with are `bad`. Returns how many rows there were.
    pub fn each_row(
        mut self,
        bad: &mut BadRows,
        mut take: impl FnMut(Row<'_>) -> Result<(), Fault>,
    ) -> Result<u64, DatasetError> {
        let started = Instant::now();
        let mut record = ByteRecord::new();
        let mut rows = 0u64;
        loop {
            let before = self.reader.position().clone();
            self.row.borrow_mut().begin(before.byte());
            // Looked for where there is something to tell: few rows have that.
            let line = || self.row.borrow().line(before.line());
            match self.reader.read_byte_record(&mut record) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(unreadable(&self.path, line(), error)),
            }
            rows += 1;
            let text = record.as_slice();
            let further_lines = text.iter().filter(|&&byte| byte == b'\n').count();
            if text.len() > MAX_ROW_BYTES || further_lines >= MAX_ROW_LINES {
                return Err(endless(&self.path, line()));
            }
            if rows.is_multiple_of(ROWS_PER_UPDATE) {
                let rate = rows as f64 / started.elapsed().as_secs_f64().max(1e-3);
                self.bar.set_message(format!("{} rows, {}/s", HumanCount(rows), HumanCount(rate as u64)));
            }
            let row = Row { record: &record, header: &self.header };
            let taken = row.check_width().and_then(|()| take(row));
            if let Err(Fault { column, message }) = taken {
                let line = line();
                if further_lines > 0 {
                    // To skip it would be to lose rows that nobody counts.
                    let message = format!(
                        "line {line}: column {column}: {message}; the row goes on for {further_lines} more lines, so it \
                         can't be skipped: close the quote (\") that is open, or put the row on one line"
                    );
                    return Err(DatasetError::format(&self.path, message));
                }
                bad.tolerate(DatasetError::Row { path: self.path.clone(), line, column, message })?;
            } else if further_lines > 0 {
                bad.spread.note(&self.path, line(), further_lines);
            }
        }
        self.bar.finish_and_clear();
        Ok(rows)
    }
}

/// One row, not yet parsed.
#[derive(Clone, Copy)]
pub(in crate::data) struct Row<'a> {
    record: &'a ByteRecord,
    header: &'a [String],
}

impl<'a> Row<'a> {
    fn check_width(self) -> Result<(), Fault> {
        let (found, wanted) = (self.record.len(), self.header.len());
        if found == wanted {
            return Ok(());
        }
        let column = self.header.get(found).or(self.header.last()).cloned().unwrap_or_default();
        Err(Fault { column, message: format!("the row has {found} fields, the header {wanted}") })
    }

    /// A column's text, without the blanks around it.
    pub fn text(self, column: usize) -> Result<&'a str, Fault> {
        let text = std::str::from_utf8(&self.record[column]).map_err(|_| self.fault(column, "is not UTF-8"))?;
        Ok(text.trim())
    }

    /// An identifier: the same rules as in the service, or it could be imported and never be asked for.
    pub fn id(self, column: usize) -> Result<&'a str, Fault> {
        let id = self.text(column)?;
        if id.is_empty() {
            Err(self.fault(column, "is empty"))
        } else if id.len() > MAX_ID_BYTES {
            Err(self.fault(column, format!("is {} bytes long; at most {MAX_ID_BYTES} are allowed", id.len())))
        } else if id.chars().any(char::is_control) {
            Err(self.fault(column, "contains a control character"))
        } else {
            Ok(id)
        }
    }

    /// Milliseconds since 1970, also written as a float (`1.684742e+12`, as KuaiSAR has it).
    pub fn milliseconds(self, column: usize) -> Result<i64, Fault> {
        /// What nanoseconds can hold, see `domain::EventTime`: the year 2262.
        const NEWEST: i64 = i64::MAX / 1_000_000;
        let text = self.text(column)?;
        let time = match text.parse::<i64>() {
            Ok(time) => time,
            Err(_) => match text.parse::<f64>() {
                Ok(time) if time.is_finite() => time.round() as i64,
                _ => return Err(self.fault(column, format!("is {text:?}, not a time in milliseconds since 1970"))),
            },
        };
        if (0..=NEWEST).contains(&time) {
            Ok(time)
        } else {
            Err(self.fault(column, format!("is {text}: times must lie between 1970 and 2262, in milliseconds")))
        }
    }

    /// Whether a 0 or 1 is 1.
    pub fn flag(self, column: usize) -> Result<bool, Fault> {
        match self.text(column)? {
            "0" | "0.0" => Ok(false),
            "1" | "1.0" => Ok(true),
            other => Err(self.fault(column, format!("is {other:?}, must be 0 or 1"))),
        }
    }

    /// Whether a count is more than zero.
    pub fn positive(self, column: usize) -> Result<bool, Fault> {
        let text = self.text(column)?;
        match text.parse::<f64>() {
            Ok(count) if count.is_finite() && count >= 0.0 => Ok(count > 0.0),
            _ => Err(self.fault(column, format!("is {text:?}, not a count"))),
        }
    }

    /// Something wrong with a column's value.
    pub fn fault(self, column: usize, message: impl Into<String>) -> Fault {
        Fault { column: self.header[column].clone(), message: message.into() }
    }
}

fn unreadable(path: &Path, line: u64, error: csv::Error) -> DatasetError {
    match error.into_kind() {
        csv::ErrorKind::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            DatasetError::format(path, format!("is cut short ({source}): copy it again"))
        }
        csv::ErrorKind::Io(source) if source.get_ref().is_some_and(|inner| inner.is::<RowWithoutEnd>()) => {
            endless(path, line)
        }
        csv::ErrorKind::Io(source) => DatasetError::Io { path: path.to_owned(), source },
        kind => DatasetError::format(path, format!("line {line}: {kind:?}")),
    }
}

/// A row that never ends is not one bad row but the loss of all that it swallowed: it is never skipped.
fn endless(path: &Path, line: u64) -> DatasetError {
    let message = format!(
        "line {line}: the row that begins here goes on for more than {} KiB or {MAX_ROW_LINES} lines: close the quote \
         (\") if one is open in it, or else shorten the row. Such a row is never skipped: it may hold good ones",
        MAX_ROW_BYTES >> 10
    );
    DatasetError::format(path, message)
}

fn progress_bar(name: &str, bytes: u64, progress: Progress) -> ProgressBar {
    if progress == Progress::Hidden {
        return ProgressBar::hidden();
    }
    // Drawn to stderr, and only where that is a terminal.
    let style = ProgressStyle::with_template("{prefix:>18} [{bar:32}] {bytes}/{total_bytes} {msg} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style.progress_chars("=> ")).with_prefix(name.to_owned())
}
