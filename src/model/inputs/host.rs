//! The embedding layer in host memory, without tensors: rows go straight into buffers of the caller.

use std::{ops::Range, sync::Arc};

use candle_core::{Result, Tensor, bail};

use super::{Embeddings, embedding::Table};
use crate::{
    data::{Catalogue, EntityTable, ITEM_WORDS, SearchFeatures, UserRow},
    nn::{Dense, Rows, RowsMut, values, vector, with_scratch},
};

/// What [`Embeddings`] holds, for one user at a time on a CPU.
#[derive(Debug, Clone)]
pub struct HostEmbeddings {
    catalogue: Arc<Catalogue>,
    items: Vec<AttributeTable>,
    item_trans: Dense,
    users: Vec<AttributeTable>,
    mean_user: Vec<f32>,
    queries: Tensor,
    words: Tensor,
    query_trans: Dense,
    sources: Tensor,
}

/// The table of an attribute, and where its vectors go in the concatenation.
#[derive(Debug, Clone)]
struct AttributeTable {
    weight: Tensor,
    columns: Range<usize>,
    source: Source,
}

/// Which rows of the table an entity has.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// Its own.
    Id,
    /// That of an attribute, by its place among the entity's.
    Attribute(usize),
    /// The mean over those of its words.
    Words,
}

impl HostEmbeddings {
    /// Of tables on the CPU.
    ///
    /// # Errors
    /// If there are no tables of queries or sources.
    pub fn new(embeddings: &Embeddings) -> Result<Self> {
        let queries = embeddings.query_tables()?;
        let Some(sources) = &queries.sources else { bail!("the model has no table of search sources") };
        let catalogue = embeddings.catalogue.clone();
        Ok(Self {
            items: attribute_tables(&embeddings.items, &catalogue.items)?,
            item_trans: Dense::new(&embeddings.item_trans)?,
            users: attribute_tables(&embeddings.users, &catalogue.users)?,
            mean_user: embeddings.mean_user()?.flatten_all()?.to_vec1()?,
            queries: queries.ids.clone(),
            words: queries.words.clone(),
            query_trans: Dense::new(&queries.trans)?,
            sources: sources.clone(),
            catalogue,
        })
    }

    /// Rows of the item table, padding included.
    pub fn item_rows(&self) -> usize {
        self.catalogue.items.rows()
    }

    /// E of item rows: `[n, d]`.
    pub(crate) fn items(&self, rows: &[u32], out: RowsMut<'_>) -> Result<()> {
        let stride = width(&self.items);
        with_scratch([rows.len() * stride], |[raw]| {
            concatenate(&self.items, &self.catalogue.items, rows, raw)?;
            self.item_trans.apply(rows.len(), Rows { values: raw, stride }, out);
            Ok(())
        })
    }

    /// The user's concatenated attributes `[u]`.
    pub(crate) fn user(&self, user: UserRow, out: &mut [f32]) -> Result<()> {
        match user {
            UserRow::Known(row) => concatenate(&self.users, &self.catalogue.users, &[row], out),
            UserRow::Mean => {
                out.copy_from_slice(&self.mean_user);
                Ok(())
            }
        }
    }

    /// Q of searches, followed by those of `padding` empty ones: `[n + padding, d]`.
    pub(crate) fn queries(&self, searches: &[SearchFeatures], padding: usize, out: RowsMut<'_>) -> Result<()> {
        let (id_dim, word_dim) = (self.queries.dim(1)?, self.words.dim(1)?);
        let (stride, count) = (id_dim + word_dim, searches.len() + padding);
        let (queries, words) = (values(&self.queries)?, values(&self.words)?);
        let empty = nothing();
        let all = || searches.iter().chain(std::iter::repeat_n(&empty, padding));
        with_scratch([count * stride], |[raw]| {
            vector::vectorized(
                #[inline(always)]
                || {
                    for (search, raw) in all().zip(raw.chunks_exact_mut(stride.max(1))) {
                        let (id, mean) = raw.split_at_mut(id_dim);
                        id.copy_from_slice(row(&queries, id_dim, search.query)?);
                        mean_row(&words, word_dim, &search.words, mean)?;
                    }
                    Ok::<_, candle_core::Error>(())
                },
            )?;
            self.query_trans.apply(count, Rows { values: raw, stride }, out);
            Ok(())
        })
    }

    /// Adds to each search, and to each of `padding` empty ones, how it began.
    pub(crate) fn add_sources(&self, searches: &[SearchFeatures], padding: usize, out: RowsMut<'_>) -> Result<()> {
        let (sources, d) = (values(&self.sources)?, self.sources.dim(1)?);
        let empty = nothing();
        let all = searches.iter().chain(std::iter::repeat_n(&empty, padding));
        for (search, out) in all.zip(out.values.chunks_exact_mut(out.stride)) {
            let source = row(&sources, d, search.source)?;
            out[..d].iter_mut().zip(source).for_each(|(x, source)| *x += source);
        }
        Ok(())
    }
}

/// A search that was not made.
fn nothing() -> SearchFeatures {
    SearchFeatures { query: 0, words: vec![], source: 0, clicks: vec![], place: 0 }
}

fn attribute_tables(tables: &[Table], entities: &EntityTable) -> Result<Vec<AttributeTable>> {
    let mut start = 0;
    let tables = tables.iter().map(|Table { name, weight }| {
        let columns = start..start + weight.dim(1)?;
        start = columns.end;
        let source = match (name.as_str(), entities.attribute_place(name)) {
            ("id", _) => Source::Id,
            (_, Some(place)) => Source::Attribute(place),
            (ITEM_WORDS, None) => Source::Words,
            (name, None) => return Err(super::embedding::missing(name)),
        };
        Ok(AttributeTable { weight: weight.clone(), columns, source })
    });
    tables.collect()
}

/// Columns of the concatenation.
fn width(tables: &[AttributeTable]) -> usize {
    tables.last().map_or(0, |table| table.columns.end)
}

/// The attributes' embeddings side by side: n rows of `entities` → `[n, width]`.
fn concatenate(tables: &[AttributeTable], entities: &EntityTable, rows: &[u32], out: &mut [f32]) -> Result<()> {
    let width = width(tables);
    for AttributeTable { weight, columns, source } in tables {
        let table = values(weight)?;
        let dim = columns.len();
        for (&entity, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
            let out = &mut out[columns.clone()];
            match source {
                Source::Id => out.copy_from_slice(row(&table, dim, entity)?),
                Source::Attribute(place) => match entities.attributes[*place].values.get(entity as usize) {
                    Some(&value) => out.copy_from_slice(row(&table, dim, value)?),
                    None => bail!("row {entity} of a table with {} rows", entities.rows()),
                },
                Source::Words => match entities.words.get(entity) {
                    Some(words) => mean_row(&table, dim, words, out)?,
                    None => bail!("row {entity} of a table with {} rows", entities.rows()),
                },
            }
        }
    }
    Ok(())
}

/// The mean of rows, of which 0 means "none"; zero of none.
#[inline(always)]
fn mean_row(table: &[f32], width: usize, rows: &[u32], out: &mut [f32]) -> Result<()> {
    let known = || rows.iter().filter(|&&row| row != 0);
    let share = 1.0 / known().count().max(1) as f32;
    out.fill(0.0);
    for &number in known() {
        vector::add_scaled(out, row(table, width, number)?, share);
    }
    Ok(())
}

/// A row of a table, or the same error as of [`crate::nn::gather_rows`].
fn row(table: &[f32], width: usize, row: u32) -> Result<&[f32]> {
    match table.get(row as usize * width..(row as usize + 1) * width) {
        Some(values) => Ok(values),
        None => bail!("row {row} of a table with {} rows", table.len() / width.max(1)),
    }
}
