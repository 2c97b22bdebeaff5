//! Weights of code whose items are a table and nothing else: S³-Rec, FMLP-Rec.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use crate::model::{ModelConfig, ModelError};

const THEIRS: &str = "item_embeddings.weight";
const OURS: &str = "query_item_feat.item_feat.item_id_emb.weight";
const PROJECTION: &str = "query_item_feat.item_trans";

/// Gives such weights the projection that items here go through, where the configuration has one: the identity. Others
/// are left as they are.
pub fn with_projection(
    config: &ModelConfig,
    mut tensors: HashMap<String, Tensor>,
) -> Result<HashMap<String, Tensor>, ModelError> {
    let Some(table) = tensors.remove(THEIRS) else { return Ok(tensors) };
    let d = config.inputs().item_dim();
    if config.inputs().item_attributes.len() != 1 {
        let message = "is a table of items alone; item_attributes of the configuration must be [\"id\"]";
        return Err(ModelError::Weights { name: THEIRS.into(), message: message.into() });
    }
    tensors.insert(OURS.into(), table);
    if !config.inputs().item_projection {
        return Ok(tensors);
    }
    let identity: Vec<f32> = (0..d * d).map(|n| f32::from(u8::from(n / d == n % d))).collect();
    tensors.insert(format!("{PROJECTION}.weight"), Tensor::from_vec(identity, (d, d), &Device::Cpu)?);
    tensors.insert(format!("{PROJECTION}.bias"), Tensor::zeros(d, candle_core::DType::F32, &Device::Cpu)?);
    Ok(tensors)
}
