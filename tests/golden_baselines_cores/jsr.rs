use candle_core::{Device, Tensor, Var};
use sesrec::{
    model::{
        AttributeConfig, InputConfig, TableConfig,
        baselines::{ItemWords, JsrConfig, ProductMlp, QueryClicks},
    },
    nn::{Dropout, Linear, RowZero, binary_cross_entropy, gather_rows},
};

use crate::{
    fixture::{Fixture, Names, seeded},
    towers::inputs,
};

const NAMES_2018: Names = &[("P", "user_projection"), ("mlp_", "mlp_"), ("omega", "omega")];
const NAMES_2020: Names = &[
    ("scorer.linear_layers.0", "mlp_r.0"),
    ("scorer.linear_layers.1", "mlp_r.2"),
    ("scorer.linear_layers.2", "mlp_r.4"),
    ("item_projector", "item_projector"),
];
const WIDTH: usize = 24;

#[test]
fn clicks_of_searches() {
    let Some(golden) = Fixture::open("jsr_spec2018", NAMES_2018) else { return };
    let attribute = |dim| vec![AttributeConfig { name: "id".into(), rows: 9, dim }];
    let inputs = InputConfig { item_attributes: attribute(WIDTH), user_attributes: attribute(8), ..inputs() };
    let config = JsrConfig { words: TableConfig { rows: 30, dim: WIDTH }, ..JsrConfig::new(inputs) };
    let parts = |weights: &sesrec::model::Weights<'_>| {
        Ok((
            weights.linear("user_projection")?,
            ProductMlp::new(weights, "mlp_r", config.num_hidden)?,
            ProductMlp::new(weights, "mlp_s", config.num_hidden)?,
            QueryClicks::new(weights)?,
        ))
    };
    // All but the words' own vectors, which the folder has as inputs.
    let listed = |list: &mut sesrec::model::ParameterList| {
        list.linear("user_projection", WIDTH, 8);
        ProductMlp::parameters(list, "mlp_r", WIDTH, config.num_hidden);
        ProductMlp::parameters(list, "mlp_s", WIDTH, config.num_hidden);
        QueryClicks::parameters(list, 30);
    };
    let (projection, recommendation, search, queries): (Linear, _, _, _) = golden.build(listed, parts);
    let inputs = ["user", "cand", "cand_search", "word_vec"].map(|name| (name, golden.variable(name)));
    let [user, candidates, clicks, words] = inputs.each_ref().map(|(_, var)| var.as_tensor());
    let dropout = &mut Dropout::off();

    let logits = recommendation.forward(&projection.forward(user).unwrap(), candidates, dropout).unwrap();
    golden.compare("logits", &logits);
    let rows = golden.rows("word_ids").into_iter().zip(golden.flags("word_mask"));
    let rows: Vec<Option<u32>> = rows.map(|(row, real)| real.then(|| u32::try_from(row).unwrap())).collect();
    let (query, weights) = queries.forward(words, &rows).unwrap();
    golden.compare("word_weights", &weights);
    golden.compare("query_vec", &query);
    let logits_search = search.forward(&query, clicks, dropout).unwrap();
    golden.compare("logits_search", &logits_search);
    let sum = seeded(&logits, &golden.input("grad_seed")) + seeded(&logits_search, &golden.input("grad_seed_search"));
    let inputs: Vec<(&str, &Var)> = inputs.iter().map(|(name, var)| (*name, var)).collect();
    golden.compare_gradients("", &sum.unwrap().backward().unwrap(), &inputs);

    let (bce, search) = (binary_cross_entropy(&logits).unwrap(), binary_cross_entropy(&logits_search).unwrap());
    golden.compare("loss_rec", &bce);
    golden.compare("loss_search", &search);
    let loss = (bce + (search * config.search_weight).unwrap()).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &[]);
    golden.all_compared(&[]);
}

#[test]
fn words_of_items() {
    let Some(golden) = Fixture::open("jsr", NAMES_2020) else { return };
    let hidden = 2;
    let listed = |list: &mut sesrec::model::ParameterList| {
        ProductMlp::parameters(list, "mlp_r", WIDTH, hidden);
        ItemWords::parameters(list, 12, WIDTH);
    };
    let (mlp, item_words): (ProductMlp, ItemWords) =
        golden.build(listed, |weights| Ok((ProductMlp::new(weights, "mlp_r", hidden)?, ItemWords::new(weights)?)));
    let (user, table) = (golden.variable("user"), golden.variable("item_table"));
    let dropout = &mut Dropout::off();
    let items = |rows: &[u32]| {
        let vectors = gather_rows(&table, rows, RowZero::Learns).unwrap();
        vectors.reshape((6, (), WIDTH)).unwrap() // [B, _, d]
    };
    let rows = |name: &str| -> Vec<u32> { golden.rows(name).iter().map(|&row| u32::try_from(row).unwrap()).collect() };
    let mut score = |rows: &[u32]| mlp.forward(&user, &items(rows), dropout).unwrap();

    let logits = score(&rows("cand_index"));
    golden.compare("logits", &logits);
    let scores = score(&(0..6).flat_map(|_| 0..40).collect::<Vec<_>>());
    golden.compare("scores_all", &scores);
    let item_lm = item_words.forward(&table, &golden.input("word_table")).unwrap();
    golden.compare("item_lm", &item_lm);
    golden.compare("corpus_lm", &item_lm.mean(0).unwrap());
    let gradients = seeded(&logits, &golden.input("grad_seed")).backward().unwrap();
    golden.compare_gradients("", &gradients, &[("user", &user), ("item_table", &table)]);

    // Each positive, then its negatives.
    let (positives, negatives) = (rows("pos_index"), rows("neg_index"));
    let candidates: Vec<u32> = (0..6).flat_map(|n| [positives[n], negatives[n], negatives[6 + n]]).collect();
    let bce = binary_cross_entropy(&score(&candidates)).unwrap();
    golden.compare("rec_loss", &bce);
    let searches: Vec<usize> = (0..6).filter(|&n| golden.flags("is_search")[n]).collect();
    let clicked: Vec<u32> = searches.iter().map(|&n| positives[n]).collect();
    let clicked = gather_rows(&table, &clicked, RowZero::Learns).unwrap();
    let likelihoods = item_words.forward(&clicked, &golden.input("word_table")).unwrap();
    let words = golden.rows("keywords");
    let words: Vec<Option<u32>> =
        searches.iter().flat_map(|&n| &words[4 * n..4 * (n + 1)]).map(|&word| u32::try_from(word).ok()).collect();
    let queries: Vec<Vec<u32>> = words.chunks(4).map(|words| words.iter().flatten().copied().collect()).collect();
    let queries: Vec<&[u32]> = queries.iter().map(Vec::as_slice).collect();
    let found = ItemWords::query_likelihood(&item_lm, &queries, 0.3);
    // The reference counts a query's padding as words that no item has: a constant of the query.
    let padding = queries.iter().map(|words| (4 - words.len()) as f32 * 1e-7_f32.ln() / words.len() as f32);
    let padding = Tensor::from_vec(padding.collect(), (searches.len(), 1), &Device::Cpu).unwrap();
    let found = found.unwrap().broadcast_add(&padding).unwrap();
    golden.compare("retrieval_scores", &found);
    let mut everything: Vec<Tensor> = (0..6).map(|n| scores.get(n).unwrap()).collect();
    searches.iter().enumerate().for_each(|(row, &n)| everything[n] = found.get(row).unwrap());
    golden.compare("predict_all", &Tensor::stack(&everything, 0).unwrap());
    let intended = ItemWords::loss(&likelihoods, &words).unwrap();
    golden.compare("recon_intended", &intended);
    golden.compare("loss_intended", &(&bce + (intended * 0.1).unwrap()).unwrap());
    // As the reference has it: every sum over every length.
    let sizes = rows("query_sizes");
    let lengths: Vec<f32> = searches.iter().map(|&n| 1.0 / sizes[n] as f32).collect();
    let lengths = Tensor::from_vec(lengths, searches.len(), &Device::Cpu).unwrap().mean_all().unwrap();
    let coded = (ItemWords::surprise(&likelihoods, &words).unwrap().mean_all().unwrap() * lengths).unwrap();
    golden.compare("recon_as_coded", &coded);
    let loss = (bce + (coded * 0.1).unwrap()).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &[("user", &user), ("item_table", &table)]);
    golden.all_compared(&[]);
}
