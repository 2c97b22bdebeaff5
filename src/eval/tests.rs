//! The evaluator on a model whose scores are known.

use std::sync::Arc;

use candle_core::Device;

use super::*;
use crate::{
    data::{Catalogue, Dataset, EvaluationNegatives, Featurizer, HistoryLimits, Split, UserFeatures, fixture},
    domain::{HistoryWeights, ItemAttention},
    model::{ModelError, RankingModel, ScoreRequest, UserState},
};

const LIMITS: HistoryLimits = HistoryLimits { recommendations: 3, searches: 2, words: 2, clicks: 1 };

/// Scores an item by its distance in rows from the newest item of the history, in the rows of its own catalogue.
struct Nearest {
    /// The score of this item is NaN.
    broken_item: Option<u32>,
    device: Device,
}

impl Nearest {
    fn new() -> Self {
        Self { broken_item: None, device: Device::Cpu }
    }
}

impl RankingModel for Nearest {
    fn limits(&self) -> HistoryLimits {
        LIMITS
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn encode(&self, users: &[&UserFeatures]) -> Result<Vec<UserState>, ModelError> {
        Ok(users.iter().map(|user| UserState::new(user.recommendations.last().copied().unwrap_or(0), 4)).collect())
    }

    fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let score = |last: u32, item: u32| match self.broken_item {
            Some(broken) if broken == item => f32::NAN,
            _ => 1.0 / (1.0 + last.abs_diff(item) as f32),
        };
        let scores = requests.iter().map(|r| r.items.iter().map(|&item| score(*r.state.get(), item)).collect());
        Ok(scores.collect())
    }

    fn explain(&self, _: &UserState, _: &[u32]) -> Result<(HistoryWeights, Vec<ItemAttention>), ModelError> {
        Ok(Default::default())
    }
}

/// User n's test item lies n % 3 rows from the item before it.
fn dataset() -> Dataset {
    fixture::dataset(50, 0, (0..200u32).map(|user| fixture::User::clicking(&[40, 30, 20, 20 + user % 3])))
}

fn featurizer(catalogue: &Arc<Catalogue>) -> Featurizer {
    Featurizer::new(Arc::clone(catalogue), LIMITS)
}

fn negatives(dataset: &Dataset, line: impl Fn(u32) -> String) -> EvaluationNegatives {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("negatives.txt");
    let lines: Vec<String> = (0..dataset.users() as u32).map(|user| format!("u{user} {}", line(user))).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    EvaluationNegatives::read(&path, &dataset.catalogue).unwrap()
}

#[test]
fn every_user_in_order_over_many_chunks() {
    let dataset = dataset();
    // Distances 1, 2 and 10 from the newest item, which is i20.
    let negatives = negatives(&dataset, |user| if user % 3 == 0 { "i21 i22 i30".into() } else { "i19 i18 i10".into() });
    let evaluator = Evaluator::new(&dataset, &negatives, featurizer(&dataset.catalogue)).unwrap();
    let ranks = evaluator.ranks(&Nearest::new(), &dataset.targets(Split::Test)).unwrap();
    assert_eq!(ranks.len(), 200);
    for (user, rank) in (0..).zip(&ranks) {
        // Distance 0: before all; 1 and 2: ties count against the clicked item.
        assert_eq!(*rank, UserRank { user, rank: Rank(user % 3) });
    }
    let validation = evaluator.ranks(&Nearest::new(), &dataset.targets(Split::Validation)).unwrap();
    // Item 20 from item 30: 21, 22 and 30 are nearer, 19, 18 and 10 farther.
    assert!(validation.iter().all(|user| user.rank == Rank(if user.user % 3 == 0 { 3 } else { 0 })));
}

#[test]
fn a_permuted_catalogue_gives_the_same_ranks() {
    let dataset = dataset();
    let negatives = EvaluationNegatives::sampled(20, 3);
    let targets = dataset.targets(Split::Test);
    // Two items fewer that nobody needs, and 17 rows of items that the data doesn't have before the others: distances
    // stay.
    let mut catalogue = (*dataset.catalogue).clone();
    catalogue.items.ids = (0..17).map(|n| format!("new{n}")).chain((1..=50).map(|n| format!("i{n}"))).collect();
    catalogue.users.ids = (0..200).rev().map(|n| format!("u{n}")).collect();
    let own = Evaluator::new(&dataset, &negatives, featurizer(&dataset.catalogue)).unwrap();
    let other = Evaluator::new(&dataset, &negatives, featurizer(&Arc::new(catalogue))).unwrap();
    assert_eq!(own.ranks(&Nearest::new(), &targets).unwrap(), other.ranks(&Nearest::new(), &targets).unwrap());
}

#[test]
fn candidates_that_the_model_lacks_are_named() {
    let dataset = dataset();
    let negatives = negatives(&dataset, |_| "i48".into());
    let mut catalogue = (*dataset.catalogue).clone();
    catalogue.items.ids = (1..=47).map(|n| format!("i{n}")).collect();
    let evaluator = Evaluator::new(&dataset, &negatives, featurizer(&Arc::new(catalogue))).unwrap();
    let error = evaluator.ranks(&Nearest::new(), &dataset.targets(Split::Test)).unwrap_err().to_string();
    assert!(error.contains("\"i48\"") && error.contains("bundle's catalogue"), "{error}");
}

#[test]
fn nan_scores_name_user_and_item() {
    let dataset = dataset();
    let negatives = negatives(&dataset, |user| if user == 7 { "i2 i5".into() } else { "i3".into() });
    let evaluator = Evaluator::new(&dataset, &negatives, featurizer(&dataset.catalogue)).unwrap();
    let model = Nearest { broken_item: Some(5), ..Nearest::new() };
    let error = evaluator.ranks(&model, &dataset.targets(Split::Test)).unwrap_err().to_string();
    assert!(error.starts_with("user \"u7\", item \"i5\": the score of candidate 2 is NaN"), "{error}");
}

#[test]
fn a_clicked_item_among_its_negatives_is_refused() {
    let dataset = dataset();
    let negatives = negatives(&dataset, |user| if user == 4 { "i21".into() } else { "i3".into() });
    let evaluator = Evaluator::new(&dataset, &negatives, featurizer(&dataset.catalogue)).unwrap();
    let error = evaluator.ranks(&Nearest::new(), &dataset.targets(Split::Test)).unwrap_err().to_string();
    let place = "negatives.txt, line 5: user \"u4\": the clicked item \"i21\" is also one of the negatives";
    assert!(error.contains(place), "{error}");
}

#[test]
fn nobody_to_evaluate_is_an_error() {
    let dataset = fixture::dataset(9, 0, [fixture::User::clicking(&[1, 2])]);
    let negatives = EvaluationNegatives::sampled(3, 1);
    let evaluator = Evaluator::new(&dataset, &negatives, featurizer(&dataset.catalogue)).unwrap();
    let error = evaluator.ranks(&Nearest::new(), &dataset.targets(Split::Test)).unwrap_err();
    assert!(matches!(error, EvaluationError::NoTargets));
}

#[test]
fn popularity_counts_training_clicks_only() {
    // Training clicks: item 1 three times, item 2 twice, item 4 once; items 5 and 6 only in validation and test.
    let users = [&[1, 1, 2, 5, 6][..], &[1, 2, 4, 6, 2], &[3, 6, 6]];
    let dataset = fixture::dataset(8, 0, users.map(fixture::User::clicking));
    let negatives = negatives(&dataset, |user| if user == 1 { "i1 i4 i5 i8".into() } else { "i1 i2 i7".into() });
    let ranks = popularity_ranks(&dataset, &dataset.targets(Split::Test), &negatives).unwrap();
    let ranks: Vec<u32> = ranks.iter().map(|user| user.rank.0).collect();
    // Item 6 has no training click and ties with item 7; item 2 comes after item 1 alone.
    assert_eq!(ranks, [3, 1, 3]);
}
