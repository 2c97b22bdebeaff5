use candle_core::Tensor;
use candle_nn::ops::sigmoid;
use sesrec::{
    model::baselines::DinConfig,
    nn::{Dropout, binary_cross_entropy},
};

use crate::{
    fixture::{Fixture, Names, dirty, seeded},
    towers::{LENGTH, USERS, inputs_of, network},
};

pub const NAMES: Names = &[("attn.local_att", "attention"), ("attn1.local_att", "attention"), ("fc_layer", "head")];

#[test]
fn din() {
    compare("din", 0);
}

#[test]
fn din_user() {
    compare("din_user", 8);
}

fn compare(folder: &str, user_width: usize) {
    let Some(golden) = Fixture::open(folder, NAMES) else { return };
    let config = DinConfig { mlp: vec![40, 20, 1], ..DinConfig::new(inputs_of(16, user_width)) };
    let din = network(&golden, &config);
    let lengths = golden.lengths("mask_rec");
    let (events, candidates) = (golden.variable("x_rec"), golden.variable("cand"));
    let known = (user_width > 0).then(|| golden.variable("user"));
    let off = &mut Dropout::off();

    let users = din.users(&events, &lengths, known.as_ref().map(|user| user.as_tensor())).unwrap();
    let interest = din.interest(&users, &candidates, off).unwrap();
    assert_eq!(lengths[0], LENGTH);
    golden.compare("dice1_row0", &interest.hidden.narrow(0, 0, 5 * LENGTH).unwrap());
    golden.compare("attention", &interest.attention);
    golden.compare("v", &interest.pooled);
    let mut inputs = vec![candidates.as_tensor().clone(), interest.pooled];
    inputs.extend(known.as_ref().map(|user| user.unsqueeze(1).unwrap().broadcast_as((USERS, 5, 8)).unwrap()));
    golden.compare("head_in", &Tensor::cat(&inputs, 2).unwrap());

    let logits = din.score(&users, &candidates, off).unwrap();
    golden.compare("logits", &logits);
    golden.compare("prob", &sigmoid(&logits).unwrap());
    let sum = seeded(&logits, &golden.input("grad_seed"));
    golden.compare("S", &sum);
    let mut inputs = vec![("x_rec", &events), ("cand", &candidates)];
    inputs.extend(known.as_ref().map(|user| ("user", user)));
    golden.compare_gradients("", &sum.backward().unwrap(), &inputs);
    let loss = binary_cross_entropy(&logits).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &inputs);

    let padding = dirty(&events, &golden.flags("mask_rec"));
    let users = din.users(&padding, &lengths, known.as_ref().map(|user| user.as_tensor())).unwrap();
    golden.compare("logits", &din.score(&users, &candidates, off).unwrap());
    // Where there are events it is the attention.
    golden.all_compared(&["attention_raw"]);
}
