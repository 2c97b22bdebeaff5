//! What depends on an item alone: its embedding and what scoring makes of it.

use candle_core::{Result, Tensor, bail};
use prefetch_index::prefetch_index;
use rayon::prelude::*;

use super::super::{Network, first_layer::FirstLayer};
use crate::{
    model::HostEmbeddings,
    nn::{Matrix, Product, Rows, RowsMut, Start, padded, vector, with_scratch},
};

/// Items whose vectors are computed together when the table is filled.
const SLICE: usize = 256;

/// What memory and caches exchange at a time.
const CACHE_LINE: usize = 64;

/// `E(i)`, and of it linearly the [`Features`] of a candidate: in a table by item, or computed when asked for.
#[derive(Debug)]
pub(super) struct ItemVectors {
    pub(super) features: Features,
    /// `[items, d | derived features]`.
    table: Option<Matrix>,
    /// `[d, derived features]`.
    derive: Matrix,
}

/// Where the parts of a candidate's features are: `E(i)` for models that need it, then what follows from it, `W_r
/// E(i)`, `W_s E(i)` and the share of the first prediction layer, each padded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    /// d.
    pub(super) d: usize,
    /// Outputs of the first prediction layer.
    pub(super) h: usize,
    /// Whether `E(i)` is among them.
    pub(super) embedded: bool,
}

impl Features {
    pub(super) fn new(network: &Network) -> Result<Self> {
        let h = network.head.layers[0].weight().dim(0)?;
        Ok(Self { d: network.config.hidden_dim, h, embedded: network.inner_products.is_some() })
    }

    /// Where what follows from `E(i)` begins.
    fn derived(self) -> usize {
        if self.embedded { padded(self.d) } else { 0 }
    }

    /// Where the keys of a side begin; 0 is the recommendation side.
    pub(super) fn keys(self, side: usize) -> usize {
        self.derived() + side * padded(self.d)
    }

    /// Where the share of the first layer begins.
    pub(super) fn block(self) -> usize {
        self.keys(2)
    }

    /// The distance between candidates.
    pub(super) fn stride(self) -> usize {
        self.block() + padded(self.h)
    }
}

impl ItemVectors {
    /// With a table of all items where it takes at most so many bytes.
    pub(super) fn new(network: &Network, embeddings: &HostEmbeddings, item_table_bytes: u64) -> Result<Self> {
        let mut items = Self::without_table(network)?;
        let rows = embeddings.item_rows();
        let bytes = rows as u64 * items.bytes_per_item();
        if bytes <= item_table_bytes {
            items.table = Some(items.precompute(embeddings, rows)?);
        } else {
            tracing::info!(items = rows, bytes, item_table_bytes, "item vectors are computed with each request");
        }
        Ok(items)
    }

    /// Every item is computed when it is asked for.
    pub(super) fn without_table(network: &Network) -> Result<Self> {
        let first = network.head.layers[0].weight(); // [h, 2·3d | u | d]
        let d = network.config.hidden_dim;
        let features = Features::new(network)?;
        let derived = features.derived();
        let mut derive = Matrix::zeros(d, features.block() + features.h - derived);
        let item_block = FirstLayer::new(&network.config).candidate().of(first)?;
        let parts = [
            (features.keys(0), &network.rec.pooling.w),
            (features.keys(1), &network.src.pooling.w),
            (features.block(), &item_block),
        ];
        for (column, weight) in parts {
            let part = Matrix::transposed(weight)?;
            for row in 0..d {
                let values = part.row(row);
                derive.row_mut(row)[column - derived..][..values.len()].copy_from_slice(values);
            }
        }
        Ok(Self { features, table: None, derive })
    }

    /// Memory of an item's row in the table.
    fn bytes_per_item(&self) -> u64 {
        ((padded(self.features.d) + self.features.stride() - self.features.derived()) * size_of::<f32>()) as u64
    }

    fn precompute(&self, embeddings: &HostEmbeddings, rows: usize) -> Result<Matrix> {
        let d = padded(self.features.d);
        let mut table = Matrix::zeros(rows, d + self.features.stride() - self.features.derived());
        let stride = table.stride();
        table.values_mut().par_chunks_mut(SLICE * stride).enumerate().try_for_each(|(slice, values)| {
            let count = values.len() / stride;
            let items: Vec<u32> = (0..count).map(|n| (slice * SLICE + n) as u32).collect();
            let mut embedded = vec![0.0; count * d];
            embeddings.items(&items, RowsMut { values: &mut embedded, stride: d })?;
            self.derive(&embedded, &[], RowsMut { values: &mut values[d..], stride });
            for (row, embedded) in values.chunks_exact_mut(stride).zip(embedded.chunks_exact(d)) {
                row[..d].copy_from_slice(embedded);
            }
            Ok::<_, candle_core::Error>(())
        })?;
        Ok(table)
    }

    /// Derived features of embedded items `[n, d]`; `user_block` is added to their share of the first layer.
    fn derive(&self, embedded: &[f32], user_block: &[f32], out: RowsMut<'_>) {
        let (d, derived) = (self.features.d, self.features.derived());
        let (columns, block) = (self.features.stride() - derived, self.features.block() - derived);
        let rows = embedded.len() / padded(d);
        with_scratch([columns], |[start]| {
            start.fill(0.0);
            start[block..block + user_block.len()].copy_from_slice(user_block);
            Product {
                shape: (rows, d, block + self.features.h),
                a: Rows { values: embedded, stride: padded(d) },
                b: self.derive.view(),
                start: Start::Row(start),
                c: out,
            }
            .run();
        });
    }

    /// E of items: `[n, d]`, rows padded.
    pub(super) fn embed(&self, embeddings: &HostEmbeddings, items: &[u32], out: &mut [f32]) -> Result<()> {
        let stride = padded(self.features.d);
        let Some(table) = &self.table else { return embeddings.items(items, RowsMut { values: out, stride }) };
        for (&item, out) in items.iter().zip(out.chunks_exact_mut(stride)) {
            out.copy_from_slice(&self.row(table, item)?[..stride]);
        }
        Ok(())
    }

    /// Has the table's rows of items fetched into the caches, for [`Self::candidates`] that comes later.
    pub(super) fn prefetch(&self, items: &[u32]) {
        let Some(table) = &self.table else { return };
        for &item in items {
            let row = self.features_of(table, item).unwrap_or_default();
            for line in (0..row.len()).step_by(CACHE_LINE / size_of::<f32>()) {
                prefetch_index(row, line);
            }
        }
    }

    /// Features of candidates `[n, features]`, the user's share of the first layer added.
    pub(super) fn candidates(
        &self,
        embeddings: &HostEmbeddings,
        items: &[u32],
        user_block: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let (d, stride, block) = (padded(self.features.d), self.features.stride(), self.features.block());
        let Some(table) = &self.table else {
            return with_scratch([items.len() * d], |[embedded]| {
                embeddings.items(items, RowsMut { values: embedded, stride: d })?;
                let derived = self.features.derived();
                for (out, embedded) in out.chunks_exact_mut(stride).zip(embedded.chunks_exact(d)) {
                    out[..derived].copy_from_slice(&embedded[..derived]);
                }
                self.derive(embedded, user_block, RowsMut { values: &mut out[derived..], stride });
                Ok(())
            });
        };
        vector::vectorized(
            #[inline(always)]
            || {
                for (&item, out) in items.iter().zip(out.chunks_exact_mut(stride)) {
                    out.copy_from_slice(self.features_of(table, item)?);
                    vector::add_scaled(&mut out[block..], user_block, 1.0);
                }
                Ok(())
            },
        )
    }

    /// Both sides' keys as tensors, for explanations.
    pub(super) fn keys(&self, embeddings: &HostEmbeddings, items: &[u32]) -> Result<[Tensor; 2]> {
        let (d, stride) = (self.features.d, self.features.stride());
        let mut features = vec![0.0; items.len() * stride];
        self.candidates(embeddings, items, &[], &mut features)?;
        let side = |side: usize| {
            let start = self.features.keys(side);
            let keys: Vec<f32> =
                features.chunks_exact(stride).flat_map(|row| &row[start..start + d]).copied().collect();
            Tensor::from_vec(keys, (items.len(), d), &candle_core::Device::Cpu)
        };
        Ok([side(0)?, side(1)?])
    }

    /// An item's [`Features`], user's share not added. The table's rows begin with E(i), wanted or not.
    #[inline(always)]
    fn features_of<'a>(&self, table: &'a Matrix, item: u32) -> Result<&'a [f32]> {
        Ok(&self.row(table, item)?[padded(self.features.d) - self.features.derived()..])
    }

    fn row<'a>(&self, table: &'a Matrix, item: u32) -> Result<&'a [f32]> {
        if item as usize >= table.rows() {
            bail!("row {item} of a table with {} rows", table.rows())
        }
        Ok(table.padded_row(item as usize))
    }
}
