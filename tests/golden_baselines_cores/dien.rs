use candle_core::Tensor;
use candle_nn::ops::sigmoid;
use sesrec::{
    model::baselines::{Activation, Dien, DienConfig},
    nn::{Dropout, binary_cross_entropy},
};

use crate::{
    fixture::{Fixture, Names, dirty, seeded},
    towers::{LENGTH, USERS, inputs_of, network},
};

/// Without the attention's last bias, which softmax doesn't see.
const TRUNK: Names = &[
    ("interset_extractor.gru", "interest_extractor.gru"),
    ("interset_extractor.auxiliary_net.mlp_layers.1.", "auxiliary.0."),
    ("interset_extractor.auxiliary_net.mlp_layers.3.", "auxiliary.1."),
    ("interset_extractor.auxiliary_net.mlp_layers.5.", "auxiliary.2."),
    ("interset_extractor.auxiliary_net.mlp_layers.7.", "auxiliary.3."),
    ("interest_evolution.attention_layer.att_mlp_layers.mlp_layers.1.", "interest_evolution.attention.0."),
    ("interest_evolution.attention_layer.att_mlp_layers.mlp_layers.4.", "interest_evolution.attention.1."),
    ("interest_evolution.attention_layer.att_mlp_layers.mlp_layers.7.", "interest_evolution.attention.2."),
    ("interest_evolution.attention_layer.dense.weight", "interest_evolution.attention.output.weight"),
    ("interest_evolution.dynamic_rnn.rnn", "interest_evolution.gru"),
];
const RECBOLE_HEAD: Names = &[
    ("dnn_mlp_layers.mlp_layers.1.", "head.fc.0."),
    ("dnn_mlp_layers.mlp_layers.2.", "head.fc.1."),
    ("dnn_mlp_layers.mlp_layers.5.", "head.fc.2."),
    ("dnn_mlp_layers.mlp_layers.6.", "head.fc.3."),
    ("dnn_mlp_layers.mlp_layers.9.", "head.fc.4."),
    ("dnn_mlp_layers.mlp_layers.10.", "head.fc.5."),
    ("dnn_predict_layer.", "head.fc.6."),
];
/// With its prefix, and without.
const DICE_HEAD: Names = &[("dice_head.", "head."), ("fc.", "head.fc.")];

fn open(head: Names) -> Option<Fixture> {
    Fixture::open("dien", [TRUNK, head].concat().leak())
}

fn dien(golden: &Fixture, activation: Activation, hidden: &[usize]) -> Dien {
    let units = vec![48, 24, 20];
    let mlp = hidden.iter().copied().chain([1]).collect();
    let sizes = DienConfig {
        attention_units: units.clone(),
        auxiliary_units: units,
        mlp,
        ..DienConfig::new(inputs_of(16, 32))
    };
    network(golden, &DienConfig { activation, ..sizes })
}

#[test]
fn dien_with_recboles_head() {
    let Some(golden) = open(RECBOLE_HEAD) else { return };
    let dien = dien(&golden, Activation::Swish, &[48, 24, 20]);
    let (lengths, real) = (golden.lengths("mask_rec"), golden.flags("mask_rec"));
    let [events, candidates, known] = ["x_rec", "cand", "user"].map(|name| golden.variable(name));
    let inputs = [("x_rec", &events), ("cand", &candidates), ("user", &known)];

    let users = dien.users(&events, &lengths, Some(&known)).unwrap();
    golden.compare_where("gru1_states", &users.states, &real);
    let evolution = dien.evolve(&users, &candidates).unwrap();
    golden.compare("attention", &evolution.attention);
    let states = Tensor::stack(&evolution.states, 2).unwrap(); // [B, C, L, d]
    let real: Vec<bool> = real.chunks(LENGTH).flat_map(|row| row.repeat(4)).collect();
    golden.compare_where("augru_states", &states, &real);
    let last = evolution.states.last().unwrap();
    golden.compare("s_n", last);
    let known_by_pair = known.unsqueeze(1).unwrap().broadcast_as((USERS, 4, 32)).unwrap();
    golden.compare("dien_in", &Tensor::cat(&[last, &candidates, &known_by_pair], 2).unwrap());

    let logits = dien.score(&users, &candidates, &mut Dropout::off()).unwrap();
    golden.compare("logits", &logits);
    golden.compare("prob", &sigmoid(&logits).unwrap());
    let sum = seeded(&logits, &golden.input("grad_seed"));
    golden.compare("S", &sum);
    golden.compare_gradients("", &sum.backward().unwrap(), &inputs);

    let auxiliary = dien.auxiliary_loss(&users.states, &events, &golden.input("x_neg"), &lengths).unwrap();
    let bce = binary_cross_entropy(&logits).unwrap();
    golden.compare("aux_loss", &auxiliary);
    golden.compare("bce_loss", &bce);
    let loss = (bce + auxiliary).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &inputs);

    let users = dien.users(&dirty(&events, &golden.flags("mask_rec")), &lengths, Some(&known)).unwrap();
    golden.compare("logits", &dien.score(&users, &candidates, &mut Dropout::off()).unwrap());
    golden.all_compared(&["S_dice_head", "logits_dice_head"]); // below
}

#[test]
fn dien_with_dice() {
    let Some(golden) = open(DICE_HEAD) else { return };
    let dien = dien(&golden, Activation::Dice, &[40, 20]);
    let users = dien.users(&golden.input("x_rec"), &golden.lengths("mask_rec"), Some(&golden.input("user"))).unwrap();
    let logits = dien.score(&users, &golden.input("cand"), &mut Dropout::off()).unwrap();
    golden.compare("logits_dice_head", &logits);
    let sum = seeded(&logits, &golden.input("grad_seed"));
    golden.compare("S_dice_head", &sum);
    let gradients = sum.backward().unwrap();
    golden.compare_gradients("dice_head.", &gradients, &[]);
    golden.compare_gradients("dice_head_S::", &gradients, &[]);
}

/// Nobody has an event that another follows: nothing to learn from, but no NaN either.
#[test]
fn the_auxiliary_loss_of_short_histories_is_zero() {
    let Some(golden) = open(DICE_HEAD) else { return };
    let dien = dien(&golden, Activation::Dice, &[40, 20]);
    let x = golden.variable("x_rec");
    let loss = dien.auxiliary_loss(&x, &x, &x, &[1, 0, 1, 1, 0, 1]).unwrap();
    assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.0);
    let gradient = loss.backward().unwrap().get(&x).unwrap().abs().unwrap().sum_all().unwrap();
    assert_eq!(gradient.to_scalar::<f32>().unwrap(), 0.0);
}
