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
    /// Word rows of each query, by query row: `query_words[query_word_ends[row - 1]..query_word_ends[row]]`.
    pub query_word_ends: Vec<u64>,
    /// See `query_word_ends`.
    pub query_words: Vec<u32>,
    /// The row that an unseen source maps to.
    pub default_source: u32,
    /// How query text is split.
    pub tokenizer: Tokenizer,
}

impl Catalogue {
    /// The word rows of a query.
    pub fn words_of(&self, query_row: u32) -> &[u32] {
        let row = query_row as usize;
        let start = if row == 0 { 0 } else { self.query_word_ends[row - 1] as usize };
        &self.query_words[start..self.query_word_ends[row] as usize]
    }
}

/// One kind of entity: ids, and attributes by row.
#[derive(Debug, Clone, Default)]
pub struct EntityTable {
    /// Ids in row order, padding not among them.
    pub ids: Vocabulary,
    /// The row of the first id: 1 where row 0 is padding, else 0.
    pub first_row: u32,
    /// Attributes besides the id itself, e.g. a category.
    pub attributes: Vec<Attribute>,
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
