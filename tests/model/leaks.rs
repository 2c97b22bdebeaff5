//! Planted leaks: events that happen when a target does, or later, and would give it away. They change nothing that a
//! model sees of the target.

use candle_core::{Device, Tensor};
use sesrec::{
    data::{Dataset, Featurizer, HistoryBatch, Split, Target, UserFeatures, UserLog},
    model::{
        ModelConfig, ModelKind, RankingModel,
        baselines::{Sequences, srjgraph::Graph},
    },
    nn::Dropout,
};

use crate::{
    contract::score,
    fixture::{LIMITS, USERS, catalogue, inputs, search, user},
};

/// What the first user clicks at time [`WHEN`], a training interaction.
const TARGET: Target = Target { user: 0, position: 3 };
const CLICKED: u32 = 9;
const WHEN: i64 = 100;

/// The first user's events; the target is the fourth click.
fn searcher() -> UserLog {
    let clicks = [(10, 3), (20, 4), (30, 5), (WHEN, CLICKED), (110, 6), (120, 7), (130, 8)];
    UserLog { recommendations: clicks.into(), searches: vec![(15, 2, vec![11]), (25, 3, vec![12])] }
}

/// Others, who clicked the same item before.
fn others() -> Vec<UserLog> {
    let clicks = |first: i64, items: &[u32]| items.iter().zip(0..).map(|(&item, n)| (first + n, item)).collect();
    let log = |first, items: &[u32]| UserLog { recommendations: clicks(first, items), searches: vec![] };
    let mut logs = vec![log(1, &[20, 21, CLICKED, 22, 23, 24]), log(40, &[30, 31, 32, 33, 34])];
    logs.resize(USERS as usize - 1, UserLog::default());
    logs
}

fn dataset(first: UserLog, others: Vec<UserLog>) -> Dataset {
    Dataset::from_logs(catalogue(), std::iter::once(first).chain(others))
}

fn clean() -> Dataset {
    dataset(searcher(), others())
}

/// Searches for the target at its own time and later, and others who click it then: before their validation
/// interactions, so that it is training.
fn planted() -> Dataset {
    let mut first = searcher();
    first.searches.extend([(WHEN, 5, vec![CLICKED]), (WHEN + 1, 6, vec![CLICKED])]);
    let mut others = others();
    for (n, time) in [(1, WHEN), (2, WHEN + 5)] {
        others[n].recommendations.extend([(time, CLICKED), (time + 1, 13), (time + 2, 14), (time + 3, 15)]);
        others[n].searches.push((time, 7, vec![CLICKED, 16]));
    }
    dataset(first, others)
}

fn config(kind: ModelKind) -> ModelConfig {
    let (inputs, heads) = inputs();
    kind.config(inputs, heads)
}

fn features(dataset: &Dataset, config: &ModelConfig) -> UserFeatures {
    dataset.features(TARGET, &Featurizer::new(dataset.catalogue.clone(), config.limits()))
}

/// Equal weights; the tables are the data set's.
fn ranker(dataset: &Dataset, config: &ModelConfig) -> Box<dyn RankingModel> {
    config.new_trainable(dataset, 7, &Device::Cpu).unwrap().ranker().unwrap()
}

#[test]
fn no_model_sees_them() {
    let (clean, planted) = (clean(), planted());
    let items = [CLICKED, 3, 13, 22, 40];
    for &kind in ModelKind::all() {
        let config = config(kind);
        let seen = features(&planted, &config);
        assert_eq!(seen, features(&clean, &config), "{}", config.kind());
        let scores =
            [&clean, &planted].map(|dataset| score(&*ranker(dataset, &config), std::slice::from_ref(&seen), &items));
        assert_eq!(scores[0], scores[1], "{}", config.kind());
        let batch = HistoryBatch::padded_to_limits([&seen], config.limits());
        let logits = [&clean, &planted].map(|dataset| {
            let model = config.new_trainable(dataset, 7, &Device::Cpu).unwrap();
            model.logits(&batch, &items, &mut Dropout::off()).unwrap().to_vec2::<f32>().unwrap()
        });
        assert_eq!(logits[0], logits[1], "{} in training", config.kind());
    }
}

/// The plant is worth something: asked later, or without a moment, the graph tells, and so do the item's queries.
#[test]
fn they_would_pay() {
    let (clean, planted) = (clean(), planted());
    for kind in [ModelKind::SrjGraph, ModelKind::Iv4Rec] {
        let config = config(kind);
        let seen = features(&planted, &config);
        for later in [seen.clone().as_of(WHEN + 1), UserFeatures { as_of: None, ..seen }] {
            let scores = [&clean, &planted]
                .map(|dataset| score(&*ranker(dataset, &config), std::slice::from_ref(&later), &[CLICKED]));
            assert!((scores[0][0][0] - scores[1][0][0]).abs() > 1e-6, "{kind:?}, {later:?}: {scores:?}");
        }
    }
}

#[test]
fn the_graph_is_of_training_clicks_and_as_of_a_moment() {
    let planted = planted();
    let edges = Graph::training_edges(&planted, LIMITS.clicks);
    let rows = [&planted.catalogue.users, &planted.catalogue.items, &planted.catalogue.queries].map(|t| t.rows());
    let graph = Graph::from_table("graph", &Graph::table(&edges).unwrap(), rows).unwrap();
    // The target's own edge, and the planted ones, are there: later.
    let all: Vec<_> = graph.of_item(CLICKED, None).collect();
    assert_eq!(all.iter().filter(|edge| edge.time >= WHEN).count(), 7, "{all:?}");
    let before: Vec<_> = graph.of_item(CLICKED, Some(WHEN)).map(|edge| (edge.user, edge.time)).collect();
    assert_eq!(before, [(1, 3)]);
    assert_eq!(graph.of_user(2, Some(WHEN)).count(), 5);
    // Newest first, and what is known of a user is what its own history says.
    let own: Vec<_> = graph.of_user(0, Some(WHEN)).map(|edge| (edge.item, edge.query)).collect();
    assert_eq!(own, [(5, 0), (12, 3), (4, 0), (11, 2), (3, 0)]);
    // No validation or test interaction, no search after them.
    for user in 0..planted.users() as u32 {
        let clicks = planted.recommendations(user);
        let training = Split::training(clicks.len());
        let end = planted.recommendation_times(user).get(training).copied().unwrap_or(i64::MAX);
        assert!(graph.of_user(user, None).all(|edge| edge.time < end));
        assert_eq!(graph.of_user(user, None).filter(|edge| edge.query == 0).count(), training);
    }
}

#[test]
fn a_damaged_graph_is_refused() {
    let edges = Graph::training_edges(&planted(), LIMITS.clicks);
    let table = Graph::table(&edges).unwrap();
    let refused =
        |table: &Tensor, rows: [usize; 3]| Graph::from_table("graph.edges", table, rows).unwrap_err().to_string();
    assert!(refused(&table, [7, 9, 13]).contains("graph.edges: edge 0 has item"), "{}", refused(&table, [7, 9, 13]));
    let backwards: Vec<_> = edges.iter().rev().copied().collect();
    assert!(refused(&Graph::table(&backwards).unwrap(), [7, 41, 13]).contains("earlier than the one before it"));
    // Bundles say so, too.
    let config = config(ModelKind::SrjGraph);
    let mut tensors = config.new_trainable(&planted(), 7, &Device::Cpu).unwrap().parameters().snapshot().unwrap();
    tensors.insert("graph.edges".into(), Tensor::full(99_u32, (2, 5), &Device::Cpu).unwrap());
    let error = config.check_weights(&tensors).unwrap_err().to_string();
    assert!(error.contains("graph.edges: edge 0 has user 99"), "{error}");
}

#[test]
fn damaged_instruments_are_refused() {
    let config = config(ModelKind::Iv4Rec);
    let mut tensors = config.new_trainable(&planted(), 7, &Device::Cpu).unwrap().parameters().snapshot().unwrap();
    for (click, wrong) in [([99_u32, 1, 0, 0], "item 99"), ([1, 99, 0, 0], "query 99")] {
        tensors.insert("instruments.clicks".into(), Tensor::new(&[click], &Device::Cpu).unwrap());
        let error = config.check_weights(&tensors).unwrap_err().to_string();
        assert!(error.contains("instruments.clicks: click 0 has") && error.contains(wrong), "{error}");
    }
}

#[test]
fn searches_stand_where_they_were_made() {
    let (mut first, mut second) = (user(sesrec::data::UserRow::Mean, &[1, 2, 3], &[]), clean_user());
    first.searches = vec![search(1, &[], 0), search(2, &[], 2), search(3, &[], 2), search(4, &[], 3)];
    second.recommendations.truncate(1);
    let batch = HistoryBatch::padded_to_longest([&first, &second], LIMITS);
    let sequences = Sequences::of(&batch);
    assert_eq!((sequences.length, &sequences.lengths[..]), (7, &[7, 1][..]));
    // Rows 0..3 are the first user's recommendations, 3..7 its searches; the second's begin at 7.
    assert_eq!(sequences.events, [3, 0, 1, 4, 5, 2, 6, 7, 7, 7, 7, 7, 7, 7]);
    assert_eq!(sequences.types, [1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

fn clean_user() -> UserFeatures {
    UserFeatures { searches: vec![], ..features(&clean(), &config(ModelKind::SasRec)) }
}
