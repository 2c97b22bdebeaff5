//! Ranks every target's clicked item among its negatives.

use std::fmt::Write;

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::{Rank, RankError, RowMap, RowMapError, in_chunks};
use crate::{
    data::{Dataset, EvaluationNegatives, Featurizer, NegativesError, RowHistory, Target, UserFeatures},
    model::{HeldOutClick, ModelError, RankingModel, ScoreRequest},
};

/// Why a model can't be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// No negatives for a user.
    #[error(transparent)]
    Negatives(#[from] NegativesError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Candidates that the model doesn't know.
    #[error(transparent)]
    Rows(#[from] RowMapError),
    /// Scores that can't be ordered.
    #[error("user {user:?}, item {item:?}: {source}; the model's weights are unusable")]
    Score {
        /// Whose candidates.
        user: String,
        /// Which candidate.
        item: String,
        /// Which score.
        source: RankError,
    },
    /// The clicked item stands among its own negatives, so that it could never come first.
    #[error("{place}: user {user:?}: the clicked item {item:?} is also one of the negatives: remove it there")]
    TargetAmongNegatives {
        /// The file and line of the negatives.
        place: String,
        /// Whose line.
        user: String,
        /// Which item.
        item: String,
    },
    /// Nothing to evaluate.
    #[error("there is no user to evaluate: the split needs users with at least three interactions")]
    NoTargets,
}

/// One user's rank; kept so that two models can be compared user by user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRank {
    /// User row of the data set.
    pub user: u32,
    /// Of the clicked item.
    pub rank: Rank,
}

/// A progress bar over users.
pub(crate) fn progress_bar(message: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} users · {rate} · {eta}")
        .expect("a constant template")
        .with_key("rate", |state: &ProgressState, line: &mut dyn Write| {
            // What can't be drawn is not worth a panic.
            let _ = write!(line, "{} users/s", HumanCount(state.per_sec().round() as u64));
        });
    ProgressBar::no_length().with_style(style).with_message(message)
}

/// Evaluates models on a data set.
#[derive(Debug)]
pub struct Evaluator<'a> {
    dataset: &'a Dataset,
    negatives: &'a EvaluationNegatives,
    featurizer: Featurizer,
    map: Option<RowMap>,
    progress: ProgressBar,
}

impl<'a> Evaluator<'a> {
    /// For models whose rows `featurizer`'s catalogue describes. Where that is not the data set's own, rows are
    /// translated by id.
    ///
    /// # Errors
    /// If the two catalogues have no items or no users in common.
    pub fn new(
        dataset: &'a Dataset,
        negatives: &'a EvaluationNegatives,
        featurizer: Featurizer,
    ) -> Result<Self, EvaluationError> {
        let same = std::sync::Arc::ptr_eq(&dataset.catalogue, featurizer.catalogue());
        let map = if same { None } else { RowMap::between(&dataset.catalogue, featurizer.catalogue())? };
        Ok(Self { dataset, negatives, featurizer, map, progress: ProgressBar::hidden() })
    }

    /// Shows a progress bar on standard error, if that is a terminal.
    #[must_use]
    pub fn with_progress(mut self, message: &'static str) -> Self {
        self.progress = progress_bar(message);
        self
    }

    /// The rank of every target's item among its negatives, in the targets' order.
    ///
    /// # Errors
    /// If there is no target, a user has no negatives, a candidate is outside the model's catalogue, or a score is NaN.
    pub fn ranks(&self, model: &dyn RankingModel, targets: &[Target]) -> Result<Vec<UserRank>, EvaluationError> {
        if targets.is_empty() {
            return Err(EvaluationError::NoTargets);
        }
        self.progress.set_length(targets.len() as u64);
        self.progress.set_position(0);
        let chunk = |targets: &[Target]| {
            let ranks = self.chunk(model, targets);
            self.progress.inc(targets.len() as u64);
            ranks
        };
        let ranks = in_chunks(model.device(), targets, chunk)?;
        self.progress.finish_and_clear();
        Ok(ranks)
    }

    /// Every target's click, for a model that has something to fit to it; so many of its negatives at most, evenly
    /// spaced.
    ///
    /// # Errors
    /// If a user has no negatives, the clicked item is one of them, or a candidate is outside the model's catalogue.
    pub fn clicks(&self, targets: &[Target], negatives: usize) -> Result<Vec<HeldOutClick>, EvaluationError> {
        let click = |&target: &Target| {
            let all = self.candidates(target)?;
            let every = (all.len() - 1).div_ceil(negatives.max(1)).max(1);
            let (clicked, others) = all.split_at(1);
            let candidates = clicked.iter().chain(others.iter().step_by(every)).copied().collect();
            Ok(HeldOutClick { user: self.features(target), candidates })
        };
        targets.iter().map(click).collect()
    }

    fn chunk(&self, model: &dyn RankingModel, targets: &[Target]) -> Result<Vec<UserRank>, EvaluationError> {
        let features: Vec<UserFeatures> = targets.iter().map(|&target| self.features(target)).collect();
        let items = targets.iter().map(|&target| self.candidates(target)).collect::<Result<Vec<_>, _>>()?;
        let states = model.encode(&features.iter().collect::<Vec<_>>())?;
        let requests: Vec<ScoreRequest<'_>> =
            states.iter().zip(&items).map(|(state, items)| ScoreRequest { state, items }).collect();
        let scores = model.score(&requests)?;
        let ranked = targets.iter().zip(&scores).map(|(&target, scores)| {
            let rank = Rank::of_first(scores).map_err(|source| self.score_error(target, source))?;
            Ok(UserRank { user: target.user, rank })
        });
        ranked.collect()
    }

    fn features(&self, target: Target) -> UserFeatures {
        let Some(map) = &self.map else { return self.dataset.features(target, &self.featurizer) };
        let mut searches = self.dataset.searches(target.user);
        searches.truncate(self.dataset.searches_before(target));
        let recommendations = &self.dataset.recommendations(target.user)[..target.position as usize];
        let history = RowHistory { recommendations, searches: &searches };
        map.features(target.user, history, &self.featurizer).as_of(self.dataset.time(target))
    }

    /// The clicked item and its negatives, in the model's rows.
    fn candidates(&self, target: Target) -> Result<Vec<u32>, EvaluationError> {
        let mut items = candidates(self.dataset, target, self.negatives)?;
        if let Some(map) = &self.map {
            for item in &mut items {
                let id = || self.dataset.catalogue.items.id(*item).unwrap_or_default().to_owned();
                *item = map.item(*item).ok_or_else(|| RowMapError::UnknownItem(id()))?;
            }
        }
        Ok(items)
    }

    fn score_error(&self, target: Target, source: RankError) -> EvaluationError {
        let catalogue = &self.dataset.catalogue;
        let items = candidates(self.dataset, target, self.negatives).unwrap_or_default();
        let item = items.get(source.0).and_then(|&item| catalogue.items.id(item));
        EvaluationError::Score {
            user: catalogue.users.id(target.user).unwrap_or_default().to_owned(),
            item: item.unwrap_or_default().to_owned(),
            source,
        }
    }
}

/// The clicked item, then its negatives, in the data set's rows.
///
/// # Errors
/// If the user has no negatives, or the clicked item is one of them.
pub fn candidates(
    dataset: &Dataset,
    target: Target,
    negatives: &EvaluationNegatives,
) -> Result<Vec<u32>, EvaluationError> {
    let (clicked, items) = (dataset.item(target), negatives.of(target.user, dataset)?);
    if items.contains(&clicked) {
        return Err(EvaluationError::TargetAmongNegatives {
            // What is sampled lies outside the user's sequence.
            place: negatives.place(target.user).unwrap_or_else(|| "sampled negatives".into()),
            user: dataset.catalogue.users.id(target.user).unwrap_or_default().to_owned(),
            item: dataset.catalogue.items.id(clicked).unwrap_or_default().to_owned(),
        });
    }
    Ok(std::iter::once(clicked).chain(items.iter().copied()).collect())
}
