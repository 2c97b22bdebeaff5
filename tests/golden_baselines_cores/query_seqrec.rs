use candle_core::Var;
use sesrec::{
    data::HistoryLimits,
    model::{
        InputConfig, QueryFeatures, TableConfig,
        baselines::{QuerySeqRec, QuerySeqRecConfig, dot},
    },
    nn::{Dropout, newest},
};

use crate::{
    fixture::{Fixture, Names, seeded},
    towers::{LENGTH, WIDTH, inputs, network},
};

const NAMES: Names = &[
    ("type_emb", "type_emb"),
    ("pos_emb", "pos_emb"),
    ("attention_layer", "attention_layer"),
    ("forward_layer", "forward_layer"),
    ("last_layernorm", "last_layernorm"),
];

#[test]
fn query_seqrec() {
    let Some(golden) = Fixture::open("query_seqrec", NAMES) else { return };
    let table = TableConfig { rows: 9, dim: WIDTH };
    let inputs = InputConfig {
        query_features: Some(QueryFeatures { id: table, search_source: Some(table), word_segs: table }),
        // As many positions as both together.
        limits: HistoryLimits { recommendations: LENGTH - 5, searches: 5, words: 1, clicks: 0 },
        ..inputs()
    };
    let model = network(&golden, &QuerySeqRecConfig::new(inputs));
    let (lengths, real) = (golden.lengths("mask"), golden.flags("mask"));
    let types: Vec<u32> = golden.rows("is_query").iter().map(|&kind| u32::try_from(kind).unwrap()).collect();
    // Padding may hold anything.
    let dirty = model.forward(&golden.input("x_tok_dirty"), &types, &mut Dropout::off()).unwrap();
    golden.compare("user_vec", &newest(&dirty.output, &lengths).unwrap());

    let tokens = golden.variable("x_tok");
    let mixed = model.forward(&tokens, &types, &mut Dropout::off()).unwrap();
    golden.compare_where("H_in", &mixed.embedded, &real);
    for (n, block) in mixed.blocks.iter().enumerate() {
        golden.compare_where(&format!("A_layer{n}"), &block.attended, &real);
        golden.compare_where(&format!("B_layer{n}"), &block.normalised, &real);
        golden.compare_where(&format!("H_layer{n}"), &block.output, &real);
        // Attention of a real position, per head.
        let heads = block.attention.dim(1).unwrap();
        let real: Vec<bool> = real.chunks(LENGTH).flat_map(|row| row.repeat(heads)).collect();
        golden.compare_where(&format!("attn_probs_layer{n}"), &block.attention, &real);
    }
    golden.compare_where("final", &mixed.output, &real);
    let users = newest(&mixed.output, &lengths).unwrap();
    golden.compare("user_vec", &users);
    let logits = dot(&users, &golden.input("cand")).unwrap();
    golden.compare("logits", &logits);
    let inputs: [(&str, &Var); 1] = [("x_tok", &tokens)];
    let gradients = seeded(&logits, &golden.input("grad_seed")).backward().unwrap();
    golden.compare_gradients("", &gradients, &inputs);

    let labels = golden.rows("loss_labels");
    let (places, next): (Vec<u32>, Vec<u32>) = (0..)
        .zip(golden.flags("loss_mask"))
        .filter(|(_, taken)| *taken)
        .map(|(place, _)| (place, u32::try_from(labels[place as usize]).unwrap()))
        .unzip();
    let loss = QuerySeqRec::next_item_loss(&mixed.output, &golden.input("item_table"), &places, &next).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &inputs);
    golden.all_compared(&[]);
}
