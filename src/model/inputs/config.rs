//! Which features a model embeds, and how large: the part of every model's configuration that depends on the catalogue.

use serde::{Deserialize, Serialize};

use crate::{
    data::{Catalogue, EntityTable, HistoryLimits, ITEM_WORDS},
    model::ModelError,
};

/// The input layer of a model. What a model doesn't use is not there: then it has no tables for it, and gets none of
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputConfig {
    /// Embedding tables of items in the order of their concatenation; the first is "id".
    pub item_attributes: Vec<AttributeConfig>,
    /// d, where it is not the sum of the item attributes' dimensions: what the concatenated attributes are projected
    /// to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_width: Option<usize>,
    /// Whether the concatenated attributes pass a learned projection (SESRec's eq. 2). Publications that read items'
    /// ids alone have none.
    #[serde(default = "yes")]
    pub item_projection: bool,
    /// Embedding tables of users, likewise; none for models that know users by their histories alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_attributes: Vec<AttributeConfig>,
    /// Embedding tables of queries; `None` for models that see no searches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_features: Option<QueryFeatures>,
    /// How much of a history is seen.
    #[serde(flatten)]
    pub limits: HistoryLimits,
}

fn yes() -> bool {
    true
}

/// An embedding table of a named attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeConfig {
    /// "id", "cate", ..., or [`ITEM_WORDS`], which has no table of its own.
    pub name: String,
    /// Rows, padding included.
    pub rows: usize,
    /// Columns.
    pub dim: usize,
}

/// An embedding table's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableConfig {
    /// Rows, padding included.
    pub rows: usize,
    /// Columns.
    pub dim: usize,
}

/// Embedding tables of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryFeatures {
    /// Of the query as a whole; row 0 is padding.
    pub id: TableConfig,
    /// Of how the search began; its dimension is d. `None` where the model doesn't ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_source: Option<TableConfig>,
    /// Of the query's words; row 0 is "none".
    pub word_segs: TableConfig,
}

/// The sizes that are chosen freely when a model is made for a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputSizes {
    /// Dimensions of the item id and of each further item attribute.
    pub item: (usize, usize),
    /// Dimensions of the user id and of each further user attribute.
    pub user: (usize, usize),
    /// Dimensions of query ids and of words.
    pub query: (usize, usize),
    /// Attention heads.
    pub heads: usize,
    /// How much of a history is seen.
    pub limits: HistoryLimits,
}

impl InputSizes {
    /// The SESRec release's for KuaiSAR.
    pub const KUAISHOU: Self = Self {
        item: (32, 8),
        user: (16, 4),
        query: (32, 32),
        heads: 2,
        limits: HistoryLimits { recommendations: 150, searches: 25, words: 6, clicks: 5 },
    };
    /// The SESRec release's for Amazon.
    pub const AMAZON: Self = Self {
        item: (32, 8),
        user: (32, 4),
        query: (16, 16),
        heads: 4,
        limits: HistoryLimits { recommendations: 15, searches: 15, words: 15, clicks: 1 },
    };
}

impl InputConfig {
    /// Everything that a catalogue has: items, users, queries with words and sources.
    pub fn for_catalogue(catalogue: &Catalogue, sizes: InputSizes) -> Self {
        let item_attributes = attributes(&catalogue.items, sizes.item);
        let hidden_dim = item_attributes.iter().map(|attribute| attribute.dim).sum();
        let table = |table: &EntityTable, dim| TableConfig { rows: table.rows().max(1), dim };
        Self {
            item_attributes,
            item_width: None,
            item_projection: true,
            user_attributes: attributes(&catalogue.users, sizes.user),
            query_features: Some(QueryFeatures {
                id: table(&catalogue.queries, sizes.query.0),
                search_source: Some(table(&catalogue.sources, hidden_dim)),
                word_segs: table(&catalogue.words, sizes.query.1),
            }),
            limits: sizes.limits,
        }
    }

    /// Without users: for models that know them by their histories alone.
    #[must_use]
    pub fn without_users(self) -> Self {
        Self { user_attributes: vec![], ..self }
    }

    /// Without searches: neither tables for queries nor searches in the histories.
    #[must_use]
    pub fn without_searches(mut self) -> Self {
        let limits = HistoryLimits { searches: 0, words: 0, clicks: 0, ..self.limits };
        // The words of items are in the table of those of queries: their width goes to the id.
        if let Some(place) = self.item_attributes.iter().position(|attribute| attribute.name == ITEM_WORDS) {
            let words = self.item_attributes.remove(place);
            self.item_attributes[0].dim += words.dim;
        }
        Self { query_features: None, limits, ..self }
    }

    /// Without a table of how searches began, for models that read searches but don't ask for that.
    #[must_use]
    pub fn without_search_sources(self) -> Self {
        let query_features = self.query_features.map(|features| QueryFeatures { search_source: None, ..features });
        Self { query_features, ..self }
    }

    /// d: size of an item's vector, and of a query's.
    pub fn item_dim(&self) -> usize {
        self.item_width.unwrap_or_else(|| self.item_attributes_dim())
    }

    /// Size of an item's concatenated attributes.
    pub fn item_attributes_dim(&self) -> usize {
        self.item_attributes.iter().map(|attribute| attribute.dim).sum()
    }

    /// Size of the concatenated user embedding; 0 without.
    pub fn user_dim(&self) -> usize {
        self.user_attributes.iter().map(|attribute| attribute.dim).sum()
    }

    /// Checks that the sizes fit each other.
    pub fn validate(&self) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Config(message));
        if self.item_attributes.is_empty() {
            return fail("item_attributes: the first attribute must be \"id\"".into());
        }
        if self.item_width == Some(0) {
            return fail("item_width must not be 0".into());
        }
        let (d, attributes) = (self.item_dim(), self.item_attributes_dim());
        if !self.item_projection && d != attributes {
            return fail(format!("item_width is {d}, without item_projection it must be the attributes' {attributes}"));
        }
        for (kind, attributes) in
            [("item_attributes", &self.item_attributes), ("user_attributes", &self.user_attributes)]
        {
            if attributes.first().is_some_and(|attribute| attribute.name != "id") {
                return fail(format!("{kind}: the first attribute must be \"id\""));
            }
            for attribute in attributes {
                if attribute.rows == 0 || attribute.dim == 0 {
                    return fail(format!("{kind}.{}: rows and dim must not be 0", attribute.name));
                }
                if attributes.iter().filter(|other| other.name == attribute.name).count() > 1 {
                    return fail(format!("{kind}.{}: named twice", attribute.name));
                }
            }
        }
        if self.limits.recommendations == 0 && self.user_attributes.is_empty() {
            return fail(
                "max_rec_history must not be 0: without user_attributes nothing else tells users apart".into(),
            );
        }
        if let Some(words) = self.item_attributes.iter().find(|attribute| attribute.name == ITEM_WORDS) {
            match self.query_features {
                Some(QueryFeatures { word_segs: TableConfig { rows, dim }, .. })
                    if (rows, dim) == (words.rows, words.dim) => {}
                Some(QueryFeatures { word_segs: TableConfig { rows, dim }, .. }) => {
                    return fail(format!(
                        "item_attributes.{ITEM_WORDS} has {} rows of {}, query_features.word_segs {rows} of {dim}: it is one \
                         table, give it one dimension",
                        words.rows, words.dim
                    ));
                }
                None => {
                    return fail(format!(
                        "item_attributes.{ITEM_WORDS}: this model has no table of words, it reads no searches"
                    ));
                }
            }
        }
        let Some(QueryFeatures { id, search_source, word_segs }) = self.query_features else { return Ok(()) };
        if [Some(id), search_source, Some(word_segs)].iter().flatten().any(|table| table.rows == 0 || table.dim == 0) {
            return fail("query_features: rows and dim must not be 0".into());
        }
        let d = self.item_dim();
        match search_source {
            Some(source) if source.dim != d => {
                fail(format!("query_features.search_source.dim is {}; it must be that of items, {d}", source.dim))
            }
            _ => Ok(()),
        }
    }

    /// Checks that every row of the catalogue has a row in its table, and that attributes are there.
    pub fn check_catalogue(&self, catalogue: &Catalogue) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Config(message));
        let entities =
            [("items", &catalogue.items, &self.item_attributes), ("users", &catalogue.users, &self.user_attributes)];
        for (name, table, attributes) in entities {
            for config in attributes {
                let (rows, values) = match (config.name.as_str(), table.attribute(&config.name)) {
                    ("id", _) => (table.rows(), table.rows()),
                    (ITEM_WORDS, None) => {
                        let used = table.words.all().iter().max().map_or(0, |&max| max as usize + 1);
                        (used, table.words.rows())
                    }
                    (_, Some(attribute)) => {
                        let used = attribute.values.iter().max().map_or(0, |&max| max as usize + 1);
                        (used, attribute.values.len())
                    }
                    (attribute, None) => {
                        return fail(format!("the catalogue's {name} lack the attribute {attribute:?}"));
                    }
                };
                if rows > config.rows || values != table.rows() {
                    return fail(format!(
                        "{name}: attribute {:?} has {values} values up to row {}, for {} {name} and a table of {} rows",
                        config.name,
                        rows.saturating_sub(1),
                        table.rows(),
                        config.rows
                    ));
                }
            }
        }
        match &self.query_features {
            Some(query) => query.check_catalogue(catalogue),
            None => Ok(()),
        }
    }
}

impl QueryFeatures {
    fn check_catalogue(&self, catalogue: &Catalogue) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Config(message));
        let sources = self.search_source.map_or(usize::MAX, |source| source.rows);
        let tables = [
            ("queries", catalogue.queries.rows(), self.id.rows),
            ("words", catalogue.words.rows(), self.word_segs.rows),
            ("sources", catalogue.sources.rows(), sources),
        ];
        for (name, rows, capacity) in tables {
            if rows > capacity {
                return fail(format!("the catalogue has {rows} rows of {name}, the model's table only {capacity}"));
            }
        }
        let words = &catalogue.queries.words;
        if words.rows() < catalogue.queries.rows() && catalogue.queries.rows() > 1 {
            return fail("the catalogue lists the words of fewer queries than it has".into());
        }
        if words.all().iter().any(|&word| word as usize >= self.word_segs.rows) {
            return fail("a query of the catalogue has a word beyond the model's word table".into());
        }
        if catalogue.default_source as usize >= sources {
            return fail("the catalogue's default source is beyond the model's source table".into());
        }
        Ok(())
    }
}

fn attributes(table: &EntityTable, (id, other): (usize, usize)) -> Vec<AttributeConfig> {
    let id = AttributeConfig { name: "id".into(), rows: table.rows().max(1), dim: id };
    let others = table.attributes.iter().map(|attribute| AttributeConfig {
        name: attribute.name.clone(),
        rows: attribute.rows.max(1) as usize,
        dim: other,
    });
    std::iter::once(id).chain(others).collect()
}
