//! A batch of histories as vectors.

use candle_core::{DType, Result, Tensor};

use super::{Embeddings, ItemRows};
use crate::{
    data::HistoryBatch,
    nn::{Mask, RowZero, gather_rows, mean_rows, newest},
};

/// Histories of B users, padded on the right to Lr recommendations and Ls searches. Nothing is embedded before it is
/// asked for. Padded positions hold the vectors of row 0, which are not zero: masks say which positions are real.
#[derive(Debug)]
pub struct HistoryVectors<'a> {
    batch: &'a HistoryBatch,
    embeddings: &'a Embeddings,
    items: &'a ItemRows,
}

impl<'a> HistoryVectors<'a> {
    /// `items` holds the batch's recommended items and clicks as its first two lists; the batch has at least one
    /// position ([`HistoryBatch::at_least_one_position`]).
    pub fn new(batch: &'a HistoryBatch, embeddings: &'a Embeddings, items: &'a ItemRows) -> Self {
        Self { batch, embeddings, items }
    }

    /// The rows behind it, lengths and interleaving included.
    pub fn batch(&self) -> &'a HistoryBatch {
        self.batch
    }

    /// The tables, for what else a model wants to embed.
    pub fn embeddings(&self) -> &'a Embeddings {
        self.embeddings
    }

    /// `[B, Lr, d]`: the items' vectors, oldest first.
    pub fn items(&self) -> Result<Tensor> {
        self.items.list(0)?.reshape((self.batch.users(), self.batch.rec_len, self.width()?))
    }

    /// `[B, length, d]`: the items' vectors, padded on the left with row 0's.
    pub fn items_on_the_right(&self, length: usize) -> Result<Tensor> {
        let rec_len = self.batch.rec_len;
        let rows = self.items.rows[0].chunks(rec_len.max(1)).zip(&self.batch.rec_lengths).flat_map(|(row, &n)| {
            // Row 0 of the table is the padding item.
            std::iter::repeat_n(0, length.saturating_sub(n)).chain(row[n.saturating_sub(length)..n].iter().copied())
        });
        let rows: Vec<u32> = rows.collect();
        gather_rows(&self.items.table, &rows, RowZero::Learns)?.reshape((self.batch.users(), length, self.width()?))
    }

    /// `[B, Lr]`: which recommendations are real.
    pub fn item_mask(&self) -> Mask {
        Mask::prefixes(&self.batch.rec_lengths, self.batch.rec_len)
    }

    /// The newest of `states [B, Lr, k]`: `[B, k]`, zero for users without recommendations.
    pub fn newest(&self, states: &Tensor) -> Result<Tensor> {
        newest(states, &self.batch.rec_lengths)
    }

    /// `[B, Ls, d]`: Q of the queries, words included.
    pub fn queries(&self) -> Result<Tensor> {
        let queries = self.embeddings.queries(&self.batch.src_queries, &self.batch.src_words, self.batch.word_len)?;
        queries.reshape((self.batch.users(), self.batch.src_len, ()))
    }

    /// `[B, Ls, d]`: how the searches began.
    pub fn sources(&self) -> Result<Tensor> {
        let sources = self.embeddings.sources(&self.batch.src_sources)?;
        sources.reshape((self.batch.users(), self.batch.src_len, ()))
    }

    /// `[B, Ls]`: which searches are real.
    pub fn search_mask(&self) -> Mask {
        Mask::prefixes(&self.batch.src_lengths, self.batch.src_len)
    }

    /// `[B, Ls · K, d]`: the clicked items' vectors, search by search.
    pub fn clicked_items(&self) -> Result<Tensor> {
        let slots = self.batch.src_len * self.batch.click_len;
        self.items.list(1)?.reshape((self.batch.users(), slots, self.width()?))
    }

    /// `[B, Ls · K]`: which of [`Self::clicked_items`] are real.
    pub fn clicked_mask(&self) -> Mask {
        let kept = self.batch.src_clicks.iter().map(|&row| row != 0).collect();
        Mask::new(kept, self.batch.src_len * self.batch.click_len)
    }

    /// `[B, Ls, d]`: the mean of each search's clicked items, zero without clicks.
    pub fn clicked_means(&self) -> Result<Tensor> {
        let shape = (self.batch.users(), self.batch.src_len, self.width()?);
        if self.batch.click_len == 0 {
            return Tensor::zeros(shape, DType::F32, self.embeddings.device());
        }
        mean_rows(&self.items.table, &self.items.rows[1], self.batch.click_len)?.reshape(shape)
    }

    /// `[B, u]`: the users' concatenated attributes.
    pub fn users(&self) -> Result<Tensor> {
        self.embeddings.users(&self.batch.user_rows)
    }

    fn width(&self) -> Result<usize> {
        self.items.table.dim(1)
    }
}
