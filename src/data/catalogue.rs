//! Everything that has a row in an embedding table: items, users, queries, words, sources.

use super::{Tokenizer, Vocabulary};

/// Row 0 of items, queries and words is padding; row 0 of users and sources is a real one.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// Items; row 0 is padding.
    pub items: EntityTable,
    /// Users; no padding row.
    pub users: EntityTable,
    /// Queries by catalogue id (for imported logs the canonical text); row 0 is padding.
    pub queries: EntityTable,
    /// Query words; row 0 is padding. Empty where a bundle was converted without word texts.
    pub words: EntityTable,
    /// How searches begin; no padding row.
    pub sources: EntityTable,
    /// The row that an unseen source maps to.
    pub default_source: u32,
    /// How query text is split.
    pub tokenizer: Tokenizer,
}

impl Catalogue {
    /// The word rows of a query; none of a row that there isn't.
    pub fn words_of(&self, query_row: u32) -> &[u32] {
        self.queries.words.get(query_row).unwrap_or_default()
    }
}

/// The item attribute that is no value but a list, [`EntityTable::words`]. Models embed it as the mean over the words
/// of the item's caption, in the table that the words of queries are in, so that an item and the queries that ask for
/// it begin alike.
pub const ITEM_WORDS: &str = "words";

/// One kind of entity: ids, and attributes by row.
#[derive(Debug, Clone, Default)]
pub struct EntityTable {
    /// Ids in row order, padding not among them.
    pub ids: Vocabulary,
    /// The row of the first id: 1 where row 0 is padding, else 0.
    pub first_row: u32,
    /// Attributes besides the id itself, e.g. a category.
    pub attributes: Vec<Attribute>,
    /// Rows of [`Catalogue::words`]: of queries those of their text, of items those of their caption where the logs
    /// have one; of the other tables none.
    pub words: WordLists,
}

/// The words of every entity of a table, by row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WordLists {
    /// Where each row's words end.
    ends: Vec<u64>,
    words: Vec<u32>,
}

impl WordLists {
    /// For a table whose row 0 is padding: that has no words.
    pub fn padded() -> Self {
        Self { ends: vec![0], words: vec![] }
    }

    /// The words of the next row.
    pub fn push(&mut self, words: &[u32]) {
        self.words.extend(words);
        self.ends.push(self.words.len() as u64);
    }

    /// How many rows have a list, be it empty.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// The words of a row; `None` beyond the end.
    pub fn get(&self, row: u32) -> Option<&[u32]> {
        let row = row as usize;
        let end = *self.ends.get(row)? as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        Some(&self.words[start..end])
    }

    /// All rows' words.
    pub fn all(&self) -> &[u32] {
        &self.words
    }
}

/// The lists of rows 1, 2, ... of a table with padding.
impl<W: AsRef<[u32]>> FromIterator<W> for WordLists {
    fn from_iter<I: IntoIterator<Item = W>>(lists: I) -> Self {
        let mut words = Self::padded();
        lists.into_iter().for_each(|list| words.push(list.as_ref()));
        words
    }
}

/// An attribute of every entity of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// As in the model's configuration: "cate", "age", ...
    pub name: String,
    /// How many rows its embedding table has.
    pub rows: u32,
    /// The attribute's row by entity row, padding included (0 there).
    pub values: Vec<u32>,
}

impl EntityTable {
    /// An empty table with a padding row.
    pub fn padded() -> Self {
        Self { first_row: 1, ..Self::default() }
    }

    /// The row of an id.
    pub fn row(&self, id: &str) -> Option<u32> {
        self.ids.get(id).map(|n| n + self.first_row)
    }

    /// The rows of many ids.
    pub fn rows_of<S: AsRef<str>>(&self, ids: &[S]) -> Vec<Option<u32>> {
        let mut rows = self.ids.get_all(ids);
        rows.iter_mut().flatten().for_each(|row| *row += self.first_row);
        rows
    }

    /// The id of a row; `None` for padding and beyond the end.
    pub fn id(&self, row: u32) -> Option<&str> {
        row.checked_sub(self.first_row).and_then(|n| self.ids.name(n))
    }

    /// How many rows an embedding table over the ids has, padding included.
    pub fn rows(&self) -> usize {
        self.ids.len() + self.first_row as usize
    }

    /// An attribute by name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute_place(name).map(|place| &self.attributes[place])
    }

    /// Where an attribute is among [`Self::attributes`].
    pub fn attribute_place(&self, name: &str) -> Option<usize> {
        self.attributes.iter().position(|attribute| attribute.name == name)
    }
}
