//! The catalogue on disk: five Parquet tables and `catalogue.json`, the same in a data set and in a model bundle.
//!
//! | file | columns |
//! |---|---|
//! | `items.parquet`, `users.parquet`, `words.parquet`, `sources.parquet` | `row` uint32, `id` string, `<attribute>_row` uint32 … |
//! | `queries.parquet`, and `items.parquet` where items have captions | the same, and `word_rows` list\<uint32\> |
//! | `catalogue.json` | format version, tokenizer, default source, per table its rows and attributes |
//!
//! A table holds its ids in row order; padding (row 0 of items, queries and words) is not among them.

use std::{fs, path::Path, sync::Arc};

use arrow_array::{ArrayRef, StringArray};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};

use super::{
    Attribute, Catalogue, DatasetError, EntityTable, Tokenizer, WordLists,
    parquet_io::{BATCH_ROWS, TableReader, TableWriter, field, list_column, list_field, u32_column},
};
use crate::files;

/// The newest format of the catalogue's files that this program reads, and the one that it writes.
pub const CATALOGUE_FORMAT_VERSION: u32 = 1;

/// `catalogue.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    format_version: u32,
    tokenizer: Tokenizer,
    /// By name, for readers; `default_source_row` is what counts.
    default_source: Option<String>,
    default_source_row: u32,
    items: TableDescription,
    users: TableDescription,
    queries: TableDescription,
    words: TableDescription,
    sources: TableDescription,
}

#[derive(Debug, Serialize, Deserialize)]
struct TableDescription {
    /// Rows of the embedding table over the ids, padding included.
    rows: u64,
    attributes: Vec<AttributeDescription>,
    /// Whether there are `word_rows`. Files of earlier versions don't say: of these, queries have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    words: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AttributeDescription {
    name: String,
    rows: u32,
}

/// Row 0 is padding in these tables, a real row in the others.
const PADDED: u32 = 1;
const NOT_PADDED: u32 = 0;

impl Catalogue {
    /// The files that [`Self::write`] makes and [`Self::read`] needs.
    pub const FILES: [&'static str; 6] =
        ["catalogue.json", "items.parquet", "users.parquet", "queries.parquet", "words.parquet", "sources.parquet"];

    /// Reads the catalogue's files from `dir`, a data set or a bundle's `catalogue` folder, in bounded steps.
    ///
    /// # Errors
    /// Names the file that is missing, of a newer format, or inconsistent: rows not consecutive, an id twice, an
    /// attribute or word beyond its table.
    pub fn read(dir: &Path) -> Result<Self, DatasetError> {
        let description = Description::read(&dir.join("catalogue.json"))?;
        let sources = read_table(dir, "sources", NOT_PADDED, &description.sources)?;
        let words = read_table(dir, "words", PADDED, &description.words)?;
        // A converted bundle may have no word texts: the rows its queries' words may take are then the model's to
        // check.
        let word_rows = if words.ids.is_empty() { u32::MAX } else { table_rows(&words) };
        let users = read_table(dir, "users", NOT_PADDED, &description.users)?;
        let with_words = |name: &str, table: &TableDescription, before: bool| {
            let words = table.words.unwrap_or(before).then_some(word_rows);
            read_table_with(dir, name, PADDED, table, words)
        };
        let items = with_words("items", &description.items, false)?;
        let queries = with_words("queries", &description.queries, true)?;
        if description.default_source_row as usize >= sources.rows().max(1) {
            return Err(DatasetError::format(
                &dir.join("catalogue.json"),
                format!("default_source_row {} is beyond sources.parquet", description.default_source_row),
            ));
        }
        Ok(Self {
            items,
            users,
            queries,
            words,
            sources,
            default_source: description.default_source_row,
            tokenizer: description.tokenizer,
        })
    }

    /// Writes the catalogue's files into `dir`, which is made if it is missing; files of the same names are replaced.
    ///
    /// # Errors
    /// If a file can't be written, or an attribute doesn't cover its table.
    pub fn write(&self, dir: &Path) -> Result<(), DatasetError> {
        fs::create_dir_all(dir).map_err(DatasetError::io(dir))?;
        write_table(dir, "items", PADDED, &self.items)?;
        write_table(dir, "users", NOT_PADDED, &self.users)?;
        write_table(dir, "queries", PADDED, &self.queries)?;
        write_table(dir, "words", PADDED, &self.words)?;
        write_table(dir, "sources", NOT_PADDED, &self.sources)?;
        let description = Description {
            format_version: CATALOGUE_FORMAT_VERSION,
            tokenizer: self.tokenizer,
            default_source: self.sources.id(self.default_source).map(str::to_owned),
            default_source_row: self.default_source,
            items: TableDescription::of(&self.items),
            users: TableDescription::of(&self.users),
            queries: TableDescription::of(&self.queries),
            words: TableDescription::of(&self.words),
            sources: TableDescription::of(&self.sources),
        };
        write_json(&dir.join("catalogue.json"), &description)
    }
}

impl Description {
    fn read(path: &Path) -> Result<Self, DatasetError> {
        let text = fs::read(path).map_err(DatasetError::io(path))?;
        check_version(path, &text, CATALOGUE_FORMAT_VERSION)?;
        serde_json::from_slice(&text).map_err(|error| DatasetError::format(path, error.to_string()))
    }
}

impl TableDescription {
    fn of(table: &EntityTable) -> Self {
        let attributes =
            table.attributes.iter().map(|a| AttributeDescription { name: a.name.clone(), rows: a.rows }).collect();
        Self { rows: table.rows() as u64, attributes, words: Some(table.words.rows() > 0) }
    }
}

/// Refuses a newer format by name, before anything else of the file is looked at.
pub(super) fn check_version(path: &Path, json: &[u8], supported: u32) -> Result<(), DatasetError> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let version: Version =
        serde_json::from_slice(json).map_err(|error| DatasetError::format(path, error.to_string()))?;
    if version.format_version > supported {
        let found = version.format_version;
        let message = format!("has format version {found}; this program reads up to {supported}: upgrade sesrec");
        return Err(DatasetError::format(path, message));
    }
    Ok(())
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DatasetError> {
    files::write_json(path, value).map_err(DatasetError::io(path))
}

fn read_table(
    dir: &Path,
    name: &str,
    first_row: u32,
    description: &TableDescription,
) -> Result<EntityTable, DatasetError> {
    read_table_with(dir, name, first_row, description, None)
}

fn read_table_with(
    dir: &Path,
    name: &str,
    first_row: u32,
    description: &TableDescription,
    word_rows: Option<u32>,
) -> Result<EntityTable, DatasetError> {
    let path = dir.join(format!("{name}.parquet"));
    let mut reader = TableReader::open(path.clone())?;
    let wrong = |message: String| DatasetError::format(&path, message);
    if reader.rows() + u64::from(first_row) != description.rows {
        return Err(wrong(format!(
            "holds {} ids where catalogue.json says {}: the files are not of one catalogue",
            reader.rows(),
            description.rows.saturating_sub(first_row.into())
        )));
    }
    if description.rows > u64::from(u32::MAX) {
        return Err(wrong(format!("has {} rows; at most {} are supported", description.rows, u32::MAX)));
    }
    let padding = vec![0; first_row as usize];
    let mut table = EntityTable { first_row, ..EntityTable::default() };
    table.ids.reserve(reader.rows() as usize);
    for attribute in &description.attributes {
        let AttributeDescription { name, rows } = attribute;
        table.attributes.push(Attribute { name: name.clone(), rows: *rows, values: padding.clone() });
    }
    if word_rows.is_some() {
        table.words = WordLists::padded();
    }
    while let Some(batch) = reader.next()? {
        let (rows, ids, first) = (batch.u32s("row")?, batch.strings("id")?, table_rows(&table));
        if let Some((row, expected)) = rows.values().iter().zip(first..).find(|(row, expected)| **row != *expected) {
            return Err(wrong(format!("row {row} where {expected} should be: rows must be consecutive")));
        }
        if let Err(place) = table.ids.insert_new((0..batch.len()).map(|n| ids.value(n))) {
            return Err(wrong(format!("row {}: id {:?} occurs twice", first + place as u32, ids.value(place))));
        }
        for attribute in &mut table.attributes {
            let values = batch.u32s(&attribute_column(&attribute.name))?.values();
            if let Some(value) = values.iter().find(|&&value| value >= attribute.rows) {
                let Attribute { name, rows, .. } = attribute;
                return Err(wrong(format!("{name}_row is {value}, but {name} has only {rows} rows")));
            }
            attribute.values.extend(values);
        }
        if let Some(word_rows) = word_rows {
            let lists = batch.lists("word_rows")?;
            for n in 0..batch.len() {
                let words = lists.get(n);
                if let Some(word) = words.iter().find(|&&word| word == 0 || word >= word_rows) {
                    let row = rows.value(n);
                    return Err(wrong(format!(
                        "row {row}: word_rows has word row {word}, which is not a row of words.parquet"
                    )));
                }
                table.words.push(words);
            }
        }
    }
    Ok(table)
}

fn write_table(dir: &Path, name: &str, first_row: u32, table: &EntityTable) -> Result<(), DatasetError> {
    let path = dir.join(format!("{name}.parquet"));
    if table.first_row != first_row {
        return Err(DatasetError::format(
            &path,
            format!("{name} must begin at row {first_row}, not {}", table.first_row),
        ));
    }
    for attribute in &table.attributes {
        let Attribute { name, rows, values } = attribute;
        if values.len() != table.rows() || values.iter().any(|value| value >= rows) {
            let message = format!("attribute {name} doesn't cover the table's {} rows", table.rows());
            return Err(DatasetError::format(&path, message));
        }
    }
    let has_words = table.words.rows() > 0;
    if has_words && table.words.rows() != table.rows() {
        let found = table.words.rows();
        return Err(DatasetError::format(&path, format!("words of {found} rows for {} {name}", table.rows())));
    }
    let mut fields = vec![field("row", DataType::UInt32), field("id", DataType::Utf8)];
    fields.extend(table.attributes.iter().map(|a| field(&attribute_column(&a.name), DataType::UInt32)));
    if has_words {
        fields.push(list_field("word_rows"));
    }
    let mut writer = TableWriter::create(path, fields)?;
    let end = table_rows(table);
    for start in (first_row..end).step_by(BATCH_ROWS) {
        let rows = start..end.min(start.saturating_add(BATCH_ROWS as u32));
        let ids = StringArray::from_iter_values(rows.clone().map(|row| table.id(row).unwrap_or_default()));
        let mut columns: Vec<ArrayRef> = vec![u32_column(rows.clone()), Arc::new(ids)];
        for attribute in &table.attributes {
            columns.push(u32_column(rows.clone().map(|row| attribute.values[row as usize])));
        }
        if has_words {
            columns.push(list_column(rows.map(|row| table.words.get(row).unwrap_or_default())));
        }
        writer.write(columns)?;
    }
    writer.close()
}

/// Rows of a table that is known to be within `u32`: [`super::Vocabulary`] holds no more.
fn table_rows(table: &EntityTable) -> u32 {
    u32::try_from(table.rows()).unwrap_or(u32::MAX)
}

fn attribute_column(attribute: &str) -> String {
    format!("{attribute}_row")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let mut items = EntityTable::padded();
        items.ids = ["i1", "i2", "ü \"3\""].into_iter().collect();
        items.attributes = vec![
            Attribute { name: "type".into(), rows: 2, values: vec![0, 1, 0, 1] },
            Attribute { name: "category".into(), rows: 5, values: vec![0, 4, 2, 2] },
        ];
        let mut queries = EntityTable::padded();
        queries.ids = ["red shoes", "", "shoes"].into_iter().collect();
        queries.words = [&[1, 2][..], &[], &[2]].into_iter().collect();
        let mut words = EntityTable::padded();
        words.ids = ["red", "shoes"].into_iter().collect();
        Catalogue {
            items,
            users: EntityTable { ids: ["u1", "u2"].into_iter().collect(), ..EntityTable::default() },
            queries,
            words,
            sources: EntityTable { ids: ["TYPED", "RELATED"].into_iter().collect(), ..EntityTable::default() },
            default_source: 1,
            tokenizer: Tokenizer::Alphanumeric,
        }
    }

    fn message(result: Result<Catalogue, DatasetError>) -> String {
        result.expect_err("must be refused").to_string()
    }

    #[test]
    fn round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let written = catalogue();
        written.write(dir.path()).unwrap();
        for file in Catalogue::FILES {
            assert!(dir.path().join(file).is_file(), "{file}");
        }
        let read = Catalogue::read(dir.path()).unwrap();
        for (read, written) in [
            (&read.items, &written.items),
            (&read.users, &written.users),
            (&read.queries, &written.queries),
            (&read.words, &written.words),
            (&read.sources, &written.sources),
        ] {
            assert_eq!(read.ids.iter().collect::<Vec<_>>(), written.ids.iter().collect::<Vec<_>>());
            assert_eq!((read.first_row, &read.attributes), (written.first_row, &written.attributes));
        }
        assert_eq!(read.words_of(1), [1, 2]);
        assert_eq!(read.words_of(2), [0u32; 0]);
        assert_eq!(read.words_of(0), [0u32; 0]);
        assert_eq!((read.default_source, read.tokenizer), (1, Tokenizer::Alphanumeric));
        assert_eq!((read.items.words.rows(), &read.queries.words), (0, &written.queries.words));
    }

    #[test]
    fn items_may_have_words_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut written = catalogue();
        written.items.words = [&[2][..], &[], &[1, 2]].into_iter().collect();
        written.write(dir.path()).unwrap();
        assert_eq!(Catalogue::read(dir.path()).unwrap().items.words, written.items.words);
        written.items.words = [[1]].into_iter().collect();
        let error = written.write(dir.path()).unwrap_err().to_string();
        assert!(error.contains("items.parquet: words of 2 rows for 4 items"), "{error}");
    }

    #[test]
    fn files_that_do_not_say_whether_there_are_words_have_those_of_queries() {
        let dir = tempfile::tempdir().unwrap();
        catalogue().write(dir.path()).unwrap();
        let path = dir.path().join("catalogue.json");
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for table in ["items", "users", "queries", "words", "sources"] {
            json[table].as_object_mut().unwrap().remove("words").unwrap();
        }
        fs::write(&path, json.to_string()).unwrap();
        assert_eq!(Catalogue::read(dir.path()).unwrap().queries.words, catalogue().queries.words);
    }

    #[test]
    fn many_batches_keep_their_rows() {
        let dir = tempfile::tempdir().unwrap();
        let mut written = catalogue();
        let count = 2 * BATCH_ROWS + 7;
        written.items.ids = (0..count).map(|n| format!("item-{n}")).collect();
        let values = (0..=count as u32).map(|n| n % 3).collect();
        written.items.attributes = vec![Attribute { name: "type".into(), rows: 3, values }];
        written.write(dir.path()).unwrap();
        let read = Catalogue::read(dir.path()).unwrap();
        assert_eq!(read.items.rows(), count + 1);
        assert_eq!(read.items.row(&format!("item-{}", count - 1)), Some(count as u32));
        assert_eq!(read.items.attributes, written.items.attributes);
    }

    #[test]
    fn an_empty_catalogue_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let empty = Catalogue {
            items: EntityTable::padded(),
            queries: EntityTable::padded(),
            words: EntityTable::padded(),
            ..Catalogue::default()
        };
        empty.write(dir.path()).unwrap();
        assert_eq!(Catalogue::read(dir.path()).unwrap().items.rows(), 1);
    }

    #[test]
    fn refuses_a_newer_format_by_name() {
        let dir = tempfile::tempdir().unwrap();
        catalogue().write(dir.path()).unwrap();
        let path = dir.path().join("catalogue.json");
        fs::write(&path, "{\"format_version\": 2, \"and\": \"more\"}").unwrap();
        let message = message(Catalogue::read(dir.path()));
        assert!(message.contains("catalogue.json") && message.contains("version 2"), "{message}");
    }

    #[test]
    fn names_the_file_that_is_inconsistent() {
        let dir = tempfile::tempdir().unwrap();
        let read_with = |change: &dyn Fn(&mut Catalogue), file: &str| {
            // One file of a changed catalogue among those of the right one.
            let (other, mut changed) = (tempfile::tempdir().unwrap(), catalogue());
            change(&mut changed);
            changed.write(other.path()).unwrap();
            catalogue().write(dir.path()).unwrap();
            fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
            message(Catalogue::read(dir.path()))
        };
        let missing_attribute = read_with(&|c| c.items.attributes.truncate(1), "items.parquet");
        assert!(missing_attribute.contains("items.parquet: has no column category_row"), "{missing_attribute}");
        let beyond = read_with(
            &|c| c.items.attributes[0] = Attribute { name: "type".into(), rows: 9, values: vec![0, 1, 8, 1] },
            "items.parquet",
        );
        assert!(beyond.contains("items.parquet: type_row is 8, but type has only 2 rows"), "{beyond}");
        let count = read_with(&|c| c.users.ids = ["u1"].into_iter().collect(), "users.parquet");
        assert!(count.contains("users.parquet: holds 1 ids where catalogue.json says 2"), "{count}");
        let word = read_with(&|c| c.queries.words = [&[1, 3][..], &[2], &[]].into_iter().collect(), "queries.parquet");
        assert!(word.contains("queries.parquet: row 1: word_rows has word row 3"), "{word}");
        fs::write(dir.path().join("words.parquet"), "no parquet").unwrap();
        let broken = message(Catalogue::read(dir.path()));
        assert!(broken.contains("words.parquet: is not a readable Parquet file"), "{broken}");
        fs::remove_file(dir.path().join("words.parquet")).unwrap();
        assert!(message(Catalogue::read(dir.path())).contains("words.parquet: No such file"));
    }
}
