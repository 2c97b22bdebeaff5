//! SESRec that answers: what depends on the item computed once, users encoded once, candidates scored.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};

#[cfg(feature = "cuda")]
use super::cuda::CudaRanker;
use super::{Network, SesRecConfig, check, cpu::CpuRanker, tensors::TensorRanker};
use crate::{
    data::{Catalogue, HistoryLimits, UserFeatures},
    domain::{HistoryWeights, ItemAttention},
    model::{ModelError, RankerOptions, RankingModel, ScoreRequest, UserState, Weights, weights},
};

/// A trained SESRec on a device.
///
/// The first prediction layer is linear in its blocks `[R interests; S interests; user; candidate]`, so the candidates'
/// share depends on the item alone and the user's share is part of the user's state.
pub struct SesRecRanker {
    network: Network,
    backend: Backend,
}

enum Backend {
    Cpu(Box<CpuRanker>),
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaRanker>),
    Tensors(TensorRanker),
}

impl SesRecRanker {
    /// Checks the weights against the configuration and precomputes what depends on the item alone, with these options.
    pub fn new(
        config: SesRecConfig,
        catalogue: Arc<Catalogue>,
        weights: &HashMap<String, Tensor>,
        device: &Device,
        options: RankerOptions,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        check(&config, weights)?;
        Self::of_checked(config, catalogue, weights, device, options)
    }

    /// As [`Self::new`], of weights that are known to fit: going through all of them takes a while in a large model.
    pub(super) fn of_checked(
        config: SesRecConfig,
        catalogue: Arc<Catalogue>,
        weights: &HashMap<String, Tensor>,
        device: &Device,
        options: RankerOptions,
    ) -> Result<Self, ModelError> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() && CudaRanker::supports(&config) {
            let on_host = network(config.clone(), catalogue.clone(), weights, &Device::Cpu)?;
            let mut network = network(config, catalogue, weights, device)?;
            let ranker = CudaRanker::new(&mut network, &on_host, options.reduced_precision)?;
            return Ok(Self { network, backend: Backend::Cuda(Box::new(ranker)) });
        }
        let network = network(config, catalogue, weights, device)?;
        if !device.is_cpu() {
            return Self::by_tensors(network);
        }
        let backend = Backend::Cpu(Box::new(CpuRanker::new(&network, options.item_table_bytes)?));
        Ok(Self { network, backend })
    }

    /// Computes with tensor operations, whatever the device and the sizes: what is left where there is no faster way,
    /// and what the faster ways are compared with.
    pub fn of_tensors(
        config: SesRecConfig,
        catalogue: Arc<Catalogue>,
        weights: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        check(&config, weights)?;
        Self::by_tensors(network(config, catalogue, weights, device)?)
    }

    fn by_tensors(mut network: Network) -> Result<Self, ModelError> {
        let backend = Backend::Tensors(TensorRanker::new(&mut network)?);
        Ok(Self { network, backend })
    }

    /// Every intermediate of a batch of histories, for analysis and tests.
    pub fn network(&self) -> &Network {
        &self.network
    }
}

/// Over weights that are checked, on a device.
fn network(
    config: SesRecConfig,
    catalogue: Arc<Catalogue>,
    weights: &HashMap<String, Tensor>,
    device: &Device,
) -> Result<Network, ModelError> {
    let weights = weights::on_device(weights, device)?;
    Network::new(config, catalogue, &Weights::new(&weights))
}

impl RankingModel for SesRecRanker {
    fn limits(&self) -> HistoryLimits {
        self.network.config.inputs.limits
    }

    fn device(&self) -> &Device {
        self.network.device()
    }

    fn encode(&self, users: &[&UserFeatures]) -> Result<Vec<UserState>, ModelError> {
        match &self.backend {
            _ if users.is_empty() => Ok(vec![]),
            Backend::Cpu(cpu) => cpu.encode(users),
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => cuda.encode(users),
            Backend::Tensors(tensors) => Ok(tensors.encode(&self.network, users)?),
        }
    }

    fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(match &self.backend {
            Backend::Cpu(cpu) => cpu.score(requests)?,
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => cuda.score(requests)?,
            Backend::Tensors(tensors) => tensors.score(&self.network, requests)?,
        })
    }

    fn explain(&self, state: &UserState, items: &[u32]) -> Result<(HistoryWeights, Vec<ItemAttention>), ModelError> {
        Ok(match &self.backend {
            Backend::Cpu(cpu) => cpu.explain(state, items)?,
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => cuda.explain(state, items)?,
            Backend::Tensors(tensors) => tensors.explain(state, items)?,
        })
    }
}
