//! What the trainer knows of a model.

use candle_core::Tensor;

use super::{ModelError, RankingModel};
use crate::{
    data::{HistoryBatch, HistoryLimits, UserFeatures},
    nn::{Dropout, Parameters},
};

/// One step's examples, in host memory.
#[derive(Debug, Clone)]
pub struct TrainingBatch {
    /// Histories of B users.
    pub history: HistoryBatch,
    /// The histories' items `[B, Lr]` as they were before some were substituted; empty where none are.
    pub original_items: Vec<u32>,
    /// The clicked item of each example `[B]`.
    pub positives: Vec<u32>,
    /// Sampled items of each example `[B, N]`.
    pub negatives: Vec<u32>,
    /// Items sampled for every position of the histories `[B, Lr]`, where the model asks for them.
    pub history_negatives: Vec<u32>,
    /// Item rows sampled for the whole batch: the alignment loss's negatives `[M]`.
    pub alignment_items: Vec<u32>,
    /// Query rows sampled for the whole batch `[M]`.
    pub alignment_queries: Vec<u32>,
    /// Searches to learn from, apart from the users' histories.
    pub searches: SearchExamples,
}

impl TrainingBatch {
    /// Each example's clicked item, then its negatives: `[B, 1 + N]`.
    ///
    /// # Errors
    /// If the lists don't belong to one batch.
    pub fn candidates(&self) -> Result<Vec<u32>, ModelError> {
        candidates("users", self.history.users(), &self.positives, &self.negatives)
    }
}

/// Of `count` users or searches, whichever `what` says.
fn candidates(what: &str, count: usize, clicked: &[u32], negatives: &[u32]) -> Result<Vec<u32>, ModelError> {
    if count == 0 || clicked.len() != count || !negatives.len().is_multiple_of(count) {
        let (clicked, negatives) = (clicked.len(), negatives.len());
        return Err(ModelError::Config(format!(
            "a training batch of {count} {what} has {clicked} clicked items and {negatives} negatives"
        )));
    }
    let each = negatives.len() / count;
    let mut candidates = Vec::with_capacity(count * (1 + each));
    for (n, &clicked) in clicked.iter().enumerate() {
        candidates.push(clicked);
        candidates.extend_from_slice(&negatives[n * each..(n + 1) * each]);
    }
    Ok(candidates)
}

/// Clicks of training searches: what a search model learns from. S may be 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchExamples {
    /// Query rows `[S]`; their words are the catalogue's.
    pub queries: Vec<u32>,
    /// An item clicked for each `[S]`.
    pub clicked: Vec<u32>,
    /// Sampled items of each `[S, N]`.
    pub negatives: Vec<u32>,
    /// What the searchers had done before, `[S]` users; `None` where the model doesn't ask for it.
    pub histories: Option<HistoryBatch>,
}

impl SearchExamples {
    /// Each search's clicked item, then its negatives: `[S, 1 + N]`.
    ///
    /// # Errors
    /// If the lists don't belong to one batch, or are empty.
    pub fn candidates(&self) -> Result<Vec<u32>, ModelError> {
        candidates("searches", self.queries.len(), &self.clicked, &self.negatives)
    }
}

/// What a model's losses need of a batch; nothing else is made.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BatchPlan {
    /// How long histories are.
    pub padding: HistoryPadding,
    /// What an example is.
    pub examples: Examples,
    /// What comes with the examples.
    pub extras: Extras,
}

/// To which length the histories of a batch are padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HistoryPadding {
    /// The longest history of the batch: the least work.
    #[default]
    Longest,
    /// The model's maximal lengths: for models whose results depend on the padding (`coattention_padding = "include"`).
    Limits,
}

impl HistoryPadding {
    /// Users' histories as one batch.
    pub fn batch<'a>(
        self,
        users: impl IntoIterator<Item = &'a UserFeatures> + Clone,
        limits: HistoryLimits,
    ) -> HistoryBatch {
        match self {
            Self::Longest => HistoryBatch::padded_to_longest(users, limits),
            Self::Limits => HistoryBatch::padded_to_limits(users, limits),
        }
    }
}

/// What a training example is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Examples {
    /// A click with something before it, and the recipe's number of negatives, drawn as it says.
    #[default]
    Clicks,
    /// A click, a user's first included (its history is empty), and one negative, every item outside the history as
    /// likely as any other.
    Prefixes,
    /// A user: the last training click with all before it, and one negative *per position of the history*
    /// (`negatives` is `[B, Lr]`), drawn as for prefixes from outside the user's training clicks.
    Sequences,
}

/// What some models learn from besides.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Extras {
    /// Nothing.
    #[default]
    None,
    /// `alignment_items` and `alignment_queries`.
    Alignment,
    /// `searches`: as many as there are examples.
    Searches,
    /// The same with the searchers' histories.
    SearchesWithHistories,
    /// `history_negatives`: one per position, every item that the user had not clicked as likely as any other.
    HistoryNegatives,
    /// Other events in place of some of the histories'.
    Substitutes(Substitution),
}

/// How many events of training histories are replaced by others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Substitution {
    /// The share that is.
    pub share: f64,
    /// The share of these for which a related event stands, by the clicks of training searches: an item that shares a
    /// query, a query that leads to the item that comes next. For the others it is any.
    pub related: f64,
}

/// A click that is not learned from.
#[derive(Debug, Clone)]
pub struct HeldOutClick {
    /// Whose, as they were before it.
    pub user: UserFeatures,
    /// Item rows: the clicked one, then others; at least the one.
    pub candidates: Vec<u32>,
}

/// A step's losses, all scalars.
#[derive(Debug, Clone)]
pub struct Losses {
    /// What is minimised: the weighted sum.
    pub total: Tensor,
    /// The parts, unweighted, by the name that progress and TensorBoard show.
    pub parts: Vec<(&'static str, Tensor)>,
}

/// A model that learns by gradient descent.
pub trait TrainableModel: Send + Sync {
    /// Its tensors, by the bundle's names.
    fn parameters(&self) -> &Parameters;

    /// How much of a history it sees.
    fn limits(&self) -> HistoryLimits;

    /// What its losses need of a batch.
    fn batch_plan(&self) -> BatchPlan;

    /// Logits `[B, C]` of each user's C candidates (item rows `[B, C]`), as the losses see them, differentiable.
    fn logits(&self, history: &HistoryBatch, candidates: &[u32], dropout: &mut Dropout) -> Result<Tensor, ModelError>;

    /// The losses of a batch; `total.backward()` gives every parameter a gradient.
    fn losses(&self, batch: &TrainingBatch, dropout: &mut Dropout) -> Result<Losses, ModelError>;

    /// The tensors that [`fit_held_out`](Self::fit_held_out) sets; most models have none, and are not asked to.
    fn fitted(&self) -> Vec<&'static str> {
        vec![]
    }

    /// Fits what the losses don't teach to clicks that were not learned from: called after each epoch that is
    /// validated. A refit has no such clicks and keeps what was fitted.
    fn fit_held_out(&self, _clicks: &[HeldOutClick]) -> Result<(), ModelError> {
        Ok(())
    }

    /// The model as it stands, for validation: later steps don't change it.
    fn ranker(&self) -> Result<Box<dyn RankingModel>, ModelError>;
}
