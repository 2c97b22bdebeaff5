use candle_core::{Tensor, Var};
use candle_nn::ops::sigmoid;
use sesrec::{
    model::{
        InputConfig, QueryFeatures, TableConfig,
        baselines::{DinConfig, Iv4Rec, Iv4RecConfig, Rewritten},
    },
    nn::{Dropout, binary_cross_entropy, ridge_inverse},
};

use crate::{
    din::NAMES as DIN,
    fixture::{Fixture, Names, seeded},
    towers::{inputs_of, network},
};

const NAMES: Names = &[("phi", "phi"), ("alpha", "alpha"), ("beta", "beta"), DIN[1], DIN[2]];
const USERS: usize = 6;
const LENGTH: usize = 10;
const CANDIDATES: usize = 4;
const WIDTH: usize = 16;
const INSTRUMENTS: usize = 3;

/// How an item's treatment is taken apart.
#[derive(Clone, Copy, PartialEq)]
enum Inverse {
    /// The folder's pseudo-inverse.
    Golden,
    /// Ours.
    Ridge,
}

/// The items of `x_{side} [B, n, d]`, rewritten.
fn rewrite(golden: &Fixture, network: &Iv4Rec, (side, x): (&str, &Var), inverse: Inverse) -> Rewritten {
    let items = x.flatten_to(1).unwrap();
    let count = items.dim(0).unwrap();
    // The folder has the instruments in columns.
    let z = golden.input(&format!("Z_{side}")).reshape((count, WIDTH, INSTRUMENTS)).unwrap();
    let z = z.transpose(1, 2).unwrap().contiguous().unwrap();
    let inverse = match inverse {
        Inverse::Golden => golden.input(&format!("pinv_{side}")).reshape((count, INSTRUMENTS, WIDTH)).unwrap(),
        Inverse::Ridge => ridge_inverse(&z, 1e-3).unwrap(),
    };
    network.rewrite(&items, (&z, &inverse), &mut Dropout::off()).unwrap()
}

#[test]
fn iv4rec() {
    let Some(golden) = Fixture::open("iv4rec", NAMES) else { return };
    let table = TableConfig { rows: 9, dim: WIDTH };
    let inputs = InputConfig {
        query_features: Some(QueryFeatures { id: table, search_source: None, word_segs: table }),
        ..inputs_of(WIDTH, 0)
    };
    let config = Iv4RecConfig::new(inputs);
    let din = DinConfig { mlp: vec![40, 20, 1], ..config.din.clone() };
    let config = Iv4RecConfig { din, instruments: INSTRUMENTS, gate_units: vec![40, 24, 12], ..config };
    let iv4rec = network(&golden, &config);
    let (events, candidates) = (golden.variable("x_rec"), golden.variable("cand"));
    let lengths = golden.lengths("mask_rec");
    let logits = |inverse: Inverse| {
        let [rec, cand] = [("rec", &events), ("cand", &candidates)].map(|side| {
            let rewritten = rewrite(&golden, &iv4rec, side, inverse);
            if inverse == Inverse::Golden {
                let name = side.0;
                golden.compare(&format!("t_{name}"), &rewritten.treatment);
                golden.compare(&format!("that_{name}"), &rewritten.explained);
                golden.compare(&format!("alpha_{name}"), &rewritten.gates[0]);
                golden.compare(&format!("beta_{name}"), &rewritten.gates[1]);
                golden.compare(&format!("tprime_{name}"), &rewritten.items);
            }
            rewritten.items.reshape((USERS, (), WIDTH)).unwrap()
        });
        assert_eq!((rec.dim(1).unwrap(), cand.dim(1).unwrap()), (LENGTH, CANDIDATES));
        let users = iv4rec.din.users(&rec, &lengths, None).unwrap();
        if inverse == Inverse::Golden {
            let interest = iv4rec.din.interest(&users, &cand, &Dropout::off()).unwrap();
            golden.compare("attention", &interest.attention);
            golden.compare("v", &interest.pooled);
        }
        iv4rec.din.score(&users, &cand, &mut Dropout::off()).unwrap()
    };

    golden.compare("logits_ridge", &logits(Inverse::Ridge));
    let logits: Tensor = logits(Inverse::Golden);
    golden.compare("logits", &logits);
    golden.compare("prob", &sigmoid(&logits).unwrap());
    golden.compare("reg_loss", &(iv4rec.squares().unwrap() * config.l2_weight).unwrap());
    let inputs = [("x_rec", &events), ("cand", &candidates)];
    let sum = seeded(&logits, &golden.input("grad_seed"));
    golden.compare("S", &sum);
    golden.compare_gradients("", &sum.backward().unwrap(), &inputs);
    let loss = binary_cross_entropy(&logits).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &inputs);
    golden.all_compared(&[]);
}
