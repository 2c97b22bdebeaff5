//! The embedding layer: items, users, queries, search events.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Result, Tensor, bail};

use super::{
    SesRecConfig,
    weights::{item_table, user_table},
};
use crate::{
    data::{Catalogue, EntityTable, HistoryBatch, UserRow},
    model::ModelError,
    nn::{Linear, RowZero, gather_rows, mean_rows},
};

/// The tables and projections, on the model's device.
#[derive(Debug, Clone)]
pub struct Embeddings {
    catalogue: Arc<Catalogue>,
    items: Vec<Table>,
    item_trans: Linear,
    users: Vec<Table>,
    query_ids: Tensor,
    query_words: Tensor,
    query_trans: Linear,
    sources: Tensor,
    word_len: usize,
    /// E of every item, where it has been computed once and for all.
    item_embeddings: Option<Tensor>,
}

#[derive(Debug, Clone)]
struct Table {
    name: String,
    weight: Tensor,
}

/// Embedded items and how to find them: each distinct item of a batch is projected once.
#[derive(Debug, Clone)]
pub struct ItemRows {
    /// `[U, d]`; row 0 is the padding item.
    pub table: Tensor,
    /// Per list that was asked for, the rows of `table`.
    pub rows: Vec<Vec<u32>>,
}

/// The history's embeddings, before positions are added.
#[derive(Debug, Clone)]
pub struct HistoryInputs {
    /// `[B, Lr, d]`: E of the items.
    pub rec_items: Tensor,
    /// `[B, Ls, d]`: Q of the queries.
    pub queries: Tensor,
    /// `[B, Ls, d]`: Q plus the source's embedding.
    pub queries_and_sources: Tensor,
    /// `[B, Ls, d]`: the mean of the clicked items' E, zero without clicks.
    pub clicked_items: Tensor,
    /// `[B, u]`.
    pub users: Tensor,
}

impl Embeddings {
    pub(super) fn new(
        config: &SesRecConfig,
        catalogue: Arc<Catalogue>,
        weights: &HashMap<String, Tensor>,
    ) -> std::result::Result<Self, ModelError> {
        let get = |name: &str| super::network::tensor(weights, name);
        let table = |name: &str, key: String| Ok(Table { name: name.into(), weight: get(&format!("{key}.weight"))? });
        let items = config.item_attributes.iter().map(|attribute| table(&attribute.name, item_table(&attribute.name)));
        let users = config.user_attributes.iter().map(|attribute| table(&attribute.name, user_table(&attribute.name)));
        Ok(Self {
            items: items.collect::<std::result::Result<_, ModelError>>()?,
            item_trans: super::network::linear(weights, "query_item_feat.item_trans")?,
            users: users.collect::<std::result::Result<_, ModelError>>()?,
            query_ids: get("query_item_feat.query_id_emb.weight")?,
            query_words: get("query_item_feat.query_word_segs_emb.weight")?,
            query_trans: super::network::linear(weights, "query_item_feat.query_trans")?,
            sources: get("query_item_feat.query_search_source_emb.weight")?,
            word_len: config.limits.words,
            item_embeddings: None,
            catalogue,
        })
    }

    /// Computes E of every item of the catalogue once: later lookups are gathers.
    pub(super) fn precompute_items(&mut self) -> Result<Tensor> {
        // In slices, so that the concatenated attributes of ten million items don't exist at once.
        const SLICE: usize = 1 << 16;
        let all: Vec<u32> = (0..self.catalogue.items.rows() as u32).collect();
        let slices = all.chunks(SLICE).map(|rows| self.project_items(rows)).collect::<Result<Vec<_>>>()?;
        let table = Tensor::cat(&slices, 0)?;
        self.item_embeddings = Some(table.clone());
        Ok(table)
    }

    /// `E(i) = Linear_item(concat_a emb_a(i))` of several lists of item rows.
    pub fn items(&self, lists: &[&[u32]]) -> Result<ItemRows> {
        if let Some(table) = &self.item_embeddings {
            return Ok(ItemRows { table: table.clone(), rows: lists.iter().map(|list| list.to_vec()).collect() });
        }
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
        Ok(ItemRows { table: self.project_items(&distinct)?, rows })
    }

    fn project_items(&self, rows: &[u32]) -> Result<Tensor> {
        self.item_trans.forward(&concatenated(&self.items, &self.catalogue.items, rows, RowZero::Frozen)?)
    }

    /// The history's embeddings; `items` holds the batch's recommended items and clicks as its first two lists.
    pub fn history(&self, batch: &HistoryBatch, items: &ItemRows) -> Result<HistoryInputs> {
        let (users, rec_len, src_len) = (batch.users(), batch.rec_len, batch.src_len);
        let d = items.table.dim(1)?;
        let rec_items = gather_rows(&items.table, &items.rows[0], RowZero::Learns)?;
        let queries = self.queries(&batch.src_queries, &batch.src_words, batch.word_len)?;
        let sources = gather_rows(&self.sources, &batch.src_sources, RowZero::Learns)?;
        let clicked_items = if batch.click_len == 0 {
            Tensor::zeros((users * src_len, d), candle_core::DType::F32, self.device())?
        } else {
            mean_rows(&items.table, &items.rows[1], batch.click_len)?
        };
        Ok(HistoryInputs {
            rec_items: rec_items.reshape((users, rec_len, d))?,
            queries_and_sources: (&queries + sources)?.reshape((users, src_len, d))?,
            queries: queries.reshape((users, src_len, d))?,
            clicked_items: clicked_items.reshape((users, src_len, d))?,
            users: self.users(&batch.user_rows)?,
        })
    }

    /// `Q(q) = Linear_query([emb_qid(q); mean over the words])`: query rows `[n]`, word rows `[n, word_len]` with 0 =
    /// none → `[n, d]`.
    pub fn queries(&self, queries: &[u32], words: &[u32], word_len: usize) -> Result<Tensor> {
        let ids = gather_rows(&self.query_ids, queries, RowZero::Frozen)?;
        let words = if word_len == 0 {
            Tensor::zeros((queries.len(), self.query_words.dim(1)?), candle_core::DType::F32, self.device())?
        } else {
            mean_rows(&self.query_words, words, word_len)?
        };
        self.query_trans.forward(&Tensor::cat(&[ids, words], 1)?)
    }

    /// Q of queries of the catalogue, with the words it lists for them: `[n]` → `[n, d]`.
    pub fn catalogue_queries(&self, queries: &[u32]) -> Result<Tensor> {
        let mut words = Vec::with_capacity(queries.len() * self.word_len);
        for (n, &query) in queries.iter().enumerate() {
            if query as usize >= self.catalogue.query_word_ends.len() {
                bail!("query row {query} of a catalogue with {} rows", self.catalogue.query_word_ends.len())
            }
            words.extend(self.catalogue.words_of(query).iter().take(self.word_len));
            words.resize((n + 1) * self.word_len, 0);
        }
        self.queries(queries, &words, self.word_len)
    }

    /// Concatenated user embeddings `[B, u]`.
    pub fn users(&self, users: &[UserRow]) -> Result<Tensor> {
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

    fn device(&self) -> &Device {
        self.query_ids.device()
    }
}

/// The attributes' embeddings side by side: `[n]` rows of `entities` → `[n, Σ dim]`. `id_zero` is about the id table
/// alone: row 0 of an attribute is a real row and learns.
fn concatenated(tables: &[Table], entities: &EntityTable, rows: &[u32], id_zero: RowZero) -> Result<Tensor> {
    let embed = |Table { name, weight }: &Table| {
        if name == "id" {
            return gather_rows(weight, rows, id_zero);
        }
        let values = &entities.attribute(name).ok_or_else(|| missing(name))?.values;
        let rows = rows.iter().map(|&row| values.get(row as usize).copied().ok_or_else(|| missing(name)));
        gather_rows(weight, &rows.collect::<Result<Vec<u32>>>()?, RowZero::Learns)
    };
    let parts = tables.iter().map(embed).collect::<Result<Vec<_>>>()?;
    if parts.len() == 1 { Ok(parts[0].clone()) } else { Tensor::cat(&parts, 1) }
}

fn missing(attribute: &str) -> candle_core::Error {
    candle_core::Error::Msg(format!("the catalogue has no attribute {attribute:?} for a row that was asked for"))
}
