//! The embedding layer: items, users, queries, search events.

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor, bail};

use super::{AttributeConfig, InputConfig, QueryFeatures};
use crate::{
    data::{Catalogue, EntityTable, ITEM_WORDS, UserRow},
    model::{ModelError, ParameterList, Weights},
    nn::{Linear, RowZero, gather_rows, gather_rows_as, mean_rows, mean_rows_as},
};

/// The tables and projections, on the model's device.
#[derive(Debug, Clone)]
pub struct Embeddings {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) items: Vec<Table>,
    pub(super) item_trans: Linear,
    pub(super) users: Vec<Table>,
    queries: Option<Queries>,
    word_len: usize,
    /// E of every item, where it has been computed once and for all.
    item_embeddings: Option<Tensor>,
}

#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) weight: Tensor,
}

#[derive(Debug, Clone)]
pub(super) struct Queries {
    pub(super) ids: Tensor,
    pub(super) words: Tensor,
    pub(super) trans: Linear,
    pub(super) sources: Option<Tensor>,
}

/// Embedded items and how to find them: each distinct item of a batch is projected once.
#[derive(Debug, Clone)]
pub struct ItemRows {
    /// `[U, d]`; row 0 is the padding item.
    pub table: Tensor,
    /// Per list that was asked for, the rows of `table`.
    pub rows: Vec<Vec<u32>>,
}

impl ItemRows {
    /// Embeds the distinct rows of all lists, and row 0, by `embed`.
    pub fn distinct(lists: &[&[u32]], embed: impl FnOnce(&[u32]) -> Result<Tensor>) -> Result<Self> {
        let mut distinct = vec![0];
        let mut index: hashbrown::HashMap<u32, u32> = hashbrown::HashMap::new();
        index.insert(0, 0);
        let mut local = |row: u32| {
            *index.entry(row).or_insert_with(|| {
                distinct.push(row);
                distinct.len() as u32 - 1
            })
        };
        let rows = lists.iter().map(|list| list.iter().map(|&row| local(row)).collect()).collect();
        Ok(Self { table: embed(&distinct)?, rows })
    }

    /// From a table of all items.
    pub fn of_all(table: Tensor, lists: &[&[u32]]) -> Self {
        Self { table, rows: lists.iter().map(|list| list.to_vec()).collect() }
    }

    /// The items of a list: `[n, d]`.
    pub fn list(&self, list: usize) -> Result<Tensor> {
        gather_rows(&self.table, &self.rows[list], RowZero::Learns)
    }

    /// The same as `[leading.., d]`.
    pub fn list_as(&self, list: usize, leading: &[usize]) -> Result<Tensor> {
        gather_rows_as(&self.table, &self.rows[list], leading, RowZero::Learns)
    }
}

impl Embeddings {
    /// The tables of a model with these inputs.
    pub fn new(
        config: &InputConfig,
        catalogue: Arc<Catalogue>,
        weights: &Weights<'_>,
    ) -> std::result::Result<Self, ModelError> {
        config.check_catalogue(&catalogue)?;
        let table = |name: &str, key: &str| Ok::<_, ModelError>(Table { name: name.into(), weight: weights.get(key)? });
        let items = config.item_attributes.iter().map(|AttributeConfig { name, .. }| match name.as_str() {
            ITEM_WORDS => table(name, WORD_TABLE),
            name => table(name, &format!("{}.weight", item_table(name))),
        });
        let users = config.user_attributes.iter();
        let users = users.map(|AttributeConfig { name, .. }| table(name, &format!("{}.weight", user_table(name))));
        let queries = |features: QueryFeatures| {
            let sources = features.search_source.map(|_| weights.get("query_item_feat.query_search_source_emb.weight"));
            Ok::<_, ModelError>(Queries {
                ids: weights.get("query_item_feat.query_id_emb.weight")?,
                words: weights.get(WORD_TABLE)?,
                trans: weights.linear("query_item_feat.query_trans")?,
                sources: sources.transpose()?,
            })
        };
        let items: Vec<Table> = items.collect::<std::result::Result<_, ModelError>>()?;
        Ok(Self {
            item_trans: if config.item_projection {
                weights.linear("query_item_feat.item_trans")?
            } else {
                identity(config.item_dim(), items[0].weight.device())?
            },
            items,
            users: users.collect::<std::result::Result<_, ModelError>>()?,
            queries: config.query_features.map(queries).transpose()?,
            word_len: config.limits.words,
            item_embeddings: None,
            catalogue,
        })
    }

    /// The tensors that these tables are made of, by the release's names.
    pub fn parameters(config: &InputConfig, list: &mut ParameterList) {
        for attribute in config.item_attributes.iter().filter(|attribute| attribute.name != ITEM_WORDS) {
            list.xavier(format!("{}.weight", item_table(&attribute.name)), &[attribute.rows, attribute.dim]);
        }
        for attribute in &config.user_attributes {
            list.xavier(format!("{}.weight", user_table(&attribute.name)), &[attribute.rows, attribute.dim]);
        }
        let d = config.item_dim();
        if let Some(QueryFeatures { id, search_source, word_segs }) = config.query_features {
            let tables = [("id", Some(id)), ("search_source", search_source), ("word_segs", Some(word_segs))];
            for (name, table) in tables.into_iter().filter_map(|(name, table)| Some((name, table?))) {
                list.xavier(format!("query_item_feat.query_{name}_emb.weight"), &[table.rows, table.dim]);
            }
            list.linear("query_item_feat.query_trans", d, id.dim + word_segs.dim);
        }
        if config.item_projection {
            list.linear("query_item_feat.item_trans", d, config.item_attributes_dim());
        }
    }

    /// Computes E of every item of the catalogue once: later lookups are gathers.
    pub fn precompute_items(&mut self) -> Result<Tensor> {
        let table = self.all_items(|rows| self.project_items(rows))?;
        self.item_embeddings = Some(table.clone());
        Ok(table)
    }

    /// `embed` of every item of the catalogue, `[items, _]`.
    pub fn all_items(&self, embed: impl Fn(&[u32]) -> Result<Tensor>) -> Result<Tensor> {
        // In slices, so that the concatenated attributes of ten million items don't exist at once.
        const SLICE: usize = 1 << 16;
        let all: Vec<u32> = (0..self.catalogue.items.rows() as u32).collect();
        let slices = all.chunks(SLICE).map(embed).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&slices, 0)
    }

    /// `E(i) = Linear_item(concat_a emb_a(i))` of several lists of item rows.
    pub fn items(&self, lists: &[&[u32]]) -> Result<ItemRows> {
        match &self.item_embeddings {
            Some(table) => Ok(ItemRows::of_all(table.clone(), lists)),
            None => ItemRows::distinct(lists, |rows| self.project_items(rows)),
        }
    }

    /// E of item rows: `[n]` → `[n, d]`.
    pub fn project_items(&self, rows: &[u32]) -> Result<Tensor> {
        self.item_trans.forward(&concatenated(&self.items, &self.catalogue.items, rows, RowZero::Frozen)?)
    }

    /// `Q(q) = Linear_query([emb_qid(q); mean over the words])`: n query rows, word rows `[n, word_len]` with 0 =
    /// none → `[leading.., d]`.
    pub fn queries(&self, queries: &[u32], (words, word_len): (&[u32], usize), leading: &[usize]) -> Result<Tensor> {
        let Queries { ids, words: table, trans, .. } = self.query_tables()?;
        let ids = gather_rows_as(ids, queries, leading, RowZero::Frozen)?;
        let words = if word_len == 0 {
            Tensor::zeros([leading, &[table.dim(1)?]].concat(), DType::F32, self.device())?
        } else {
            mean_rows_as(table, words, word_len, leading)?
        };
        trans.forward(&Tensor::cat(&[ids, words], D::Minus1)?)
    }

    /// How searches began: n rows → `[leading.., d]`.
    pub fn sources(&self, sources: &[u32], leading: &[usize]) -> Result<Tensor> {
        match &self.query_tables()?.sources {
            Some(table) => gather_rows_as(table, sources, leading, RowZero::Learns),
            None => bail!("the model has no table of search sources: query_features.search_source"),
        }
    }

    pub(super) fn query_tables(&self) -> Result<&Queries> {
        match &self.queries {
            Some(queries) => Ok(queries),
            None => bail!("the model has no tables of queries: query_features"),
        }
    }

    /// Q of queries of the catalogue, with the words it lists for them: `[n]` → `[n, d]`.
    pub fn catalogue_queries(&self, queries: &[u32]) -> Result<Tensor> {
        let (words, word_len) = self.words_of(queries)?;
        self.queries(queries, (&words, word_len), &[queries.len()])
    }

    /// The words that the catalogue lists for queries, W of each, and W: `[n]` → `[n, W]`, 0 for none.
    pub fn words_of(&self, queries: &[u32]) -> Result<(Vec<u32>, usize)> {
        let mut words = Vec::with_capacity(queries.len() * self.word_len);
        for (n, &query) in queries.iter().enumerate() {
            let Some(known) = self.catalogue.queries.words.get(query) else {
                bail!("query row {query} of a catalogue with {} rows", self.catalogue.queries.words.rows())
            };
            words.extend(known.iter().take(self.word_len));
            words.resize((n + 1) * self.word_len, 0);
        }
        Ok((words, self.word_len))
    }

    /// Concatenated user embeddings `[B, u]`; u is 0 where the model knows users by their histories alone.
    pub fn users(&self, users: &[UserRow]) -> Result<Tensor> {
        if self.users.is_empty() {
            return Tensor::zeros((users.len(), 0), DType::F32, self.device());
        }
        let known: Vec<u32> = users.iter().map(|user| if let UserRow::Known(row) = user { *row } else { 0 }).collect();
        let embedded = concatenated(&self.users, &self.catalogue.users, &known, RowZero::Learns)?;
        if !users.contains(&UserRow::Mean) {
            return Ok(embedded);
        }
        let with_mean = Tensor::cat(&[&embedded, &self.mean_user()?], 0)?;
        let rows = users.iter().zip(0..).map(|(user, n)| if *user == UserRow::Mean { users.len() as u32 } else { n });
        gather_rows(&with_mean, &rows.collect::<Vec<u32>>(), RowZero::Learns)
    }

    /// The mean of all users' concatenated embeddings `[1, u]`; zero where there are no users. Computed as each table's
    /// rows weighted by how many users have them.
    pub fn mean_user(&self) -> Result<Tensor> {
        if self.users.is_empty() {
            return Tensor::zeros((1, 0), DType::F32, self.device());
        }
        let table = &self.catalogue.users;
        let count = table.ids.len().max(1) as f32;
        let parts = self.users.iter().map(|Table { name, weight }| {
            let mut shares = vec![0.0_f32; weight.dim(0)?];
            let first = table.first_row as usize;
            match table.attribute(name).filter(|_| name != "id") {
                Some(attribute) => attribute.values[first..].iter().for_each(|&row| shares[row as usize] += 1.0),
                None => shares[first..table.rows()].fill(1.0),
            }
            shares.iter_mut().for_each(|share| *share /= count);
            Tensor::from_vec(shares, (1, weight.dim(0)?), self.device())?.matmul(weight)
        });
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)
    }

    /// Rows of the item table, padding included.
    pub fn item_rows(&self) -> usize {
        self.catalogue.items.rows()
    }

    /// Where the tables are.
    pub fn device(&self) -> &Device {
        self.item_trans.weight().device()
    }
}

/// What leaves vectors of width `d` as they are.
fn identity(d: usize, device: &Device) -> Result<Linear> {
    Ok(Linear::new(Tensor::eye(d, DType::F32, device)?, Tensor::zeros(d, DType::F32, device)?))
}

/// The attributes' embeddings side by side: `[n]` rows of `entities` → `[n, Σ dim]`. `id_zero` is about the id table
/// alone: row 0 of an attribute is a real row and learns.
fn concatenated(tables: &[Table], entities: &EntityTable, rows: &[u32], id_zero: RowZero) -> Result<Tensor> {
    let embed = |Table { name, weight }: &Table| {
        if name == "id" {
            return gather_rows(weight, rows, id_zero);
        }
        if name == ITEM_WORDS && entities.attribute(name).is_none() {
            return mean_words(weight, entities, rows);
        }
        let values = &entities.attribute(name).ok_or_else(|| missing(name))?.values;
        let rows = rows.iter().map(|&row| values.get(row as usize).copied().ok_or_else(|| missing(name)));
        gather_rows(weight, &rows.collect::<Result<Vec<u32>>>()?, RowZero::Learns)
    };
    let parts = tables.iter().map(embed).collect::<Result<Vec<_>>>()?;
    if parts.len() == 1 { Ok(parts[0].clone()) } else { Tensor::cat(&parts, 1) }
}

/// The mean of the entities' words, zero for those without: `[n]` rows → `[n, d]`.
fn mean_words(table: &Tensor, entities: &EntityTable, rows: &[u32]) -> Result<Tensor> {
    let unlisted = |row: u32| candle_core::Error::Msg(format!("the catalogue lists no words for row {row}"));
    let lists = rows.iter().map(|&row| entities.words.get(row).ok_or_else(|| unlisted(row)));
    let lists = lists.collect::<Result<Vec<&[u32]>>>()?;
    let longest = lists.iter().map(|words| words.len()).max().unwrap_or(0).max(1);
    let mut padded = vec![0; rows.len() * longest];
    for (padded, words) in padded.chunks_exact_mut(longest).zip(lists) {
        padded[..words.len()].copy_from_slice(words);
    }
    mean_rows(table, &padded, longest)
}

pub(super) fn missing(attribute: &str) -> candle_core::Error {
    candle_core::Error::Msg(format!("the catalogue has no attribute {attribute:?} for a row that was asked for"))
}

/// Of the words of queries, and of items.
const WORD_TABLE: &str = "query_item_feat.query_word_segs_emb.weight";

fn item_table(attribute: &str) -> String {
    format!("query_item_feat.item_feat.item_{attribute}_emb")
}

fn user_table(attribute: &str) -> String {
    format!("user_feat.user_{attribute}_emb")
}
