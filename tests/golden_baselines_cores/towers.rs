//! What the towers' folders have in common.

use candle_core::{Tensor, Var};
use sesrec::{
    data::HistoryLimits,
    model::{
        AttributeConfig, InputConfig,
        baselines::{Baseline, dot},
    },
    nn::cross_entropy,
};

use crate::fixture::{Fixture, Names, seeded};

/// Their weights have the references' names.
pub const NAMES: Names = &[
    ("LayerNorm", "LayerNorm"),
    ("b_a", "b_a"),
    ("dense", "dense"),
    ("gru_layers", "gru_layers"),
    ("item_encoder", "item_encoder"),
    ("mlp_", "mlp_"),
    ("position_embeddings", "position_embeddings"),
    ("w", "w"),
];
// Of every folder.
pub const USERS: usize = 6;
pub const LENGTH: usize = 12;
pub const WIDTH: usize = 32;

/// An input layer of the folders' size; its own tables are not in them.
pub fn inputs() -> InputConfig {
    inputs_of(WIDTH, 0)
}

/// Items of width d and, unless that is 0, users of width u.
pub fn inputs_of(d: usize, u: usize) -> InputConfig {
    let table = |dim: usize| AttributeConfig { name: "id".into(), rows: 90, dim };
    InputConfig {
        item_attributes: vec![table(d)],
        item_width: None,
        item_projection: true,
        user_attributes: if u > 0 { vec![table(u)] } else { vec![] },
        query_features: None,
        limits: HistoryLimits { recommendations: LENGTH, searches: 0, words: 0, clicks: 0 },
    }
}

/// The network of a configuration over the folder's weights.
pub fn network<B: Baseline>(golden: &Fixture, config: &B) -> B::Network {
    config.check().unwrap();
    golden.build(|list| config.parameters(list), |weights| config.network(weights))
}

/// Logits of the folder's candidates, and every gradient of their seeded sum.
pub fn compare_scores(golden: &Fixture, users: &Tensor, inputs: &[(&str, &Var)], comparable: &[bool]) {
    golden.compare_where("user_vec", users, comparable);
    let candidates = golden.variable("cand");
    let logits = dot(users, &candidates).unwrap();
    golden.compare_where("logits", &logits, comparable);
    let gradients = seeded(&logits, &golden.input("grad_seed")).backward().unwrap();
    let inputs: Vec<(&str, &Var)> = inputs.iter().copied().chain([("cand", &candidates)]).collect();
    golden.compare_gradients("", &gradients, &inputs);
}

/// Softmax over all items, which STAMP and GRU4Rec are trained with.
pub fn compare_softmax(golden: &Fixture, users: &Tensor) {
    let logits = users.matmul(&golden.input("item_table").t().unwrap()).unwrap();
    let labels: Vec<u32> = golden.rows("pos_index").into_iter().map(|row| u32::try_from(row).unwrap()).collect();
    let loss = cross_entropy(&logits, &labels).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &[]);
}
