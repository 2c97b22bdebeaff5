//! SESRec's tensors: names (the release's state dict), shapes, beginnings.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use super::{QueryFeatures, SesRecConfig};
use crate::{model::ModelError, nn::Initial};

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// The release's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it begins in training.
    pub initial: Initial,
}

/// Every tensor of a model with this configuration.
///
/// Beginnings follow the release as it runs since its commit 740bd47 ("update parameter initialization"): Xavier normal
/// for every weight (padding rows and position embeddings included), but PyTorch's own Xavier uniform for the packed
/// attention projection, which its initialiser never reaches. The pooling matrices are three-dimensional there, so that
/// Xavier's rule takes their last dimension for a receptive field: deviation √(2 / (d² + d)).
pub fn parameters(config: &SesRecConfig) -> Vec<Parameter> {
    let d = config.hidden_dim;
    let mut list = List(vec![]);
    for attribute in &config.item_attributes {
        list.xavier(format!("{}.weight", item_table(&attribute.name)), &[attribute.rows, attribute.dim]);
    }
    for attribute in &config.user_attributes {
        list.xavier(format!("{}.weight", user_table(&attribute.name)), &[attribute.rows, attribute.dim]);
    }
    let QueryFeatures { id, search_source, word_segs } = config.query_features;
    for (name, table) in [("id", id), ("search_source", search_source), ("word_segs", word_segs)] {
        list.xavier(format!("query_item_feat.query_{name}_emb.weight"), &[table.rows, table.dim]);
    }
    list.linear("query_item_feat.item_trans", d, d);
    list.linear("query_item_feat.query_trans", d, id.dim + word_segs.dim);
    let sides = [("rec", config.limits.recommendations), ("src", config.limits.searches)];
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
    list.xavier("interest_contrast.co_att.W1".into(), &[d, d]);
    list.xavier("interest_contrast.co_att.Wq".into(), &[1, d]);
    list.xavier("interest_contrast.co_att.Wd".into(), &[1, d]);
    let temperature = Initial::Constant(config.infonce_temperature_init as f32);
    list.add("feature_alignment.infoNCE_loss.temp".into(), &[], temperature);
    list.xavier("feature_alignment.infoNCE_loss.weight_matrix".into(), &[d, d]);
    let inputs = std::iter::once(config.head_dim()).chain(config.mlp.iter().copied());
    for (n, (inputs, outputs)) in inputs.zip(&config.mlp).enumerate() {
        list.linear(&head_layer(n), *outputs, inputs);
    }
    list.0
}

/// New weights; equal seeds give equal ones.
pub fn initialise(config: &SesRecConfig, seed: u64) -> Result<HashMap<String, Tensor>, ModelError> {
    let tensors = parameters(config).into_iter().map(|Parameter { name, shape, initial }| {
        let tensor = initial.tensor(&name, &shape, seed)?;
        Ok((name, tensor))
    });
    tensors.collect()
}

/// Refuses tensors that don't fit the configuration, naming the first: missing, unexpected, of another shape or type,
/// not finite.
pub fn check(config: &SesRecConfig, tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
    let parameters = parameters(config);
    for Parameter { name, shape, .. } in &parameters {
        let fail = |message: String| Err(ModelError::Weights { name: name.clone(), message });
        let Some(tensor) = tensors.get(name) else { return fail(format!("is missing; expected shape {shape:?}")) };
        if tensor.dims() != shape {
            return fail(format!("has shape {:?}; the configuration makes it {shape:?}", tensor.dims()));
        }
        if tensor.dtype() != DType::F32 {
            return fail(format!("has type {:?}; expected F32", tensor.dtype()));
        }
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        if let Some(position) = values.iter().position(|value| !value.is_finite()) {
            return fail(format!("is not finite at element {position}: {}", values[position]));
        }
    }
    let mut unexpected: Vec<&String> =
        tensors.keys().filter(|name| parameters.iter().all(|parameter| parameter.name != **name)).collect();
    unexpected.sort();
    match unexpected.first() {
        Some(name) => Err(ModelError::Weights {
            name: (*name).clone(),
            message: "is not part of a model with this configuration".into(),
        }),
        None => Ok(()),
    }
}

pub(super) fn item_table(attribute: &str) -> String {
    format!("query_item_feat.item_feat.item_{attribute}_emb")
}

pub(super) fn user_table(attribute: &str) -> String {
    format!("user_feat.user_{attribute}_emb")
}

/// The release's `nn.Sequential` has Linear, ReLU, Dropout per layer.
pub(super) fn head_layer(n: usize) -> String {
    format!("fc_layer.fc.{}", 3 * n)
}

struct List(Vec<Parameter>);

impl List {
    fn add(&mut self, name: String, shape: &[usize], initial: Initial) {
        self.0.push(Parameter { name, shape: shape.to_vec(), initial });
    }

    fn xavier(&mut self, name: String, shape: &[usize]) {
        self.add(name, shape, Initial::XavierNormal);
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.xavier(format!("{name}.weight"), &[outputs, inputs]);
        self.add(format!("{name}.bias"), &[outputs], Initial::Constant(0.0));
    }

    fn norm(&mut self, name: &str, d: usize) {
        self.add(format!("{name}.weight"), &[d], Initial::Constant(1.0));
        self.add(format!("{name}.bias"), &[d], Initial::Constant(0.0));
    }
}
