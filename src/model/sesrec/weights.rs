//! SESRec's tensors: names (the release's state dict), shapes, initial values.

use std::collections::HashMap;

use candle_core::Tensor;

use super::{Compared, SesRecConfig, counts::Counts};
use crate::{
    model::{Embeddings, ModelError, Parameter, ParameterList, weights},
    nn::Initial,
};

/// Every tensor of a model with this configuration.
///
/// Initial values follow the release as it runs since its commit 740bd47 ("update parameter initialization"): Xavier
/// normal for every weight (padding rows and position embeddings included), but PyTorch's own Xavier uniform for the
/// packed attention projection, which its initialiser never reaches. The pooling matrices are three-dimensional there,
/// so that Xavier's rule takes their last dimension for a receptive field: deviation √(2 / (d² + d)).
pub fn parameters(config: &SesRecConfig) -> Vec<Parameter> {
    let d = config.hidden_dim;
    let mut list = ParameterList::default();
    Embeddings::parameters(&config.inputs, &mut list);
    let sides = [("rec", config.inputs.limits.recommendations), ("src", config.inputs.limits.searches)];
    for (side, length) in sides {
        list.xavier(format!("{side}_pos_emb.pe.weight"), &[length, d]);
        list.xavier(format!("{side}_his_att_pooling.W"), &[1, d, d]);
        for block in 0..config.num_blocks {
            let layer = format!("{side}_his_transformer_layer.layer.{block}");
            let attention = format!("{layer}.multi_head_attention");
            let projections = format!("{attention}.multi_head_attention");
            list.add(format!("{projections}.in_proj_weight"), &[3 * d, d], Initial::XavierUniform);
            list.add(format!("{projections}.in_proj_bias"), &[3 * d], Initial::Constant(0.0));
            list.linear(&format!("{projections}.out_proj"), d, d);
            list.norm(&format!("{attention}.LayerNorm"), d);
            list.linear(&format!("{layer}.feed_forward.dense_1"), d, d);
            list.linear(&format!("{layer}.feed_forward.dense_2"), d, d);
            list.norm(&format!("{layer}.feed_forward.LayerNorm"), d);
        }
    }
    if config.coattention == Compared::Encoded {
        list.xavier("interest_contrast.co_att.W1".into(), &[d, d]);
        list.xavier("interest_contrast.co_att.Wq".into(), &[1, d]);
        list.xavier("interest_contrast.co_att.Wd".into(), &[1, d]);
    }
    let temperature = Initial::Constant(config.infonce_temperature_init as f32);
    list.add("feature_alignment.infoNCE_loss.temp".into(), &[], temperature);
    list.xavier(ALIGNMENT.into(), &[d, d]);
    let inputs = std::iter::once(config.head_dim()).chain(config.mlp.iter().copied());
    for (n, (inputs, outputs)) in inputs.zip(&config.mlp).enumerate() {
        list.linear(&head_layer(n), *outputs, inputs);
    }
    if config.item_bias {
        list.add(ITEM_BIAS.into(), &[config.inputs.item_attributes[0].rows, 1], Initial::Constant(0.0));
    }
    let sets = 2 * config.interest_extraction.poolings();
    for (name, wanted) in [(MATCHING, config.matching), (INNER_PRODUCTS, config.inner_products)] {
        if wanted {
            list.add(name.into(), &[sets], Initial::Constant(1.0 / sets as f32));
        }
    }
    Counts::parameters(config, &mut list);
    list.into_parameters()
}

/// The matrix that query-item alignment compares by.
pub(super) const ALIGNMENT: &str = "feature_alignment.infoNCE_loss.weight_matrix";
/// Not the release's: `[items, 1]`, see [`SesRecConfig::item_bias`].
pub(super) const ITEM_BIAS: &str = "item_bias.weight";
/// Not the release's: weights of the recommendation side's sets, then of the search side's, see
/// [`SesRecConfig::matching`].
pub(super) const MATCHING: &str = "matching.weight";
/// Not the release's: likewise, see [`SesRecConfig::inner_products`].
pub(super) const INNER_PRODUCTS: &str = "inner_products.weight";

/// New weights; equal seeds give equal ones.
pub fn initialise(config: &SesRecConfig, seed: u64) -> Result<HashMap<String, Tensor>, ModelError> {
    weights::initialise(&parameters(config), seed)
}

/// Refuses tensors that don't fit the configuration, naming the first.
pub fn check(config: &SesRecConfig, tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
    weights::check(&parameters(config), tensors)
}

/// The release's `nn.Sequential` has Linear, ReLU, Dropout per layer.
pub(super) fn head_layer(n: usize) -> String {
    format!("fc_layer.fc.{}", 3 * n)
}
