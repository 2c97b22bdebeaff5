use sesrec::model::baselines::StampConfig;

use crate::{
    fixture::Fixture,
    towers::{NAMES, USERS, compare_scores, compare_softmax, inputs, network},
};

#[test]
fn stamp() {
    let Some(golden) = Fixture::open("stamp", NAMES) else { return };
    let stamp = network(&golden, &StampConfig::new(inputs()));
    let lengths = golden.lengths("mask_rec");
    // Padding may hold anything.
    for name in ["x_rec_dirty", "x_rec"] {
        let x = golden.variable(name);
        let memory = stamp.forward(&x, &lengths).unwrap();
        golden.compare("alpha", &memory.attention);
        golden.compare("m_s", &memory.mean);
        golden.compare("m_a", &memory.attended);
        golden.compare("h_s", &memory.long);
        golden.compare("h_t", &memory.short);
        compare_scores(&golden, &memory.user, &[("x_rec", &x)], &[true; USERS]);
        compare_softmax(&golden, &memory.user);
    }
    golden.all_compared(&["own_loss_bpr"]); // an alternative of RecBole's
}
