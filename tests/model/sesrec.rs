//! What holds for SESRec besides what holds for every model: its padding modes, sets and explanations; and for bundles,
//! with SESRec in them: damaged weights are refused.

use std::{collections::HashMap, path::Path, slice::from_ref, sync::Arc};

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use sesrec::{
    data::{Attribute, HistoryBatch, HistoryLimits, ITEM_WORDS, SearchFeatures, UserFeatures, UserRow},
    model::{
        AttributeConfig, Bundle, BundleError, HeldOutClick, InputSizes, ModelConfig, RankerOptions, RankingModel,
        ScoreRequest, TrainableModel, TrainingBatch,
        convert::{Sources, convert},
        sesrec::{
            CoattentionPadding, Compared, InterestExtraction, Positions, PredictionLoss, SesRecConfig, SesRecRanker,
            SesRecTrainable, Threshold,
        },
    },
    nn::{Adam, AdamOptions, Dropout},
};

use crate::contract::{far, score};
use crate::device::test_device;
use crate::fixture::{ITEMS, LIMITS, USERS, any_user, batch, catalogue, dataset, some_users, user};

fn config() -> SesRecConfig {
    let sizes = InputSizes { item: (12, 4), user: (6, 2), query: (6, 5), heads: 2, limits: LIMITS };
    let mut config = SesRecConfig::for_catalogue(&catalogue(), sizes);
    config.triplet_margin = 10.0;
    config.num_blocks = 2;
    config
}

/// Everything that the release doesn't have, and no user embedding.
pub fn extended(mut config: SesRecConfig) -> SesRecConfig {
    let words = config.inputs.query_features.unwrap().word_segs;
    config.inputs.item_attributes.push(AttributeConfig { name: ITEM_WORDS.into(), rows: words.rows, dim: words.dim });
    config.inputs.item_attributes[0].dim += 3;
    config.inputs.user_attributes.clear();
    config.hidden_dim = config.inputs.item_dim() - 4;
    config.inputs.item_width = Some(config.hidden_dim);
    config.inputs.query_features.as_mut().unwrap().search_source.as_mut().unwrap().dim = config.hidden_dim;
    config.coattention = Compared::Aligned;
    config.prediction_loss = PredictionLoss::Softmax;
    config.positions_from = Positions::Newest;
    (config.item_bias, config.matching, config.inner_products) = (true, true, true);
    (config.shared_words, config.clicked_together) = (true, true);
    config.validate().unwrap();
    config
}

/// Weights of a size at which every part matters.
fn weights(config: &SesRecConfig) -> HashMap<String, Tensor> {
    let model = ModelConfig::Sesrec(config.clone()).new_trainable(&dataset(), 3, &Device::Cpu).unwrap();
    let mut weights = model.parameters().snapshot().unwrap();
    if let Some(bias) = weights.get_mut("item_bias.weight") {
        let values = (0..bias.elem_count()).map(|n| (n as f32 * 0.7).sin()).collect::<Vec<f32>>();
        *bias = Tensor::from_vec(values, bias.shape(), &Device::Cpu).unwrap();
    }
    for name in ["matching.weight", "inner_products.weight", "shared_words.weight", "clicked_together.weight"] {
        let Some(matching) = weights.get_mut(name) else { continue };
        let values = (0..matching.elem_count()).map(|n| 0.3 - 0.11 * n as f32).collect::<Vec<f32>>();
        *matching = Tensor::from_vec(values, matching.shape(), &Device::Cpu).unwrap();
    }
    weights
}

fn ranker(config: &SesRecConfig) -> SesRecRanker {
    SesRecRanker::new(config.clone(), catalogue(), &weights(config), &Device::Cpu, RankerOptions::default()).unwrap()
}

/// Every number of the explanations of some items to each user, one after another.
fn explanations(ranker: &SesRecRanker, users: &[UserFeatures], items: &[u32]) -> Vec<f32> {
    let states = ranker.encode(&users.iter().collect::<Vec<_>>()).unwrap();
    let explained = states.iter().flat_map(|state| {
        let (weights, attention) = ranker.explain(state, items).unwrap();
        let events = [weights.recommendations, weights.searches].concat().into_iter().map(|event| event.coattention);
        let sides = attention.into_iter().flat_map(|item| [item.recommendations, item.searches]);
        events.chain(sides.flat_map(|side| [side.all, side.similar, side.dissimilar].concat())).collect::<Vec<_>>()
    });
    explained.collect()
}

/// It is encoded, so that this would not be so by itself.
#[test]
fn padding_gets_no_gradient() {
    for config in [config(), extended(config())] {
        let model =
            SesRecTrainable::from_tensors(config.clone(), catalogue(), &weights(&config), &Device::Cpu).unwrap();
        let losses = model.losses(&batch(&some_users()), &mut Dropout::seeded(0.1, 5)).unwrap();
        let gradients = losses.total.backward().unwrap();
        for name in ["query_item_feat.item_feat.item_id_emb.weight", "query_item_feat.query_id_emb.weight"] {
            let gradient = gradients.get(model.parameters().get(name).unwrap()).unwrap();
            let padding = gradient.get(0).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert_eq!(padding, 0.0, "{name}");
        }
    }
}

/// Items have their words in the table of queries' words; a column of user_features.csv may have any name.
#[test]
fn a_user_attribute_named_words_has_a_table_of_its_own() {
    let mut catalogue = (*catalogue()).clone();
    let values = (0..catalogue.users.rows() as u32).map(|row| row % 30).collect();
    catalogue.users.attributes.push(Attribute { name: ITEM_WORDS.into(), rows: 30, values });
    let mut config = config();
    config.inputs.user_attributes.push(AttributeConfig { name: ITEM_WORDS.into(), rows: 30, dim: 2 });
    let model = SesRecTrainable::new(config, Arc::new(catalogue), 1, &Device::Cpu).unwrap();
    let losses = model.losses(&batch(&some_users()), &mut Dropout::off()).unwrap();
    let gradients = losses.total.backward().unwrap();
    assert!(gradients.get(model.parameters().get("user_feat.user_words_emb.weight").unwrap()).is_some());
    let users = some_users();
    let states = model.ranker().unwrap().encode(&users.iter().collect::<Vec<_>>());
    assert!(states.is_ok(), "on the CPU's own way, too");
}

/// What counts weigh is not learned, and is fitted to clicks that were not learned from.
#[test]
fn counts_are_fitted_to_held_out_clicks() {
    let config = extended(config());
    let (users, names) = (some_users(), ["shared_words.weight", "clicked_together.weight"]);
    let weighing = |weight: f32| {
        let mut tensors = weights(&config);
        for name in names {
            let shape = tensors[name].shape().clone();
            tensors.insert(name.into(), Tensor::full(weight, shape, &Device::Cpu).unwrap());
        }
        SesRecTrainable::from_tensors(config.clone(), catalogue(), &tensors, test_device()).unwrap()
    };
    let loss = |model: &SesRecTrainable| {
        model.losses(&batch(&users), &mut Dropout::off()).unwrap().total.to_scalar::<f32>().unwrap()
    };
    let (learned, counted) = (weighing(0.0), weighing(1.0));
    assert_eq!(loss(&learned), loss(&counted), "the losses don't know them");
    assert_eq!(learned.fitted(), names);
    assert!(learned.parameters().iter().all(|(name, _)| !names.contains(&name)), "no gradient moves them");

    // Of each user's candidates, that one is clicked which counts speak for most; the lists are of several lengths.
    let items: Vec<u32> = (1..=ITEMS).collect();
    let scores = |model: &SesRecTrainable| -> Vec<Vec<f32>> {
        let ranker = model.ranker().unwrap();
        let states = ranker.encode(&users.iter().collect::<Vec<_>>()).unwrap();
        let requests: Vec<_> = states.iter().map(|state| ScoreRequest { state, items: &items }).collect();
        ranker.score(&requests).unwrap()
    };
    let each = users.iter().enumerate().zip(scores(&learned)).zip(scores(&counted));
    let clicks = each.map(|(((n, user), learned), counted)| {
        let added: Vec<f32> = learned.into_iter().zip(counted).map(|(learned, counted)| counted - learned).collect();
        let most = (0..added.len()).max_by(|&a, &b| added[a].total_cmp(&added[b])).unwrap();
        let mut candidates = items.clone();
        candidates.swap(0, most);
        candidates.truncate(items.len() - n);
        HeldOutClick { user: user.clone(), candidates }
    });
    let clicks: Vec<HeldOutClick> = clicks.collect();
    let fitted = |model: &SesRecTrainable, clicks: &[HeldOutClick]| -> Vec<f32> {
        model.fit_held_out(clicks).unwrap();
        let weights = model.parameters().snapshot().unwrap();
        names.iter().flat_map(|name| weights[*name].to_vec1::<f32>().unwrap()).collect()
    };
    let weights = fitted(&learned, &clicks);
    assert!(weights.iter().sum::<f32>() > 0.1, "{weights:?}");
    assert_eq!(fitted(&counted, &clicks), weights, "what they weighed before doesn't matter");
    assert_eq!(fitted(&counted, &[]), [0.0; 6], "without clicks nothing counts");
}

#[test]
fn without_clicks_alignment_is_zero_and_training_goes_on() {
    let mut users = some_users();
    users.iter_mut().flat_map(|user| &mut user.searches).for_each(|search| search.clicks.clear());
    let model = SesRecTrainable::new(config(), catalogue(), 1, &Device::Cpu).unwrap();
    let losses = model.losses(&batch(&users), &mut Dropout::off()).unwrap();
    assert_eq!(losses.parts[1].0, "align");
    assert_eq!(losses.parts[1].1.to_scalar::<f32>().unwrap(), 0.0);
    let options = AdamOptions { learning_rate: 1e-3, ..AdamOptions::default() };
    Adam::new(model.parameters(), options).unwrap().step(&losses.total.backward().unwrap().into()).unwrap();
}

#[test]
fn it_overfits_one_batch() {
    let users: Vec<_> = some_users().into_iter().take(3).collect();
    // What a user clicked is none of their negatives.
    let batch = TrainingBatch { negatives: (10..22).collect(), ..batch(&users) };
    for (config, loss) in [(config(), "bce"), (extended(config()), "softmax")] {
        let model =
            SesRecTrainable::from_tensors(config.clone(), catalogue(), &weights(&config), &Device::Cpu).unwrap();
        let mut adam =
            Adam::new(model.parameters(), AdamOptions { learning_rate: 1e-2, ..AdamOptions::default() }).unwrap();
        let prediction = |losses: &sesrec::model::Losses| {
            assert_eq!(losses.parts[0].0, loss);
            losses.parts[0].1.to_scalar::<f32>().unwrap()
        };
        let first = prediction(&model.losses(&batch, &mut Dropout::off()).unwrap());
        let mut last = first;
        for _ in 0..60 {
            let losses = model.losses(&batch, &mut Dropout::off()).unwrap();
            last = prediction(&losses);
            adam.step(&losses.total.backward().unwrap().into()).unwrap();
        }
        assert!(last < 0.2 * first, "{loss}: from {first} to {last}");
    }
}

#[test]
fn empty_histories_are_finite_and_the_other_side_is_uniform() {
    for padding in [CoattentionPadding::Exclude, CoattentionPadding::Include] {
        let config = SesRecConfig { coattention_padding: padding, ..config() };
        let ranker = ranker(&config);
        let scores = score(&ranker, &some_users(), &[1, 2, 40]);
        assert!(scores.iter().flatten().all(|score| score.is_finite() && (0.0..=1.0).contains(score)), "{scores:?}");
        let users = some_users();
        let states = ranker.encode(&[&users[3], &users[4]]).unwrap();
        let (weights, attention) = ranker.explain(&states[0], &[1]).unwrap();
        assert!(weights.searches.is_empty() && attention[0].searches.all.is_empty());
        assert_eq!(weights.recommendations.len(), 3);
        for weight in &weights.recommendations {
            assert!((weight.coattention - 1.0 / 3.0).abs() < 1e-6 && weight.similar && weight.dissimilar);
        }
        // Nothing known: the score is the user's and the item's alone, so equal users get equal scores.
        let same = score(&ranker, &[users[4].clone(), users[4].clone()], &[5, 6]);
        assert_eq!(same[0], same[1]);
        assert_eq!(ranker.explain(&states[1], &[1]).unwrap().0, Default::default());
    }
}

#[test]
fn explanations_add_up() {
    for threshold in [Threshold::Mean, Threshold::Median, Threshold::Constant(1.0 / 8.0), Threshold::Constant(0.9)] {
        let ranker = ranker(&SesRecConfig { threshold, ..config() });
        let users = some_users();
        let states = ranker.encode(&[&users[0]]).unwrap();
        let (weights, attention) = ranker.explain(&states[0], &[4, 30]).unwrap();
        for side in [&weights.recommendations, &weights.searches] {
            assert!((side.iter().map(|event| event.coattention).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        for item in &attention {
            let sides = [(&item.recommendations, &weights.recommendations), (&item.searches, &weights.searches)];
            for (attention, events) in sides {
                for pooling in [&attention.all, &attention.similar, &attention.dissimilar] {
                    assert_eq!(pooling.len(), events.len());
                    assert!((pooling.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{pooling:?}");
                }
                for (n, event) in events.iter().enumerate() {
                    assert!(event.similar || attention.similar[n] == 0.0);
                    assert!(event.dissimilar || attention.dissimilar[n] == 0.0);
                }
            }
        }
    }
}

#[test]
fn wrong_rows_are_errors() {
    let ranker = ranker(&config());
    let users = some_users();
    let states = ranker.encode(&[&users[0]]).unwrap();
    let error = ranker.score(&[ScoreRequest { state: &states[0], items: &[ITEMS + 1] }]).unwrap_err();
    assert!(error.to_string().contains("row 41"), "{error}");
    assert!(ranker.encode(&[&user(UserRow::Known(USERS), &[1], &[])]).is_err());
    assert!(ranker.encode(&[&user(UserRow::Known(0), &[ITEMS + 1], &[])]).is_err());
    assert_eq!(ranker.score(&[]).unwrap(), Vec::<Vec<f32>>::new());
    assert_eq!(ranker.score(&[ScoreRequest { state: &states[0], items: &[] }]).unwrap(), vec![Vec::<f32>::new()]);
}

/// The CPU's own way, with and without item tables, and a GPU's where `SESREC_TEST_DEVICE` names one, give what the
/// network of tensors gives: for short histories, whose events meet the first layer directly, for long ones that are
/// pooled, for undivided and one-sided ones.
#[test]
fn every_way_to_rank_gives_the_same_scores() {
    let (include, exclude) = (CoattentionPadding::Include, CoattentionPadding::Exclude);
    let (multiple, single) = (InterestExtraction::Multiple, InterestExtraction::Single);
    let settings = [
        (Threshold::Mean, exclude, multiple),
        (Threshold::Mean, include, multiple),
        (Threshold::Constant(0.9), exclude, multiple),
        (Threshold::Median, exclude, single),
    ];
    let settings = settings.into_iter().flat_map(|settings| [(false, settings), (true, settings)]);
    for (further, (threshold, coattention_padding, interest_extraction)) in settings {
        let limits = HistoryLimits { recommendations: 90, searches: 40, ..LIMITS };
        let sizes = InputSizes { item: (12, 4), user: (6, 2), query: (6, 5), heads: 2, limits };
        let config = SesRecConfig {
            threshold,
            coattention_padding,
            interest_extraction,
            mlp: vec![24, 10, 6, 1],
            ..SesRecConfig::for_catalogue(&catalogue(), sizes)
        };
        let config = if further { extended(config) } else { config };
        let weights = weights(&config);
        let mut users = some_users();
        users.push(UserFeatures {
            recommendations: (0..85).map(|n| 1 + n % ITEMS).collect(),
            searches: (0..35).map(|n| users[0].searches[n % users[0].searches.len()].clone()).collect(),
            ..users[0].clone()
        });
        let items: Vec<u32> = (0..150).map(|n| 1 + n % ITEMS).collect();
        let (cpu, device) = (Device::Cpu, test_device().clone());
        let within = |item_table_bytes| {
            let options = RankerOptions { item_table_bytes, ..RankerOptions::default() };
            SesRecRanker::new(config.clone(), catalogue(), &weights, &cpu, options).unwrap()
        };
        let by_tensors = |device| SesRecRanker::of_tensors(config.clone(), catalogue(), &weights, device).unwrap();
        let mut rankers = vec![within(u64::MAX), within(0)];
        if !device.is_cpu() {
            let options = RankerOptions::default();
            rankers.push(by_tensors(&device));
            rankers.push(SesRecRanker::new(config.clone(), catalogue(), &weights, &device, options).unwrap());
        }
        let by_tensors = by_tensors(&cpu);
        let expected = score(&by_tensors, &users, &items);
        let explained = explanations(&by_tensors, &users, &items[..3]);
        for ranker in rankers {
            let found = explanations(&ranker, &users, &items[..3]);
            assert!(far(from_ref(&found), from_ref(&explained)) < 2e-6, "{found:?} instead of {explained:?}");
            let found = score(&ranker, &users, &items);
            assert!(far(&found, &expected) < 2e-6, "{found:?} instead of {expected:?}");
        }
    }
}

/// Weights that are finite and too large: what comes of them must not look like a probability.
#[test]
fn what_is_no_number_is_not_scored() {
    let config = config();
    let mut weights = weights(&config);
    let positions = &weights["rec_pos_emb.pe.weight"];
    let huge = (0..positions.elem_count()).map(|n| if n % 3 == 0 { -1e30 } else { 1e30 }).collect::<Vec<f32>>();
    let huge = Tensor::from_vec(huge, positions.shape(), &Device::Cpu).unwrap();
    weights.insert("rec_pos_emb.pe.weight".into(), huge);
    let items: Vec<u32> = (1..=ITEMS).collect();
    let ranker =
        |device| SesRecRanker::new(config.clone(), catalogue(), &weights, device, RankerOptions::default()).unwrap();
    let mut rankers = vec![SesRecRanker::of_tensors(config.clone(), catalogue(), &weights, &Device::Cpu).unwrap()];
    rankers.push(ranker(&Device::Cpu));
    if !test_device().is_cpu() {
        rankers.push(ranker(test_device()));
    }
    for ranker in rankers {
        let scores = score(&ranker, &[user(UserRow::Known(0), &[1, 2, 3], &[])], &items).remove(0);
        assert!(scores.iter().all(|score| score.is_nan()), "{scores:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// In company, a user is padded to the others' lengths: neither may show.
    #[test]
    fn batched_equals_one_by_one(
        users in proptest::collection::vec(any_user(), 1..6),
        include in any::<bool>(),
        further in any::<bool>(),
    ) {
        let padding = if include { CoattentionPadding::Include } else { CoattentionPadding::Exclude };
        let config = if further { extended(config()) } else { config() };
        let ranker = ranker(&SesRecConfig { coattention_padding: padding, ..config });
        let items: Vec<u32> = (1..=ITEMS).collect();
        let together = score(&ranker, &users, &items);
        for (user, together) in users.iter().zip(together) {
            let alone = score(&ranker, from_ref(user), &items);
            prop_assert!(far(&alone, from_ref(&together)) < 1e-5, "{alone:?} alone, {together:?} in company");
        }
    }

    #[test]
    fn padding_changes_nothing(user in any_user(), rec in 0_usize..5, src in 0_usize..4, further in any::<bool>()) {
        let config = if further { extended(config()) } else { config() };
        let model = SesRecTrainable::from_tensors(config.clone(), catalogue(), &weights(&config), &Device::Cpu).unwrap();
        let users = [user];
        let rec_len = (users[0].recommendations.len() + rec).min(LIMITS.recommendations);
        let src_len = (users[0].searches.len() + src).min(LIMITS.searches);
        let logits = |history: &HistoryBatch| {
            let network = model.network();
            let encoded = network.encode(history, &[&[1, 2, 3, 4]], &mut Dropout::off()).unwrap();
            let candidates = network.candidates(&encoded, 2).unwrap();
            let rows = (&[1, 2, 3, 4][..], &candidates);
            network.logits(&encoded, rows, &mut Dropout::off()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let tight = logits(&HistoryBatch::padded_to_longest(&users, LIMITS));
        let padded = logits(&HistoryBatch::padded_to(&users, rec_len, src_len, LIMITS));
        prop_assert!(far(from_ref(&tight), from_ref(&padded)) < 1e-5, "{tight:?} becomes {padded:?}");
    }
}

#[test]
fn bundles_come_back_and_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    let metrics = serde_json::json!({ "ndcg@10": 0.5 });
    let bundle =
        Bundle::new(ModelConfig::Sesrec(config()), catalogue(), weights(&config()), Some(metrics.clone())).unwrap();
    let version = bundle.write(&path).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |file: &str| path.join(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode("model.safetensors"), mode("config.json"), "whoever may read the one may read the other");
    }
    let read = Bundle::read(&path).unwrap();
    assert_eq!((&read.version, &*read.name, &read.config), (&version, "model", &bundle.config));
    assert_eq!(read.metrics, Some(metrics));
    let users = some_users();
    let before = score(&ranker(&config()), &users, &[1, 2, 3]);
    let after = read.ranker(&Device::Cpu, RankerOptions::default()).unwrap();
    assert_eq!(score(&*after, &users, &[1, 2, 3]), before);
    // Writing the same again gives the same version; nothing else is left in the directory.
    assert_eq!(bundle.write(&path).unwrap(), version);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    let weights = path.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    let error = Bundle::read(&path).unwrap_err();
    assert!(matches!(&error, BundleError::Checksum { path } if path == &weights), "{error}");
    std::fs::remove_file(path.join("catalogue/items.parquet")).unwrap();
    assert!(Bundle::read(&path).unwrap_err().to_string().contains("items.parquet"));

    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("thesis.txt"), "years of work").unwrap();
    assert!(bundle.write(&other).unwrap_err().to_string().contains("it is not replaced"));
    assert!(other.join("thesis.txt").exists());
}

#[test]
fn weights_that_do_not_fit_are_refused_by_name() {
    let name = "interest_contrast.co_att.Wq";
    let refused = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut weights = weights(&config());
        change(&mut weights);
        Bundle::new(ModelConfig::Sesrec(config()), catalogue(), weights, None).unwrap_err().to_string()
    };
    let constant = |value: f32, shape: (usize, usize)| Tensor::full(value, shape, &Device::Cpu).unwrap();
    let missing = refused(&|weights| drop(weights.remove(name)));
    assert!(missing.contains(name) && missing.contains("missing"), "{missing}");
    let shape = refused(&|weights| drop(weights.insert(name.into(), constant(1.0, (1, 15)))));
    assert!(shape.contains(name) && shape.contains("[1, 15]"), "{shape}");
    let nan = refused(&|weights| drop(weights.insert(name.into(), constant(f32::NAN, (1, 16)))));
    assert!(nan.contains(name) && nan.contains("not finite"), "{nan}");
    let unexpected = refused(&|weights| drop(weights.insert("extra".into(), constant(1.0, (1, 1)))));
    assert!(unexpected.contains("extra"), "{unexpected}");
}

/// Element k of every tensor of the fixtures is ((7 k + length of the name) mod 23 - 11) / 37.
#[test]
fn pickled_state_dicts_convert() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/release_tiny");
    // A bare state dict, and a checkpoint that wraps one from DataParallel.
    for file in ["state_dict.pth", "checkpoint.pth"] {
        let sources = Sources {
            weights: fixtures.join(file),
            config: fixtures.join("config.json"),
            catalogue: fixtures.join("catalog"),
        };
        let bundle = convert(&sources).unwrap();
        for (name, tensor) in &bundle.tensors {
            assert_eq!(tensor.dtype(), DType::F32);
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (k, value) in values.into_iter().enumerate() {
                let expected = (((7 * k + name.len()) % 23) as f32 - 11.0) / 37.0;
                assert!((value - expected).abs() < 1e-6, "{file}: {name}[{k}] is {value}, not {expected}");
            }
        }
        assert_eq!(bundle.catalogue.words.row("shoes"), Some(2));
        let ranker = bundle.ranker(&Device::Cpu, RankerOptions::default()).unwrap();
        let search = SearchFeatures { query: 1, words: vec![1, 2], source: 0, clicks: vec![2], place: 0 };
        let user =
            UserFeatures { user: UserRow::Known(1), recommendations: vec![1, 3], searches: vec![search], as_of: None };
        let states = ranker.encode(&[&user]).unwrap();
        let scores = ranker.score(&[ScoreRequest { state: &states[0], items: &[1, 2, 3] }]).unwrap();
        assert!(scores[0].iter().all(|score| score.is_finite()));
    }
    let text = Sources {
        weights: fixtures.join("config.json"),
        config: fixtures.join("config.json"),
        catalogue: fixtures.join("catalog"),
    };
    assert!(convert(&text).unwrap_err().to_string().contains("config.json"));
}
