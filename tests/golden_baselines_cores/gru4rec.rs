use sesrec::model::baselines::Gru4RecConfig;

use crate::{
    fixture::Fixture,
    towers::{NAMES, USERS, compare_scores, compare_softmax, inputs, network},
};

#[test]
fn gru4rec() {
    let Some(golden) = Fixture::open("gru4rec", NAMES) else { return };
    let config = Gru4RecConfig { hidden_dim: 24, ..Gru4RecConfig::new(inputs()) };
    let gru4rec = network(&golden, &config);
    let lengths = golden.lengths("mask_rec");
    for name in ["x_rec_dirty", "x_rec"] {
        let x = golden.variable(name);
        let (states, users) = gru4rec.forward(&x, &lengths).unwrap();
        golden.compare_where("gru_states", &states, &golden.flags("mask_rec"));
        compare_scores(&golden, &users, &[("x_rec", &x)], &[true; USERS]);
        compare_softmax(&golden, &users);
    }
    golden.all_compared(&["own_loss_bpr"]); // an alternative of RecBole's
}
