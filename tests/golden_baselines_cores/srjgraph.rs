use candle_core::{Tensor, Var};
use sesrec::{
    data::HistoryLimits,
    model::{
        AttributeConfig, InputConfig, QueryFeatures, TableConfig,
        baselines::srjgraph::{Graph, Hops, SrjGraphConfig, Task},
    },
    nn::Dropout,
};

use crate::fixture::{Fixture, Names, seeded};

const NAMES: Names = &[
    ("user_dense.kernel", "user_dense.weight"),
    ("user_dense.bias", "user_dense.bias"),
    ("item_dense.kernel", "item_dense.weight"),
    ("item_dense.bias", "item_dense.bias"),
    ("agg_u2i.dnn_Q.kernel", "users_into_item.target.weight"),
    ("agg_u2i.dnn_Q.bias", "users_into_item.target.bias"),
    ("agg_u2i.dnn_agg_linear_2.kernel", "users_into_item.gate_linear.weight"),
    ("agg_u2i.dnn_agg_linear_2.bias", "users_into_item.gate_linear.bias"),
    ("agg_u2i.dnn_agg_linear_3.kernel", "users_into_item.child.weight"),
    ("agg_u2i.dnn_agg_linear_3.bias", "users_into_item.child.bias"),
    ("agg_u2i.dnn_agg_linear.kernel", "users_into_item.linear.weight"),
    ("agg_u2i.dnn_agg_linear.bias", "users_into_item.linear.bias"),
    ("agg_u2i.dnn_agg_nonlinear.kernel", "users_into_item.gate_attention.weight"),
    ("agg_u2i.dnn_agg_nonlinear.bias", "users_into_item.gate_attention.bias"),
    ("agg_u2i.transformer.W_Query", "users_into_item.query.weight"),
    ("agg_u2i.transformer.B_Query", "users_into_item.query.bias"),
    ("agg_u2i.transformer.W_key", "users_into_item.key.weight"),
    ("agg_u2i.transformer.B_Key", "users_into_item.key.bias"),
    ("agg_u2i.transformer.position_emb.embeddings", "users_into_item.positions.weight"),
    ("agg_u2i.transformer.fw", "users_into_item.feed_forward.weight"),
    ("agg_u2i.transformer.fb", "users_into_item.feed_forward.bias"),
    ("agg_u2i.transformer.ln.gamma", "users_into_item.norm.weight"),
    ("agg_u2i.transformer.ln.beta", "users_into_item.norm.bias"),
    ("agg_u2i.transformer.ln_q.gamma", "users_into_item.query_norm.weight"),
    ("agg_u2i.transformer.ln_q.beta", "users_into_item.query_norm.bias"),
    ("agg_u2i.transformer.ln_k.gamma", "users_into_item.key_norm.weight"),
    ("agg_u2i.transformer.ln_k.beta", "users_into_item.key_norm.bias"),
    ("agg_i2u.dnn_Q.kernel", "items_into_user.target.weight"),
    ("agg_i2u.dnn_Q.bias", "items_into_user.target.bias"),
    ("agg_i2u.dnn_agg_linear_2.kernel", "items_into_user.gate_linear.weight"),
    ("agg_i2u.dnn_agg_linear_2.bias", "items_into_user.gate_linear.bias"),
    ("agg_i2u.dnn_agg_linear.kernel", "items_into_user.linear.weight"),
    ("agg_i2u.dnn_agg_linear.bias", "items_into_user.linear.bias"),
    ("agg_i2u.dnn_agg_nonlinear.kernel", "items_into_user.gate_attention.weight"),
    ("agg_i2u.dnn_agg_nonlinear.bias", "items_into_user.gate_attention.bias"),
    ("agg_i2u.transformer.W_Query", "items_into_user.query.weight"),
    ("agg_i2u.transformer.B_Query", "items_into_user.query.bias"),
    ("agg_i2u.transformer.W_key", "items_into_user.key.weight"),
    ("agg_i2u.transformer.B_Key", "items_into_user.key.bias"),
    ("agg_i2u.transformer.position_emb.embeddings", "items_into_user.positions.weight"),
    ("agg_i2u.transformer.fw", "items_into_user.feed_forward.weight"),
    ("agg_i2u.transformer.fb", "items_into_user.feed_forward.bias"),
    ("agg_i2u.transformer.ln.gamma", "items_into_user.norm.weight"),
    ("agg_i2u.transformer.ln.beta", "items_into_user.norm.bias"),
    ("agg_i2u.transformer.ln_q.gamma", "items_into_user.query_norm.weight"),
    ("agg_i2u.transformer.ln_q.beta", "items_into_user.query_norm.bias"),
    ("agg_i2u.transformer.ln_k.gamma", "items_into_user.key_norm.weight"),
    ("agg_i2u.transformer.ln_k.beta", "items_into_user.key_norm.bias"),
    ("head_search.bn.gamma", "search.norm.weight"),
    ("head_search.bn.beta", "search.norm.bias"),
    ("head_search.bn.moving_mean", "search.norm.running_mean"),
    ("head_search.bn.moving_variance", "search.norm.running_var"),
    ("head_search.dnn.kernels.0", "search.layers.0.weight"),
    ("head_search.dnn.kernels.1", "search.layers.1.weight"),
    ("head_search.dnn.bias.0", "search.layers.0.bias"),
    ("head_search.dnn.bias.1", "search.layers.1.bias"),
    ("head_search.dnn.activation_layers.0.alphas", "search.dice.0.alpha"),
    ("head_search.dnn.activation_layers.1.alphas", "search.dice.1.alpha"),
    ("head_search.dnn.activation_layers.0.bn.moving_mean", "search.dice.0.running_mean"),
    ("head_search.dnn.activation_layers.0.bn.moving_variance", "search.dice.0.running_var"),
    ("head_search.dnn.activation_layers.1.bn.moving_mean", "search.dice.1.running_mean"),
    ("head_search.dnn.activation_layers.1.bn.moving_variance", "search.dice.1.running_var"),
    ("head_search.out.kernel", "search.output.weight"),
    ("head_search.pred.global_bias", "search.output.bias"),
    ("head_recommend.bn.gamma", "recommendation.norm.weight"),
    ("head_recommend.bn.beta", "recommendation.norm.bias"),
    ("head_recommend.bn.moving_mean", "recommendation.norm.running_mean"),
    ("head_recommend.bn.moving_variance", "recommendation.norm.running_var"),
    ("head_recommend.dnn.kernels.0", "recommendation.layers.0.weight"),
    ("head_recommend.dnn.kernels.1", "recommendation.layers.1.weight"),
    ("head_recommend.dnn.bias.0", "recommendation.layers.0.bias"),
    ("head_recommend.dnn.bias.1", "recommendation.layers.1.bias"),
    ("head_recommend.dnn.activation_layers.0.alphas", "recommendation.dice.0.alpha"),
    ("head_recommend.dnn.activation_layers.1.alphas", "recommendation.dice.1.alpha"),
    ("head_recommend.dnn.activation_layers.0.bn.moving_mean", "recommendation.dice.0.running_mean"),
    ("head_recommend.dnn.activation_layers.0.bn.moving_variance", "recommendation.dice.0.running_var"),
    ("head_recommend.dnn.activation_layers.1.bn.moving_mean", "recommendation.dice.1.running_mean"),
    ("head_recommend.dnn.activation_layers.1.bn.moving_variance", "recommendation.dice.1.running_var"),
    ("head_recommend.out.kernel", "recommendation.output.weight"),
    ("head_recommend.pred.global_bias", "recommendation.output.bias"),
];
const USERS: usize = 4;
const CANDIDATES: usize = 3;
const PAIRS: usize = USERS * CANDIDATES;

#[test]
fn srjgraph() {
    let Some(golden) = Fixture::open("srjgraph", NAMES) else { return };
    let attribute = |dim| vec![AttributeConfig { name: "id".into(), rows: 9, dim }];
    let table = TableConfig { rows: 9, dim: 4 };
    let inputs = InputConfig {
        item_attributes: attribute(14),
        item_width: None,
        item_projection: true,
        user_attributes: attribute(10),
        query_features: Some(QueryFeatures { id: table, search_source: None, word_segs: table }),
        limits: HistoryLimits { recommendations: 6, searches: 1, words: 1, clicks: 1 },
    };
    let config = SrjGraphConfig { node_dim: 12, neighbours: 7, head: vec![20, 12], ..SrjGraphConfig::new(inputs) };
    // The folder has its neighbours as inputs.
    let nothing = Graph::from_table("none", &Graph::table(&[]).unwrap(), [0; 3]).unwrap();
    let model = golden.build(|list| config.layers(8, list), |weights| config.over(nothing, weights));
    let names = ["user", "item", "q", "ui", "ui_q", "iu", "iu_q", "iui", "iui_q"];
    let vars = names.map(|name| golden.variable(name));
    let [user, item, q, ui, ui_q, iu, iu_q, iui, iui_q] = vars.each_ref().map(Var::as_tensor);
    let shaped = |x: &Tensor, shape: &[usize]| x.reshape(shape).unwrap();

    let lengths = golden.lengths("ui_mask");
    let users =
        model.neighbourhoods(model.user_nodes(user).unwrap(), ui_q, &model.item_nodes(ui).unwrap(), lengths).unwrap();
    let others = model.user_nodes(&shaped(iu, &[PAIRS, 10])).unwrap();
    let (others_q, others_items) =
        (shaped(iui_q, &[PAIRS, 5, 8]), model.item_nodes(&shaped(iui, &[PAIRS, 5, 14])).unwrap());
    let hops = Hops {
        users: model.neighbourhoods(others, &others_q, &others_items, golden.lengths("iui_mask")).unwrap(),
        of_pair: (0..).zip(golden.flags("iu_mask")).map(|(pair, real)| real.then_some(pair)).collect(),
        queries: shaped(iu_q, &[PAIRS, 8]),
    };
    let pairs = model.pairs(&users, q, &model.item_nodes(item).unwrap(), &hops).unwrap();
    golden.compare("agg_user_attn_branch", &pairs.user.attended);
    golden.compare("agg_user", &pairs.user.output);
    // Where nobody clicked the item, nobody's items mean anything.
    let present = golden.flags("iu_mask");
    golden.compare_where("agg_iu_child_attn_branch", &pairs.child.attended, &present);
    golden.compare_where("agg_iu_child", &pairs.child.output, &present);
    golden.compare("agg_item_attn_branch", &pairs.item.attended);
    golden.compare("agg_item", &pairs.item.output);
    golden.compare("head_in", &pairs.all);
    let logits = |task| model.head(&pairs.all, task, &mut Dropout::off()).unwrap();
    let (search, recommendation) = (logits(Task::Search), logits(Task::Recommendation));
    golden.compare("logits_search", &search);
    golden.compare("logits_recommend", &recommendation);

    let shape = (USERS, CANDIDATES);
    let is_search: Vec<f32> = golden.flags("is_search").into_iter().map(|search| f32::from(u8::from(search))).collect();
    let is_search = Tensor::from_vec(is_search, (USERS, 1), user.device()).unwrap();
    let by_user = |logits: Tensor, chosen: &Tensor| logits.reshape(shape).unwrap().broadcast_mul(chosen).unwrap();
    let logits = (by_user(search, &is_search) + by_user(recommendation, &(1.0 - &is_search).unwrap())).unwrap();
    golden.compare("logits", &logits);
    golden.compare("prob", &candle_nn::ops::sigmoid(&logits).unwrap());
    let inputs: Vec<(&str, &Var)> = names.into_iter().zip(&vars).collect();
    let gradients = seeded(&logits, &golden.input("grad_seed")).backward().unwrap();
    golden.compare_gradients("", &gradients, &inputs);
    let loss = sesrec::nn::binary_cross_entropy(&logits).unwrap();
    golden.compare("own_loss", &loss);
    golden.compare_gradients("own_loss::", &loss.backward().unwrap(), &inputs);
    golden.all_compared(&[]);
}
