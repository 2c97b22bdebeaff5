//! What holds for every model, whatever its weights and its loss. `SESREC_TEST_DEVICE` says where (default `cpu`).

use std::collections::{HashMap, HashSet};

use candle_core::{DType, Tensor};
use proptest::prelude::*;
use sesrec::{
    data::UserFeatures,
    model::{
        Bundle, Examples, Extras, ModelConfig, ModelKind, RankerOptions, RankingModel, ScoreRequest, Setting,
        TrainableModel, TrainingBatch, sesrec::SesRecConfig,
    },
    nn::{Adam, AdamOptions, Dropout, sigmoid},
};

use crate::device::test_device;
use crate::fixture::{ITEMS, any_user, batch, catalogue, dataset, inputs, some_users};
use crate::sesrec::extended;

/// Every model, with every loss that it has, with what it can do without and as `--recipe best` builds it; SESRec also
/// with all that its release doesn't have, and more than one block.
pub fn models() -> Vec<ModelConfig> {
    let (inputs, heads) = inputs();
    let with_losses = |&kind: &ModelKind| {
        let config = kind.config(inputs.clone(), heads);
        let mut json = serde_json::to_value(&config).unwrap();
        if let Some(margin) = json.get_mut("triplet_margin") {
            // Of SESRec's default no user here falls short.
            *margin = 10.0.into();
        }
        let mut configs = vec![ModelConfig::from_json(json.to_string().as_bytes()).unwrap()];
        // Other losses and reduced models, where a model has them.
        for (setting, value) in [("loss", "own"), ("interest_extraction", "single"), ("search", "words")] {
            if json.get(setting).is_some() {
                configs.push(configs[0].with_settings(&[Setting::new(setting, value)]).unwrap());
            }
        }
        // Whose tensors alone there is a path of its own for, and those that publish without.
        if matches!(kind, ModelKind::Sesrec | ModelKind::Fmlp | ModelKind::SasRec) {
            configs.push(configs[0].with_settings(&[Setting::new("item_projection", false)]).unwrap());
        }
        let better = kind.better_settings();
        if !better.is_empty() {
            configs.push(configs[0].with_settings(&better).unwrap());
        }
        if let ModelConfig::Sesrec(config) = configs[0].clone() {
            configs.push(ModelConfig::Sesrec(extended(SesRecConfig { num_blocks: 2, ..config })));
        }
        configs
    };
    ModelKind::all().iter().flat_map(with_losses).collect()
}

pub fn trainable(config: &ModelConfig) -> Box<dyn TrainableModel> {
    config.new_trainable(&dataset(), 3, test_device()).unwrap()
}

/// What the loader would make for the model: users as they can be in histories of this model, negatives as it asks.
fn batch_for(config: &ModelConfig, model: &dyn TrainableModel, users: &[UserFeatures]) -> TrainingBatch {
    let seen: Vec<UserFeatures> = users.iter().map(|user| as_seen_by(config, user)).collect();
    let mut batch = batch(&seen);
    if model.batch_plan().extras == Extras::SearchesWithHistories {
        batch.searches.histories = Some(batch.history.clone());
    }
    let negative = |n: usize| 1 + (n as u32 * 7) % ITEMS;
    match model.batch_plan().examples {
        Examples::Clicks => {}
        Examples::Prefixes => batch.negatives = (0..users.len()).map(negative).collect(),
        Examples::Sequences => batch.negatives = (0..users.len() * batch.history.rec_len).map(negative).collect(),
    }
    batch
}

/// A featurizer with the model's limits gives no searches to a model that sees none.
fn as_seen_by(config: &ModelConfig, user: &UserFeatures) -> UserFeatures {
    let (mut user, limits) = (user.clone(), config.limits());
    user.recommendations.truncate(limits.recommendations);
    user.searches.truncate(limits.searches);
    user.searches.iter_mut().for_each(|search| search.clicks.truncate(limits.clicks));
    user
}

pub fn score(ranker: &dyn RankingModel, users: &[UserFeatures], items: &[u32]) -> Vec<Vec<f32>> {
    let states = ranker.encode(&users.iter().collect::<Vec<_>>()).unwrap();
    let requests: Vec<_> = states.iter().map(|state| ScoreRequest { state, items }).collect();
    let mut scores = ranker.score(&requests).unwrap();
    scores.iter_mut().for_each(|scores| sigmoid(scores));
    scores
}

/// The largest difference; infinite where there is no number.
pub fn far(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert!(a.iter().map(Vec::len).eq(b.iter().map(Vec::len)), "answers of the same lengths");
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |max, x| if x.is_nan() { f32::INFINITY } else { max.max(x) })
}

#[test]
fn names_are_the_command_lines() {
    let names: HashSet<&str> = models().iter().map(ModelConfig::kind).collect();
    assert_eq!(names.len(), ModelKind::all().len());
    for config in models() {
        let name = serde_json::to_value(&config).unwrap()["model"].clone();
        assert_eq!(name, config.kind());
        assert!(<ModelKind as clap::ValueEnum>::from_str(config.kind(), false).is_ok(), "{name}");
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    for config in models() {
        let model = trainable(&config);
        let losses = model
            .losses(&batch_for(&config, &*model, &some_users()), &mut Dropout::seeded(0.1, 5))
            .unwrap_or_else(|error| panic!("{}: {error}", config.kind()));
        let gradients = losses.total.backward().unwrap();
        // A softmax doesn't see what is added to all of a request's logits.
        let compares = serde_json::to_value(&config).unwrap()["prediction_loss"] == "softmax";
        for (name, var) in model.parameters().iter() {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{}: {name} has no gradient", config.kind()));
            let values = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values.iter().all(|value| value.is_finite()), "{}: {name}: {values:?}", config.kind());
            let unseen = compares && name == "fc_layer.fc.6.bias";
            let learns = unseen || values.iter().any(|&value| value != 0.0);
            assert!(learns, "{}: {name}: its gradient is zero", config.kind());
        }
    }
}

#[test]
fn one_batch_can_be_learned_by_heart() {
    // All with recommendations: without, a model that sees nothing else can't tell items apart.
    let users: Vec<_> = some_users().into_iter().filter(|user| !user.recommendations.is_empty()).collect();
    for config in models() {
        let model = trainable(&config);
        let batch = batch_for(&config, &*model, &users);
        let options = AdamOptions { learning_rate: 2e-2, ..AdamOptions::default() };
        let mut adam = Adam::new(model.parameters(), options).unwrap();
        let mut step = || {
            let losses = model.losses(&batch, &mut Dropout::off()).unwrap();
            adam.step(&losses.total.backward().unwrap().into()).unwrap();
            // What is to be predicted, and what searches teach beside it.
            let parts = losses.parts.iter().enumerate().filter(|(n, (name, _))| *n == 0 || *name == "search");
            let parts: Vec<f32> = parts.map(|(_, (_, loss))| loss.to_scalar().unwrap()).collect();
            assert!(parts.iter().all(|loss| loss.is_finite()), "{}: {parts:?}", config.kind());
            parts
        };
        let first = step();
        // At this rate a loss may bounce; when it does depends on how a machine rounds.
        let lowest = (0..80).map(|_| step()).fold(first.clone(), |lowest, losses| {
            lowest.iter().zip(losses).map(|(lowest, loss)| lowest.min(loss)).collect()
        });
        let learned = lowest.iter().zip(&first).all(|(lowest, first)| *lowest < 0.4 * first);
        assert!(learned, "{}: from {first:?} to {lowest:?}", config.kind());
    }
}

/// From fresh moments and without L2, rows that are not looked up stay where they are in both.
#[test]
fn a_first_step_by_rows_is_the_step_of_all_rows() {
    for config in models() {
        let [by_rows, dense] = [true, false].map(|lazy| {
            let model = trainable(&config);
            let batch = batch_for(&config, &*model, &some_users());
            // A large epsilon: else a step is the gradient's sign, and rounding decides that of a gradient near zero.
            let options = AdamOptions { learning_rate: 0.1, epsilon: 1.0, lazy, ..AdamOptions::default() };
            let mut adam = Adam::new(model.parameters(), options).unwrap();
            let losses = model.losses(&batch, &mut Dropout::seeded(0.1, 5)).unwrap();
            adam.step(&adam.backward(&losses.total).unwrap()).unwrap();
            model.parameters().snapshot().unwrap()
        });
        assert_eq!(by_rows.len(), dense.len());
        for (name, tensor) in &by_rows {
            let [a, b] = [tensor, &dense[name]]
                .map(|tensor| tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap());
            assert_eq!(a.len(), b.len(), "{}: {name}", config.kind());
            let far = a.iter().zip(b).map(|(a, b)| (a - b).abs());
            let far = far.fold(0.0, |max, x| if x.is_nan() { f64::INFINITY } else { max.max(x) });
            assert!(far <= 1e-6, "{}: {name} differs by {far}", config.kind());
        }
    }
}

#[test]
fn any_history_has_scores() {
    for config in models() {
        let model = trainable(&config).ranker().unwrap();
        let users: Vec<_> = some_users().iter().map(|user| as_seen_by(&config, user)).collect();
        let scores = score(&*model, &users, &[1, 2, ITEMS]);
        assert!(scores.iter().flatten().all(|score| score.is_finite() && (0.0..=1.0).contains(score)), "{scores:?}");
        // Different histories matter.
        assert!(far(&scores[..1], &scores[1..2]) > 1e-6, "{}: {scores:?}", config.kind());
        let states = model.encode(&[&users[0], &users[4]]).unwrap();
        assert!(states.iter().all(|state| state.bytes() > 0));
        for state in &states {
            let (events, items) = model.explain(state, &[1, 2]).unwrap();
            assert_eq!(items.len(), 2);
            assert_eq!(model.explain(state, &[]).unwrap(), (events, vec![]), "events alone");
        }
    }
}

/// Others get no search at all, whatever the user did.
#[test]
fn searches_matter_to_those_that_read_them() {
    for config in models() {
        let reads = ["sesrec", "nrhub", "query-seqrec", "srjgraph"].contains(&config.kind());
        let users: Vec<_> = some_users().iter().map(|user| as_seen_by(&config, user)).collect();
        assert_eq!(users.iter().any(|user| !user.searches.is_empty()), reads, "{}", config.kind());
        let without: Vec<_> = users.iter().map(|user| UserFeatures { searches: vec![], ..user.clone() }).collect();
        let model = trainable(&config).ranker().unwrap();
        let scores = [users, without].map(|users| score(&*model, &users, &[1, 2, ITEMS]));
        assert_eq!(far(&scores[0], &scores[1]) > 1e-6, reads, "{}: {scores:?}", config.kind());
    }
}

/// After some steps: whatever a network derives from its tensors, it derives from what they have become.
#[test]
fn what_is_trained_is_what_is_served() {
    for config in models() {
        let model = trainable(&config);
        let batch = batch_for(&config, &*model, &some_users());
        let options = AdamOptions { learning_rate: 1e-2, ..AdamOptions::default() };
        let mut adam = Adam::new(model.parameters(), options).unwrap();
        for step in 0..5 {
            let losses = model.losses(&batch, &mut Dropout::seeded(0.1, step)).unwrap();
            adam.step(&adam.backward(&losses.total).unwrap()).unwrap();
        }
        let users: Vec<_> = some_users().iter().map(|user| as_seen_by(&config, user)).collect();
        let items = [3, 1, 40, 7];
        let candidates: Vec<u32> = users.iter().flat_map(|_| items).collect();
        let history = batch_for(&config, &*model, &users).history;
        let logits = model.logits(&history, &candidates, &mut Dropout::off()).unwrap();
        let trained = candle_nn::ops::sigmoid(&logits).unwrap().to_vec2::<f32>().unwrap();
        let served = score(&*model.ranker().unwrap(), &users, &items);
        assert!(far(&trained, &served) < 1e-5, "{}: {trained:?} {served:?}", config.kind());
    }
}

#[test]
fn wrong_rows_are_errors_and_no_candidates_are_fine() {
    for config in models() {
        let model = trainable(&config).ranker().unwrap();
        let users: Vec<_> = some_users().iter().map(|user| as_seen_by(&config, user)).collect();
        let states = model.encode(&[&users[0]]).unwrap();
        let error = model.score(&[ScoreRequest { state: &states[0], items: &[ITEMS + 1] }]).unwrap_err();
        assert!(error.to_string().contains("row 41"), "{}: {error}", config.kind());
        let mut user = users[0].clone();
        user.recommendations = vec![ITEMS + 1];
        // Where no event is read, none can be wrong.
        let reads = config.limits().recommendations > 0;
        assert_eq!(model.encode(&[&user]).is_err(), reads, "{}", config.kind());
        assert!(model.encode(&[]).unwrap().is_empty() && model.score(&[]).unwrap().is_empty());
        let mixed =
            [ScoreRequest { state: &states[0], items: &[] }, ScoreRequest { state: &states[0], items: &[1, 2] }];
        assert_eq!(model.score(&mixed).unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [0, 2]);
    }
}

#[test]
fn bundles_come_back() {
    for config in models() {
        let dir = tempfile::tempdir().unwrap();
        let model = trainable(&config);
        let users: Vec<_> = some_users().iter().map(|user| as_seen_by(&config, user)).collect();
        let before = score(&*model.ranker().unwrap(), &users, &[1, 2, 3]);
        let tensors = model.parameters().snapshot().unwrap();
        let bundle = Bundle::new(config.clone(), catalogue(), tensors.clone(), None).unwrap();
        bundle.write(&dir.path().join("model")).unwrap();
        let read = Bundle::read(&dir.path().join("model")).unwrap();
        assert_eq!(read.config, config);
        assert_eq!(score(&*read.ranker(test_device(), RankerOptions::default()).unwrap(), &users, &[1, 2, 3]), before);
        refuses_wrong_weights(&config, &tensors);
    }
}

/// Each tensor in turn is missing, of another shape, not finite or, where it holds rows, not of integers.
fn refuses_wrong_weights(config: &ModelConfig, tensors: &HashMap<String, Tensor>) {
    for name in tensors.keys() {
        let wrong = |tensor: Option<Tensor>| {
            let mut tensors = tensors.clone();
            match tensor {
                Some(tensor) => tensors.insert(name.clone(), tensor),
                None => tensors.remove(name),
            };
            Bundle::new(config.clone(), catalogue(), tensors, None).unwrap_err().to_string()
        };
        let tensor = &tensors[name];
        let longer = Tensor::cat(&[tensor.flatten_all().unwrap(), tensor.flatten_all().unwrap()], 0).unwrap();
        let unusable = match tensor.dtype() {
            DType::U32 => tensor.to_dtype(DType::F32),
            _ => tensor / 0.0,
        };
        for error in [wrong(None), wrong(Some(longer)), wrong(Some(unusable.unwrap()))] {
            assert!(error.contains(name.as_str()), "{name}: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// In company, a user is padded to the others' lengths, and candidates are scored along with others': neither
    /// shows.
    #[test]
    fn batched_equals_one_by_one(users in proptest::collection::vec(any_user(), 1..6)) {
        let items: Vec<u32> = (1..=ITEMS).collect();
        for config in models() {
            let model = trainable(&config).ranker().unwrap();
            let users: Vec<_> = users.iter().map(|user| as_seen_by(&config, user)).collect();
            let together = score(&*model, &users, &items);
            for (user, together) in users.iter().zip(together) {
                let alone = score(&*model, std::slice::from_ref(user), &items);
                prop_assert!(far(&alone, &[together]) < 1e-5, "{}", config.kind());
            }
        }
    }
}
