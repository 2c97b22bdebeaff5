use candle_nn::ops::sigmoid;
use sesrec::{
    data::HistoryLimits,
    model::{
        InputConfig, QueryFeatures, TableConfig,
        baselines::{NrhubConfig, dot},
    },
    nn::{Mask, binary_cross_entropy},
};

use crate::{
    fixture::{Fixture, Names, dirty, seeded},
    towers::{LENGTH, USERS, inputs_of, network},
};

const NAMES: Names =
    &[("search_", "search_"), ("browse_", "browse_"), ("item_rep", "item_rep"), ("user_rep", "user_rep")];
const SEARCHES: usize = 4;
const CLICKS: usize = 3;
const WIDTH: usize = 24;

#[test]
fn nrhub() {
    let Some(golden) = Fixture::open("nrhub", NAMES) else { return };
    let table = TableConfig { rows: 9, dim: WIDTH };
    let inputs = InputConfig {
        query_features: Some(QueryFeatures { id: table, search_source: None, word_segs: table }),
        limits: HistoryLimits { recommendations: LENGTH, searches: SEARCHES, words: 2, clicks: CLICKS },
        ..inputs_of(WIDTH, 0)
    };
    let nrhub = network(&golden, &NrhubConfig { hidden_dim: 30, ..NrhubConfig::new(inputs) });
    let [events, queries, clicks, candidates] = ["x_rec", "q", "click", "cand"].map(|name| golden.variable(name));
    let flat_clicks = clicks.reshape((USERS, SEARCHES * CLICKS, WIDTH)).unwrap();
    let masks = [("mask_rec", LENGTH), ("mask_q", SEARCHES), ("mask_click", SEARCHES * CLICKS)];
    let [real, real_queries, real_clicks] = masks.map(|(name, length)| Mask::new(golden.flags(name), length));

    let views = nrhub.views([(&events, &real), (&queries, &real_queries), (&flat_clicks, &real_clicks)]).unwrap();
    // The last user has no searches: there the reference averages padding, and the specification doesn't.
    let comparable = golden.flags("row_comparable");
    assert_eq!(comparable, [true, true, true, true, true, false]);
    for (n, name) in ["b", "q", "c"].into_iter().enumerate() {
        golden.compare_where(&format!("r_{name}"), &views.pooled[n], &comparable);
        golden.compare_where(&format!("w_{name}"), &views.attention[n], &comparable);
    }
    golden.compare_where("w_view", &views.weights, &comparable);
    golden.compare_where("user_vec", &views.users, &comparable);
    golden.compare("user_vec_spec_masked", &views.users);
    let items = nrhub.candidates(&candidates).unwrap();
    golden.compare("item_vec", &items);
    let logits = dot(&views.users, &items).unwrap();
    golden.compare_where("logits", &logits, &comparable);
    golden.compare_where("prob", &sigmoid(&logits).unwrap(), &comparable);
    golden.compare("logits_spec_masked", &logits);

    let inputs = [("x_rec", &events), ("q", &queries), ("click", &clicks), ("cand", &candidates)];
    let sum = seeded(&logits, &golden.input("grad_seed"));
    golden.compare("S", &sum);
    golden.compare_gradients("", &sum.backward().unwrap(), &inputs);
    let loss = binary_cross_entropy(&logits.narrow(0, 0, USERS - 1).unwrap()).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &inputs);

    let with_garbage = [
        (dirty(&events, &golden.flags("mask_rec")), real),
        (dirty(&queries, &golden.flags("mask_q")), real_queries),
        (dirty(&flat_clicks, &golden.flags("mask_click")), real_clicks),
    ];
    let views = nrhub.views([0, 1, 2].map(|n| (&with_garbage[n].0, &with_garbage[n].1))).unwrap();
    golden.compare("logits_spec_masked", &dot(&views.users, &items).unwrap());
    golden.all_compared(&[]);
}
