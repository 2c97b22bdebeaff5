//! A batch of histories as vectors.

use candle_core::{DType, Result, Tensor};

use super::{Embeddings, ItemRows};
use crate::{
    data::HistoryBatch,
    nn::{Mask, RowZero, gather_rows_as, mean_rows_as, newest},
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
        self.items.list_as(0, &[self.batch.users(), self.batch.rec_len])
    }

    /// `[B, length, d]`: the items' vectors, padded on the left with row 0's.
    pub fn items_on_the_right(&self, length: usize) -> Result<Tensor> {
        let rec_len = self.batch.rec_len;
        let rows = self.items.rows[0].chunks(rec_len.max(1)).zip(&self.batch.rec_lengths).flat_map(|(row, &n)| {
            // Row 0 of the table is the padding item.
            std::iter::repeat_n(0, length.saturating_sub(n)).chain(row[n.saturating_sub(length)..n].iter().copied())
        });
        let rows: Vec<u32> = rows.collect();
        gather_rows_as(&self.items.table, &rows, &[self.batch.users(), length], RowZero::Learns)
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
        let words = (&self.batch.src_words[..], self.batch.word_len);
        self.embeddings.queries(&self.batch.src_queries, words, &self.searches())
    }

    /// `[B, Ls, d]`: how the searches began.
    pub fn sources(&self) -> Result<Tensor> {
        self.embeddings.sources(&self.batch.src_sources, &self.searches())
    }

    /// `[B, Ls]`: which searches are real.
    pub fn search_mask(&self) -> Mask {
        Mask::prefixes(&self.batch.src_lengths, self.batch.src_len)
    }

    /// `[B, Ls · K, d]`: the clicked items' vectors, search by search.
    pub fn clicked_items(&self) -> Result<Tensor> {
        self.items.list_as(1, &[self.batch.users(), self.batch.src_len * self.batch.click_len])
    }

    /// `[B, Ls · K]`: which of [`Self::clicked_items`] are real.
    pub fn clicked_mask(&self) -> Mask {
        let kept = self.batch.src_clicks.iter().map(|&row| row != 0).collect();
        Mask::new(kept, self.batch.src_len * self.batch.click_len)
    }

    /// `[B, Ls, d]`: the mean of each search's clicked items, zero without clicks.
    pub fn clicked_means(&self) -> Result<Tensor> {
        let [users, searches] = self.searches();
        if self.batch.click_len == 0 {
            let d = self.items.table.dim(1)?;
            return Tensor::zeros((users, searches, d), DType::F32, self.embeddings.device());
        }
        mean_rows_as(&self.items.table, &self.items.rows[1], self.batch.click_len, &[users, searches])
    }

    /// `[B, u]`: the users' concatenated attributes.
    pub fn users(&self) -> Result<Tensor> {
        self.embeddings.users(&self.batch.user_rows)
    }

    /// B, Ls.
    fn searches(&self) -> [usize; 2] {
        [self.batch.users(), self.batch.src_len]
    }
}
