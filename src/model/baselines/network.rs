//! What a model file provides.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use candle_core::{Device, Error, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::{NetworkRanker, NetworkTrainable};
use crate::{
    data::{Catalogue, Dataset, HistoryBatch},
    model::{
        Architecture, BatchPlan, Embeddings, HistoryVectors, InputConfig, ItemRows, Losses, ModelError, Parameter,
        ParameterList, RankerOptions, RankingModel, TrainableModel, TrainingBatch, Weights,
    },
    nn::{Dropout, Initial, RowZero, batch_matmul_transposed, binary_cross_entropy, cross_entropy, gather_rows},
};

/// How weights of attention and filter blocks begin, positions included (SASRec's and FMLP-Rec's releases). Positions
/// have to begin as small as the items that they are added to: under Xavier's, with a hundred times the items'
/// variance, a model doesn't see the items for many epochs.
pub(super) const SMALL: Initial = Initial::Normal(0.02);

/// A model's configuration.
pub trait Baseline: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// The network that it sizes.
    type Network: Network;

    /// "stamp", ...: the "model" of `config.json`.
    const KIND: &'static str;

    /// The input layer.
    fn inputs(&self) -> &InputConfig;

    /// Checks its own settings; those of the inputs are checked already.
    fn check(&self) -> std::result::Result<(), ModelError> {
        Ok(())
    }

    /// Its own tensors; those of the input layer are there already.
    fn parameters(&self, list: &mut ParameterList);

    /// The contents of its tables, by name: from what the data set has before the validation and test interactions.
    fn tables(&self, _: &Dataset) -> std::result::Result<HashMap<String, Tensor>, ModelError> {
        Ok(HashMap::new())
    }

    /// Checks the contents of its tables, whose names, shapes and types are right: they come from files.
    fn check_tables(&self, _: &HashMap<String, Tensor>) -> std::result::Result<(), ModelError> {
        Ok(())
    }

    /// What its losses need of a batch.
    fn batch_plan(&self) -> BatchPlan {
        BatchPlan::default()
    }

    /// The network over given tensors: trainable variables, or a bundle's weights.
    fn network(&self, weights: &Weights<'_>) -> std::result::Result<Self::Network, ModelError>;
}

/// A model's computation.
pub trait Network: std::fmt::Debug + Send + Sync + Sized + 'static {
    /// Encoded users.
    type Users: Users;

    /// Everything before the candidate.
    fn encode(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<Self::Users>;

    /// Logits `[B, C]` of C candidates for each of B users.
    fn logits(&self, users: &Self::Users, candidates: &Candidates<'_>, dropout: &mut Dropout) -> Result<Tensor>;

    /// Items as vectors, `[n]` rows → `[n, d]`: in histories, and as candidates.
    fn items(&self, embeddings: &Embeddings, rows: &[u32], _: &mut Dropout) -> Result<Tensor> {
        embeddings.project_items(rows)
    }

    /// Whether items' vectors change with what happens: [`Self::item_as_of`].
    const ITEMS_CHANGE: bool = false;

    /// What [`Self::items`] knows an item by as it was at a moment, or now: rows behind those of the items are for
    /// earlier states. An error for what is no item.
    fn item_as_of(&self, item: u32, _moment: Option<i64>) -> Result<u32> {
        Ok(item)
    }

    /// The same network, with what follows from the weights alone computed once. `items` are all items' vectors.
    fn loaded(self, _embeddings: &Embeddings, _items: &Tensor) -> Result<Self> {
        Ok(self)
    }

    /// What is minimised.
    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        step.binary_cross_entropy(dropout)
    }
}

/// Encoded users, B of them.
pub trait Users: Send + Sync + Sized + 'static {
    /// One of them, without the others' memory and padding.
    fn user(&self, n: usize) -> Result<Self>;

    /// Memory that it occupies.
    fn bytes(&self) -> usize;
}

/// A tower's users: `[B, d]`.
impl Users for Tensor {
    fn user(&self, n: usize) -> Result<Self> {
        // `copy` would take the whole batch's storage along.
        self.narrow(0, n, 1)?.force_contiguous()
    }

    fn bytes(&self) -> usize {
        self.elem_count() * self.dtype().size_in_bytes()
    }
}

/// C candidates for each of B users.
#[derive(Debug)]
pub struct Candidates<'a> {
    /// `[B · C]` item rows.
    pub rows: &'a [u32],
    /// `[B, C, d]`: their vectors, from [`Network::items`].
    pub vectors: Tensor,
    /// The tables, for what else a candidate comes with: who else clicked it.
    pub embeddings: &'a Embeddings,
}

/// A tower's logits: users `[B, d]`, candidates `[B, C, d]` → `[B, C]`.
pub fn dot(users: &Tensor, candidates: &Tensor) -> Result<Tensor> {
    batch_matmul_transposed(&users.unsqueeze(1)?, candidates)?.squeeze(1)
}

/// The items of B users' histories and `[B · C]` candidates, in this order, each by the row that the network knows it
/// by at its user's moment.
pub(super) fn items_as_of<N: Network>(
    network: &N,
    history: &HistoryBatch,
    candidates: &[u32],
    embed: impl FnOnce(&[&[u32]; 3]) -> Result<ItemRows>,
) -> Result<ItemRows> {
    let lists = [&history.rec_items[..], &history.src_clicks, candidates];
    if !N::ITEMS_CHANGE {
        return embed(&lists);
    }
    let at_their_moments = |items: &[u32]| -> Result<Vec<u32>> {
        let per_user = items.len() / history.users().max(1);
        let moments = history.as_of.iter().flat_map(|&as_of| std::iter::repeat_n(as_of, per_user));
        items.iter().zip(moments).map(|(&item, moment)| network.item_as_of(item, moment)).collect()
    };
    let [recommended, clicked, candidates] = lists.map(at_their_moments);
    embed(&[&recommended?, &clicked?, &candidates?])
}

/// Checks the settings of a model that is made of attention blocks of width `d`.
pub(super) fn check_attention(d: usize, num_heads: usize, num_blocks: usize) -> std::result::Result<(), ModelError> {
    if num_heads == 0 || !d.is_multiple_of(num_heads) {
        return Err(ModelError::Config(format!("the width {d} is not divisible by num_heads {num_heads}")));
    }
    if num_blocks == 0 {
        return Err(ModelError::Config("num_blocks must not be 0".into()));
    }
    Ok(())
}

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Binary cross-entropy over the clicked item and the sampled ones: SESRec's, for comparisons under one protocol.
    #[default]
    Bce,
    /// The publication's.
    Own,
}

/// One training step, as the losses see it. Items are embedded once per step, however often they occur.
#[derive(Debug)]
pub struct Step<'a, N> {
    network: &'a N,
    embeddings: &'a Embeddings,
    batch: &'a TrainingBatch,
    history: Cow<'a, HistoryBatch>,
    items: ItemRows,
    candidates: Vec<u32>,
}

impl<'a, N: Network> Step<'a, N> {
    pub(super) fn new(
        network: &'a N,
        embeddings: &'a Embeddings,
        batch: &'a TrainingBatch,
        dropout: &mut Dropout,
    ) -> std::result::Result<Self, ModelError> {
        let (history, candidates) = (batch.history.at_least_one_position(), batch.candidates()?);
        let items = Self::embed(network, embeddings, &history, &candidates, dropout)?;
        Ok(Self { network, embeddings, batch, history, items, candidates })
    }

    fn embed(
        network: &N,
        embeddings: &Embeddings,
        history: &HistoryBatch,
        candidates: &[u32],
        dropout: &mut Dropout,
    ) -> Result<ItemRows> {
        items_as_of(network, history, candidates, |lists| {
            ItemRows::distinct(lists, |rows| network.items(embeddings, rows, dropout))
        })
    }

    /// The batch's searches in place of its clicks: the searchers' histories, each clicked item with its negatives.
    ///
    /// # Errors
    /// If the batch has none with histories: [`Extras::SearchesWithHistories`](crate::model::Extras).
    pub fn searches(&self, dropout: &mut Dropout) -> Result<Self> {
        let searches = &self.batch.searches;
        let Some(histories) = &searches.histories else { bail!("the training batch has no histories of searchers") };
        let (history, candidates) = (histories.at_least_one_position(), searches.candidates().map_err(Error::wrap)?);
        let items = Self::embed(self.network, self.embeddings, &history, &candidates, dropout)?;
        Ok(Self { history, items, candidates, ..*self })
    }

    /// The batch itself.
    pub fn batch(&self) -> &'a TrainingBatch {
        self.batch
    }

    /// The tables, for what else a loss is about.
    pub fn embeddings(&self) -> &'a Embeddings {
        self.embeddings
    }

    /// The users' histories.
    pub fn history(&self) -> HistoryVectors<'_> {
        HistoryVectors::new(&self.history, self.embeddings, &self.items)
    }

    /// Each user's clicked item and its negatives.
    pub fn candidates(&self) -> Result<Candidates<'_>> {
        let vectors = self.items.list(2)?;
        let (users, width) = (self.history.users(), vectors.dim(1)?);
        let vectors = vectors.reshape((users, (), width))?;
        Ok(Candidates { rows: &self.candidates, vectors, embeddings: self.embeddings })
    }

    /// Items that are not among the history's and the candidates: `[n]` → `[n, d]`.
    pub fn further_items(&self, rows: &[u32], dropout: &mut Dropout) -> Result<Tensor> {
        let items = ItemRows::distinct(&[rows], |rows| self.network.items(self.embeddings, rows, dropout))?;
        gather_rows(&items.table, &items.rows[0], RowZero::Learns)
    }

    /// All items of the catalogue `[I, d]`, padding's row 0 included.
    pub fn all_items(&self, dropout: &mut Dropout) -> Result<Tensor> {
        self.network.items(self.embeddings, &(0..self.embeddings.item_rows() as u32).collect::<Vec<_>>(), dropout)
    }

    /// Logits `[B, 1 + N]` of the candidates.
    pub fn logits(&self, dropout: &mut Dropout) -> Result<Tensor> {
        let users = self.network.encode(&self.history(), dropout)?;
        self.network.logits(&users, &self.candidates()?, dropout)
    }

    /// Softmax cross-entropy of the clicked items over all items, padding's row 0 included as in RecBole; for networks
    /// whose logits are products of two vectors.
    pub fn softmax_over_items(&self, dropout: &mut Dropout) -> Result<Losses>
    where
        N: Network<Users = Tensor>,
    {
        let users = self.network.encode(&self.history(), dropout)?; // [B, d]
        let logits = users.matmul(&self.all_items(dropout)?.t()?)?; // [B, I]
        let loss = cross_entropy(&logits, &self.batch.positives)?;
        Ok(Losses { total: loss.clone(), parts: vec![("softmax", loss)] })
    }

    /// The mean over all candidates.
    pub fn binary_cross_entropy(&self, dropout: &mut Dropout) -> Result<Losses> {
        let bce = binary_cross_entropy(&self.logits(dropout)?)?;
        Ok(Losses { total: bce.clone(), parts: vec![("bce", bce)] })
    }
}

impl<B: Baseline> Architecture for B {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn inputs(&self) -> &InputConfig {
        Baseline::inputs(self)
    }

    fn validate(&self) -> std::result::Result<(), ModelError> {
        Baseline::inputs(self).validate()?;
        self.check()
    }

    fn parameters(&self) -> Vec<Parameter> {
        let mut list = ParameterList::default();
        Embeddings::parameters(Baseline::inputs(self), &mut list);
        Baseline::parameters(self, &mut list);
        list.into_parameters()
    }

    fn tables(&self, dataset: &Dataset) -> std::result::Result<HashMap<String, Tensor>, ModelError> {
        Baseline::tables(self, dataset)
    }

    fn check_tables(&self, tensors: &HashMap<String, Tensor>) -> std::result::Result<(), ModelError> {
        Baseline::check_tables(self, tensors)
    }

    fn trainable(
        &self,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> std::result::Result<Box<dyn TrainableModel>, ModelError> {
        Ok(Box::new(NetworkTrainable::new(self.clone(), catalogue, tensors, device)?))
    }

    fn ranker(
        &self,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
        _: RankerOptions,
    ) -> std::result::Result<Box<dyn RankingModel>, ModelError> {
        Ok(Box::new(NetworkRanker::new(self, catalogue, tensors, device)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{CpuStorage, Storage};

    use super::*;

    /// The engine's cache counts what a state occupies: a view of its batch would occupy all of that.
    #[test]
    fn a_user_takes_no_more_memory_than_it_says() -> Result<()> {
        let users = Tensor::arange(0_f32, 12.0, &Device::Cpu)?.reshape((3, 4))?;
        let user = Users::user(&users, 1)?;
        assert_eq!(user.to_vec2::<f32>()?, [[4.0, 5.0, 6.0, 7.0]]);
        let (storage, _) = user.storage_and_layout();
        let Storage::Cpu(CpuStorage::F32(values)) = &*storage else { panic!("on the CPU") };
        assert_eq!((values.len() * 4, Users::bytes(&user)), (16, 16));
        Ok(())
    }
}
