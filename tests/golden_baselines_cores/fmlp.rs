use candle_core::Tensor;
use sesrec::{
    model::baselines::{Fmlp, FmlpConfig, dot},
    nn::{Dropout, binary_cross_entropy},
};

use crate::{
    fixture::Fixture,
    towers::{LENGTH, NAMES, USERS, compare_scores, inputs, network},
};

#[test]
fn fmlp() {
    let Some(golden) = Fixture::open("fmlp", NAMES) else { return };
    let fmlp = network(&golden, &FmlpConfig::new(inputs()));
    // Padding takes part, so that its vector has a gradient.
    let (events, padding) = (golden.variable("x_rec"), golden.variable("pad_vector"));
    let real: Vec<f32> = golden.flags("mask_rec").into_iter().map(|real| f32::from(u8::from(real))).collect();
    let real = Tensor::from_vec(real, (USERS, LENGTH, 1), events.device()).unwrap();
    let padded = (1.0 - &real).unwrap().broadcast_mul(&padding).unwrap();
    let x = (events.broadcast_mul(&real).unwrap() + padded).unwrap();

    let (embedded, blocks) = fmlp.forward(&x, &mut Dropout::off()).unwrap();
    golden.compare("emb_ln", &embedded);
    for (n, block) in blocks.iter().enumerate() {
        golden.compare(&format!("filtered_layer{n}"), &block.filtered);
        golden.compare(&format!("filter_out_layer{n}"), &block.normalised);
        golden.compare(&format!("hidden_layer{n}"), &block.output);
    }
    let users = Fmlp::last(&blocks.last().unwrap().output).unwrap();
    let inputs = [("x_rec_valid", &events), ("pad_vector", &padding)];
    compare_scores(&golden, &users, &inputs, &[true; USERS]);

    let candidates = Tensor::stack(&[golden.input("x_pos"), golden.input("x_neg")], 1).unwrap();
    let loss = (binary_cross_entropy(&dot(&users, &candidates).unwrap()).unwrap() * 2.0).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &inputs);
    golden.all_compared(&[]);
}
