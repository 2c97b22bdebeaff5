//! The live model.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::LoadedModel;
use crate::{
    nn::{device_memory, device_name},
    telemetry::{Metrics, ModelLabels},
};

/// Where the live model is found and replaced. Requests take the model from here once and keep it to their answer; the
/// old one is freed with its last request.
pub struct ModelSlot {
    live: ArcSwap<LoadedModel>,
    metrics: Metrics,
}

impl ModelSlot {
    /// Makes a loaded model the live one.
    pub fn new(model: LoadedModel, metrics: Metrics) -> Self {
        tell(&model, &metrics);
        Self { live: ArcSwap::from_pointee(model), metrics }
    }

    /// The live model.
    pub fn live(&self) -> Arc<LoadedModel> {
        self.live.load_full()
    }

    /// Makes another model live and returns the old one, which may still be answering.
    pub fn swap(&self, model: LoadedModel) -> Arc<LoadedModel> {
        tell(&model, &self.metrics);
        self.live.swap(Arc::new(model))
    }
}

impl std::fmt::Debug for ModelSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelSlot({:?})", self.live.load().info)
    }
}

fn tell(model: &LoadedModel, metrics: &Metrics) {
    let (info, device) = (&model.info, model.ranker.device());
    let labels = ModelLabels {
        name: info.name.clone(),
        version: info.version.to_string(),
        kind: info.kind.clone(),
        device: device_name(device),
    };
    let computing = device.clone();
    metrics.device_memory(labels.device.clone(), move || device_memory(&computing));
    metrics.model_live(&labels, info.loaded_at, info.load_time);
}
