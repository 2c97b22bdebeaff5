//! The catalogue of a released model as CSV files.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use csv::Position;

use super::ConvertError;
use crate::{
    data::{Attribute, Catalogue, EntityTable, Tokenizer, WordLists, lines_before_row},
    model::{AttributeConfig, InputConfig, ModelConfig},
};

/// Reads `items.csv` (`item_id,id_row,<attribute>_row…`), `users.csv` (`user_id,…`), `queries.csv`
/// (`query_id,id_row,word_rows` with rows separated by spaces), `sources.csv` (`source,source_row`) and, where there is
/// one, `words.csv` (`word,word_row`), which is what lets query *text* find the model's words.
///
/// Rows of a table are consecutive: from 1 for items, queries and words, whose row 0 is padding, else from 0.
///
/// # Errors
/// Names the file, and the line where it is about one.
pub fn read_catalogue(dir: &Path, config: &ModelConfig) -> Result<Catalogue, ConvertError> {
    let InputConfig { item_attributes, user_attributes, query_features, .. } = config.inputs();
    // A model without queries has no word that a query of the catalogue could refer to wrongly.
    let word_rows = query_features.map_or(usize::MAX, |features| features.word_segs.rows);
    let (items, _) = Csv::open(dir, "items.csv")?.table(["item_id", "id_row"], 1, further(item_attributes))?;
    let (users, _) = Csv::open(dir, "users.csv")?.table(["user_id", "id_row"], 0, further(user_attributes))?;
    let (mut queries, words) = Csv::open(dir, "queries.csv")?.table(["query_id", "id_row"], 1, &[])?;
    let (sources, _) = Csv::open(dir, "sources.csv")?.table(["source", "source_row"], 0, &[])?;
    let word_texts = if dir.join("words.csv").exists() {
        Csv::open(dir, "words.csv")?.table(["word", "word_row"], 1, &[])?.0
    } else {
        EntityTable::padded()
    };
    queries.words = WordLists::padded();
    for (position, words) in words {
        let row = |word: &str| {
            let row = word.parse::<u32>().ok().filter(|&row| row > 0 && (row as usize) < word_rows);
            row.ok_or_else(|| {
                let message = format!("word_rows: {word:?} is no row of the word table (1 to {})", word_rows - 1);
                at(&dir.join("queries.csv"), &position, message)
            })
        };
        queries.words.push(&words.split_whitespace().map(row).collect::<Result<Vec<u32>, _>>()?);
    }
    Ok(Catalogue {
        items,
        users,
        queries,
        words: word_texts,
        sources,
        default_source: 0,
        tokenizer: Tokenizer::default(),
    })
}

/// The attributes besides the id.
fn further(attributes: &[AttributeConfig]) -> &[AttributeConfig] {
    attributes.get(1..).unwrap_or_default()
}

/// Something wrong with a row of a file, which the reader was at `position` before.
fn at(path: &Path, position: &Position, message: String) -> ConvertError {
    let line = position.line() + lines_from(path, position.byte()).unwrap_or(0);
    ConvertError::File { path: format!("{}:{line}", path.display()), message }
}

/// How many lines end between some byte of a file and the row that follows.
fn lines_from(path: &Path, from: u64) -> io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    Ok(lines_before_row(BufReader::new(file).bytes().map_while(Result::ok)))
}

struct Csv {
    path: PathBuf,
    headers: csv::StringRecord,
    reader: csv::Reader<File>,
}

/// A row of a table.
struct Entry {
    position: Position,
    row: u32,
    id: String,
    attributes: Vec<u32>,
    words: String,
}

impl Csv {
    fn open(dir: &Path, name: &str) -> Result<Self, ConvertError> {
        let path = dir.join(name);
        let mut reader = csv::Reader::from_path(&path).map_err(|error| ConvertError::file(&path, error))?;
        let headers = reader.headers().map_err(|error| ConvertError::file(&path, error))?.clone();
        Ok(Self { path, headers, reader })
    }

    fn column(&self, name: &str) -> Result<usize, ConvertError> {
        self.headers.iter().position(|header| header.trim() == name).ok_or_else(|| {
            let columns: Vec<&str> = self.headers.iter().collect();
            ConvertError::file(&self.path, format!("has no column {name:?}; it has {columns:?}"))
        })
    }

    /// The table by row, and per row its place in the file and its `word_rows` column (empty without one).
    fn table(
        mut self,
        [id, row]: [&str; 2],
        first_row: u32,
        attributes: &[AttributeConfig],
    ) -> Result<(EntityTable, Vec<(Position, String)>), ConvertError> {
        let (id, row) = (self.column(id)?, self.column(row)?);
        let columns = attributes.iter().map(|attribute| self.column(&format!("{}_row", attribute.name)));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let words = self.column("word_rows").ok();
        let mut entries = vec![];
        let mut record = csv::StringRecord::new();
        loop {
            let position = self.reader.position().clone();
            let more = self.reader.read_record(&mut record);
            let fail = |message: String| at(&self.path, &position, message);
            if !more.map_err(|error| fail(fault(error)))? {
                break;
            }
            let number = |column: usize| {
                let text = record.get(column).unwrap_or_default().trim();
                let name = self.headers.get(column).unwrap_or_default();
                text.parse::<u32>().map_err(|_| fail(format!("column {name}: {text:?} is no row number")))
            };
            let values = attributes.iter().zip(&columns).map(|(attribute, &column)| {
                let value = number(column)?;
                let rows = attribute.rows;
                let name = &attribute.name;
                if (value as usize) < rows {
                    Ok(value)
                } else {
                    Err(fail(format!("{name}_row is {value}; its table has {rows} rows")))
                }
            });
            entries.push(Entry {
                row: number(row)?,
                id: record.get(id).unwrap_or_default().to_owned(),
                attributes: values.collect::<Result<_, ConvertError>>()?,
                words: words.and_then(|column| record.get(column)).unwrap_or_default().to_owned(),
                position,
            });
        }
        self.assemble(entries, first_row, attributes)
    }

    fn assemble(
        &self,
        mut entries: Vec<Entry>,
        first_row: u32,
        attributes: &[AttributeConfig],
    ) -> Result<(EntityTable, Vec<(Position, String)>), ConvertError> {
        entries.sort_by_key(|entry| entry.row);
        let mut table = EntityTable { first_row, ..EntityTable::default() };
        // Padding has row 0 of every attribute, as in the release.
        let padding = vec![0; first_row as usize];
        let mut values = vec![padding; attributes.len()];
        let mut words = vec![];
        for (expected, entry) in (first_row..).zip(entries) {
            let fail = |message: String| at(&self.path, &entry.position, message);
            if entry.row != expected {
                return Err(fail(format!("row {} where {expected} is next: rows must be consecutive", entry.row)));
            }
            crate::domain::check_id(&entry.id).map_err(|error| fail(format!("the id {:?} {error}", entry.id)))?;
            if table.ids.insert(&entry.id) + first_row != expected {
                return Err(fail(format!("the id {:?} is listed twice", entry.id)));
            }
            values.iter_mut().zip(&entry.attributes).for_each(|(values, &value)| values.push(value));
            words.push((entry.position, entry.words));
        }
        table.attributes = attributes
            .iter()
            .zip(values)
            .map(|(attribute, values)| Attribute { name: attribute.name.clone(), rows: attribute.rows as u32, values })
            .collect();
        Ok((table, words))
    }
}

/// What is wrong with a row that can't be read, without the reader's own idea of where it is.
fn fault(error: csv::Error) -> String {
    match error.into_kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("the row has {len} fields, the header {expected_len}")
        }
        csv::ErrorKind::Utf8 { err, .. } => format!("is not UTF-8: {err}"),
        csv::ErrorKind::Io(error) => error.to_string(),
        kind => format!("{kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("words.csv"), text).unwrap();
        let table = Csv::open(dir.path(), "words.csv").unwrap().table(["word", "word_row"], 1, &[]);
        table.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_bad_row_is_named_by_the_line_that_it_begins_at() {
        for (row, reason) in [
            ("green,two,", "column word_row: \"two\" is no row number"),
            ("green,3,", "row 3 where 2 is next"),
            ("\"red\",2,", "is listed twice"),
            (",2,", "the id \"\" must not be empty"),
            ("green", "the row has 1 fields, the header 3"),
        ] {
            // The row before it has two lines.
            let text = format!("word,word_row,note\nred,1,\"a\nb\"\n{row}\nblue,3,\n");
            for (line_break, line) in [("\n", 4), ("\r\n", 4), ("\n\n\n", 10), ("\r\n\r\n", 7)] {
                let error = refusal(&text.replace('\n', line_break));
                assert!(error.contains(&format!("words.csv:{line}: ")) && error.contains(reason), "{error}");
            }
        }
    }
}
