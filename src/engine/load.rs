//! From a bundle to a model that is ready to answer.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Instant, SystemTime},
};

use candle_core::Device;

use super::{LoadedModel, ModelInfo};
use crate::{
    data::{Featurizer, SearchFeatures, UserFeatures, UserRow},
    failures::panic_message,
    model::{Bundle, BundleError, ModelError, RankerOptions, RankingModel, ScoreRequest},
};

/// How many candidates the warm-up scores: enough for every kernel's batched form.
const WARM_UP_CANDIDATES: usize = 128;

/// Why a bundle can't go live.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not readable, damaged, or inconsistent; names the file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The model can't be built on this device.
    #[error("bundle {0}: {1}")]
    Model(String, #[source] ModelError),
    /// It was built, but does not compute.
    #[error("bundle {0}: the warm-up failed: {1}")]
    WarmUp(String, String),
}

impl LoadedModel {
    /// Reads a bundle, builds its model on `device` with these options, and makes it rank once, so that the first
    /// request finds compiled kernels and allocated memory, and a model that can't compute never goes live. Blocks;
    /// takes seconds where catalogues are large.
    ///
    /// # Errors
    /// Name the bundle and the file or tensor; whatever is live stays as it is.
    pub fn load(dir: &Path, device: &Device, options: RankerOptions) -> Result<Self, LoadError> {
        let started = Instant::now();
        let bundle = Bundle::read(dir)?;
        let ranker = bundle.ranker(device, options).map_err(|error| LoadError::Model(bundle.name.clone(), error))?;
        let featurizer = Featurizer::new(bundle.catalogue.clone(), ranker.limits());
        warm_up(&*ranker, &featurizer).map_err(|message| LoadError::WarmUp(bundle.name.clone(), message))?;
        let info = ModelInfo {
            name: bundle.name,
            version: bundle.version,
            kind: bundle.config.kind().into(),
            config_json: bundle.config.to_json(),
            loaded_at: SystemTime::now(),
            load_time: started.elapsed(),
        };
        tracing::info!(name = info.name, version = %info.version, load_time = ?info.load_time, "model loaded");
        Ok(Self { ranker, featurizer, info })
    }
}

/// A user with full histories and one without any, each with candidates.
fn warm_up(ranker: &dyn RankingModel, featurizer: &Featurizer) -> Result<(), String> {
    let rows = u32::try_from(featurizer.catalogue().items.rows()).unwrap_or(u32::MAX);
    if rows < 2 {
        return Err("the catalogue has no items".into());
    }
    // Rows 1, 2, …, again and again: row 0 is padding.
    let items = |count: usize| (1..rows).cycle().take(count).collect::<Vec<u32>>();
    let limits = ranker.limits();
    let search = SearchFeatures {
        query: 0,
        words: vec![],
        source: featurizer.catalogue().default_source,
        clicks: items(limits.clicks),
        place: 0,
    };
    let full = UserFeatures {
        user: UserRow::Mean,
        recommendations: items(limits.recommendations),
        searches: vec![search; limits.searches],
        as_of: None,
    };
    let empty = UserFeatures { user: UserRow::Mean, recommendations: vec![], searches: vec![], as_of: None };
    let candidates = items(WARM_UP_CANDIDATES);
    let rank = || {
        let states = ranker.encode(&[&full, &empty])?;
        let requests: Vec<_> = states.iter().map(|state| ScoreRequest { state, items: &candidates }).collect();
        ranker.score(&requests)
    };
    match catch_unwind(AssertUnwindSafe(rank)) {
        Ok(Ok(scores)) if scores.iter().flatten().all(|score| score.is_finite()) => Ok(()),
        Ok(Ok(_)) => Err("scores are not numbers: weights out of range?".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("the model panicked: {}", panic_message(&*panic))),
    }
}
