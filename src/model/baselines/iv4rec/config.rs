//! IV4Rec's settings, and what follows from them: which tensors it has, and what is in its table.

use std::collections::HashMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Instruments, Iv4Rec, tanh_mlp::TanhMlp};
use crate::{
    data::{Dataset, HistoryLimits},
    model::{
        InputConfig, ModelError, ParameterList, Weights,
        baselines::{Baseline, DinConfig},
    },
};

/// What led to items, and when.
const CLICKS: &str = "instruments.clicks";

/// IV4Rec's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Iv4RecConfig {
    /// The ranking network. Its items have instruments, so that the inputs hold queries; histories hold no searches.
    #[serde(flatten)]
    pub din: DinConfig,
    /// N: how many queries an item has at most, the most frequent ones of the training searches that led to it.
    #[serde(default = "instruments")]
    pub instruments: usize,
    /// Layers from an item's embedding to the treatment, all of width d.
    #[serde(default = "treatment_layers")]
    pub treatment_layers: usize,
    /// Hidden layers of the two gates.
    #[serde(default = "gate_units")]
    pub gate_units: Vec<usize>,
    /// ε of the least squares.
    #[serde(default = "ridge")]
    pub ridge: f64,
    /// Weight of the squares of treatment's and gates' weights in the loss.
    #[serde(default = "l2_weight")]
    pub l2_weight: f64,
}

impl Iv4RecConfig {
    /// With the publication's constants, for the items, users and queries of these inputs.
    pub fn new(inputs: InputConfig) -> Self {
        let with_queries = inputs.clone().without_search_sources();
        let limits = HistoryLimits { searches: 0, clicks: 0, ..inputs.limits };
        Self {
            din: DinConfig { inputs: InputConfig { limits, ..with_queries }, ..DinConfig::new(inputs) },
            instruments: instruments(),
            treatment_layers: treatment_layers(),
            gate_units: gate_units(),
            ridge: ridge(),
            l2_weight: l2_weight(),
        }
    }

    /// Layers of a gate: of treatment and instruments, down to 1.
    fn gate_sizes(&self) -> Vec<usize> {
        let d = self.din.inputs.item_dim();
        [d * (1 + self.instruments)].iter().chain(&self.gate_units).chain(&[1]).copied().collect()
    }

    fn read_instruments(&self, clicks: &Tensor) -> Result<Instruments, ModelError> {
        let queries = self.din.inputs.query_features.map_or(0, |features| features.id.rows);
        let rows = [self.din.inputs.item_attributes[0].rows, queries];
        Instruments::from_table(CLICKS, clicks, self.instruments, rows)
    }

    fn treatment_sizes(&self) -> Vec<usize> {
        vec![self.din.inputs.item_dim(); 1 + self.treatment_layers]
    }
}

fn instruments() -> usize {
    10
}

fn treatment_layers() -> usize {
    2
}

fn gate_units() -> Vec<usize> {
    vec![512, 128, 32]
}

fn ridge() -> f64 {
    1e-3
}

fn l2_weight() -> f64 {
    1e-8
}

impl Baseline for Iv4RecConfig {
    type Network = Iv4Rec;

    const KIND: &'static str = "iv4rec";

    fn inputs(&self) -> &InputConfig {
        &self.din.inputs
    }

    fn check(&self) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Config(message));
        if self.din.inputs.query_features.is_none() {
            return fail("query_features: iv4rec's instruments are queries".into());
        }
        if self.instruments == 0 || self.treatment_layers == 0 || self.gate_units.contains(&0) {
            return fail("instruments, treatment_layers and gate_units must not be 0".into());
        }
        for (name, value, least) in [("ridge", self.ridge, f64::MIN_POSITIVE), ("l2_weight", self.l2_weight, 0.0)] {
            if !(value >= least && value.is_finite()) {
                return fail(format!(
                    "{name} is {value}; it must be a number {}",
                    if least > 0.0 { "above 0" } else { "from 0" }
                ));
            }
        }
        self.din.check()
    }

    fn parameters(&self, list: &mut ParameterList) {
        TanhMlp::parameters(list, "phi", &self.treatment_sizes());
        TanhMlp::parameters(list, "alpha", &self.gate_sizes());
        TanhMlp::parameters(list, "beta", &self.gate_sizes());
        Baseline::parameters(&self.din, list);
        list.list(CLICKS.into(), Instruments::WIDTH);
    }

    fn tables(&self, dataset: &Dataset) -> Result<HashMap<String, Tensor>, ModelError> {
        let clicks = Instruments::table(dataset)?;
        if self.read_instruments(&clicks)?.is_empty() {
            tracing::warn!("no training search led to a click: iv4rec has no instruments, and ranks as DIN does");
        }
        Ok([(CLICKS.into(), clicks)].into())
    }

    fn check_tables(&self, tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
        tensors.get(CLICKS).map_or(Ok(()), |clicks| self.read_instruments(clicks).map(|_| ()))
    }

    fn network(&self, weights: &Weights<'_>) -> Result<Iv4Rec, ModelError> {
        Ok(Iv4Rec {
            treatment: TanhMlp::new(weights, "phi", self.treatment_layers)?,
            keep: TanhMlp::new(weights, "alpha", self.gate_units.len() + 1)?,
            explain: TanhMlp::new(weights, "beta", self.gate_units.len() + 1)?,
            din: self.din.network(weights)?,
            instruments: self.read_instruments(&weights.get(CLICKS)?)?,
            ridge: self.ridge,
            l2_weight: self.l2_weight,
        })
    }
}
