//! GetModelInfo.

use super::shared::Shared;
use crate::{domain::EventTime, nn::device_name, proto::v1};

/// The live model.
pub(super) fn get(shared: &Shared) -> v1::GetModelInfoResponse {
    let model = shared.slot.live();
    let (info, catalogue) = (&model.info, model.featurizer.catalogue());
    let limits = model.featurizer.limits();
    v1::GetModelInfoResponse {
        name: info.name.clone(),
        version: info.version.to_string(),
        model: info.kind.clone(),
        config_json: info.config_json.clone(),
        items: catalogue.items.ids.len() as u64,
        users: catalogue.users.ids.len() as u64,
        queries: catalogue.queries.ids.len() as u64,
        words: catalogue.words.ids.len() as u64,
        sources: catalogue.sources.ids.iter().map(str::to_owned).collect(),
        device: device_name(model.ranker.device()),
        loaded_at: Some(EventTime::from(info.loaded_at).into()),
        load_ms: u64::try_from(info.load_time.as_millis()).unwrap_or(u64::MAX),
        max_recommendations: u32::try_from(limits.recommendations).unwrap_or(u32::MAX),
        max_searches: u32::try_from(limits.searches).unwrap_or(u32::MAX),
    }
}
