//! The network: items put together anew, which DIN ranks.

use candle_core::{Result, Tensor, bail};
use candle_nn::ops::sigmoid;

use super::{Instruments, tanh_mlp::TanhMlp};
use crate::{
    model::{
        Embeddings, HistoryVectors, ItemRows, Losses,
        baselines::{Candidates, Din, DinUsers, Network, Step},
    },
    nn::{Dropout, batch_matmul, ridge_inverse},
};

/// IV4Rec over given tensors.
#[derive(Debug, Clone)]
pub struct Iv4Rec {
    pub(super) treatment: TanhMlp,
    pub(super) keep: TanhMlp,
    pub(super) explain: TanhMlp,
    /// What ranks the rewritten items.
    pub din: Din,
    /// What led to the items.
    pub instruments: Instruments,
    pub(super) ridge: f64,
    pub(super) l2_weight: f64,
}

/// n items put together anew.
#[derive(Debug, Clone)]
pub struct Rewritten {
    /// t `[n, d]`.
    pub treatment: Tensor,
    /// t̂ `[n, d]`: t projected on the instruments; zero without any.
    pub explained: Tensor,
    /// α and β `[n, 1]`.
    pub gates: [Tensor; 2],
    /// `α t + β t̂`, `[n, d]`.
    pub items: Tensor,
}

impl Iv4Rec {
    /// Items `x [n, d]` with instruments `z [n, N, d]`, zero where an item has fewer, and `inverse [n, N, d]`, whose
    /// product with t says how the instruments make up t. The projection is a constant of z: instruments learn through
    /// the gates.
    pub fn rewrite(&self, x: &Tensor, (z, inverse): (&Tensor, &Tensor), dropout: &mut Dropout) -> Result<Rewritten> {
        let treatment = self.treatment.forward(x, dropout)?;
        let coefficients = batch_matmul(inverse, &treatment.unsqueeze(2)?)?; // [n, N, 1]
        let explained = batch_matmul(&coefficients.transpose(1, 2)?, &z.detach())?.squeeze(1)?;
        // The source flattens [d, N]: the instruments are interleaved.
        let seen = Tensor::cat(&[&treatment, &z.transpose(1, 2)?.contiguous()?.flatten_from(1)?], 1)?; // [n, d (1 + N)]
        let gate = |mlp: &TanhMlp| sigmoid(&mlp.forward(&seen, &mut Dropout::off())?);
        let [keep, explain] = [gate(&self.keep)?, gate(&self.explain)?];
        let items = (treatment.broadcast_mul(&keep)? + explained.broadcast_mul(&explain)?)?;
        Ok(Rewritten { treatment, explained, gates: [keep, explain], items })
    }

    /// `[n]` rows of [`Instruments`] → these as vectors `[n, N, d]`.
    fn instruments(&self, embeddings: &Embeddings, rows: &[u32]) -> Result<Tensor> {
        let mut queries = vec![];
        for &row in rows {
            match self.instruments.of(row) {
                Some(instruments) => queries.extend(instruments),
                None => bail!("item {row} has no instruments"),
            }
        }
        let real: Vec<f32> = queries.iter().map(|&query| f32::from(u8::from(query != 0))).collect();
        let real = Tensor::from_vec(real, (queries.len(), 1), embeddings.device())?;
        let vectors = ItemRows::distinct(&[&queries], |queries| embeddings.catalogue_queries(queries))?.list(0)?;
        let d = vectors.dim(1)?;
        vectors.broadcast_mul(&real)?.reshape((rows.len(), (), d))
    }

    /// The sum of the squares of treatment's and gates' weights.
    pub fn squares(&self) -> Result<Tensor> {
        (self.treatment.squares()? + self.keep.squares()?)? + self.explain.squares()?
    }
}

impl Network for Iv4Rec {
    type Users = DinUsers;

    fn encode(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<DinUsers> {
        self.din.encode(history, dropout)
    }

    fn logits(&self, users: &DinUsers, candidates: &Candidates<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        // The source drops out within the treatment alone.
        let mut head = dropout.without_rate();
        self.din.logits(users, candidates, &mut head)
    }

    fn items(&self, embeddings: &Embeddings, rows: &[u32], dropout: &mut Dropout) -> Result<Tensor> {
        let instruments = self.instruments(embeddings, rows)?;
        let inverse = ridge_inverse(&instruments, self.ridge)?;
        let items: Vec<u32> = rows.iter().map(|&row| self.instruments.item_of(row)).collect();
        Ok(self.rewrite(&embeddings.project_items(&items)?, (&instruments, &inverse), dropout)?.items)
    }

    const ITEMS_CHANGE: bool = true;

    fn item_as_of(&self, item: u32, moment: Option<i64>) -> Result<u32> {
        match self.instruments.as_of(item, moment) {
            Some(row) => Ok(row),
            None => bail!("row {item} of a table of {} items", self.instruments.items()),
        }
    }

    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        let Losses { total, mut parts } = step.binary_cross_entropy(dropout)?;
        let squares = self.squares()?;
        parts.push(("l2", squares.clone()));
        Ok(Losses { total: (total + (squares * self.l2_weight)?)?, parts })
    }
}
