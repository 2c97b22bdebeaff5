//! IV4Rec (Si et al., WWW 2022) over DIN: queries are instrumental variables of the items that they led to. An item's
//! vector is split into what its queries explain and the rest, and put together anew; DIN ranks by what comes out.
//!
//! A query counts from the moment on at which it led to a click: an item's vector is that of
//! [`UserFeatures::as_of`](crate::data::UserFeatures), in training and evaluation alike. That an item has a query at
//! all would otherwise tell that somebody is going to click it. In serving the moment is now, and items are put
//! together once per load.
//!
//! In training, an item is put together once per batch: its dropout is the same wherever it stands in it.

mod instruments;

use std::collections::HashMap;

use candle_core::{Result, Tensor, bail};
use candle_nn::ops::sigmoid;
use serde::{Deserialize, Serialize};

use super::{Baseline, Candidates, Din, DinConfig, DinUsers, Network, Step};
use crate::{
    data::{Dataset, HistoryLimits},
    model::{Embeddings, HistoryVectors, InputConfig, ItemRows, Losses, ModelError, ParameterList, Weights},
    nn::{Dropout, Linear, batch_matmul, ridge_inverse, tanh},
};

pub use instruments::Instruments;

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

    fn read_instruments(&self, clicks: &Tensor) -> std::result::Result<Instruments, ModelError> {
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

/// What led to items, and when.
const CLICKS: &str = "instruments.clicks";

impl Baseline for Iv4RecConfig {
    type Network = Iv4Rec;

    const KIND: &'static str = "iv4rec";

    fn inputs(&self) -> &InputConfig {
        &self.din.inputs
    }

    fn check(&self) -> std::result::Result<(), ModelError> {
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

    fn tables(&self, dataset: &Dataset) -> std::result::Result<HashMap<String, Tensor>, ModelError> {
        let clicks = Instruments::table(dataset)?;
        if self.read_instruments(&clicks)?.is_empty() {
            tracing::warn!("no training search led to a click: iv4rec has no instruments, and ranks as DIN does");
        }
        Ok([(CLICKS.into(), clicks)].into())
    }

    fn check_tables(&self, tensors: &HashMap<String, Tensor>) -> std::result::Result<(), ModelError> {
        tensors.get(CLICKS).map_or(Ok(()), |clicks| self.read_instruments(clicks).map(|_| ()))
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<Iv4Rec, ModelError> {
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

/// Linear layers with tanh after each, the last included, and dropout after that.
#[derive(Debug, Clone)]
struct TanhMlp(Vec<Linear>);

impl TanhMlp {
    fn parameters(list: &mut ParameterList, name: &str, sizes: &[usize]) {
        for (n, layer) in sizes.windows(2).enumerate() {
            list.linear(&format!("{name}.linear_{}", n + 1), layer[1], layer[0]);
        }
    }

    fn new(weights: &Weights<'_>, name: &str, layers: usize) -> std::result::Result<Self, ModelError> {
        (1..=layers)
            .map(|n| weights.linear(&format!("{name}.linear_{n}")))
            .collect::<std::result::Result<_, _>>()
            .map(Self)
    }

    fn forward(&self, x: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, layer| dropout.apply(&tanh(&layer.forward(&x)?)?))
    }

    fn squares(&self) -> Result<Tensor> {
        let parts = self.0.iter().flat_map(|layer| [layer.weight(), layer.bias()]);
        let squares = parts.map(|part| part.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
        Tensor::stack(&squares, 0)?.sum_all()
    }
}

/// IV4Rec over given tensors.
#[derive(Debug, Clone)]
pub struct Iv4Rec {
    treatment: TanhMlp,
    keep: TanhMlp,
    explain: TanhMlp,
    /// What ranks the rewritten items.
    pub din: Din,
    /// What led to the items.
    pub instruments: Instruments,
    ridge: f64,
    l2_weight: f64,
}

/// n items put together anew.
#[derive(Debug, Clone)]
pub struct Rewritten {
    /// t `[n, d]`.
    pub treatment: Tensor,
    /// t̂ `[n, d]`: t projected on the instruments; zero without any.
    pub explained: Tensor,
    /// α and β `[n, 1]`.
    pub gates: [Tensor; 2],
    /// `α t + β t̂`, `[n, d]`.
    pub items: Tensor,
}

impl Iv4Rec {
    /// Items `x [n, d]` with instruments `z [n, N, d]`, zero where an item has fewer, and `inverse [n, N, d]`, whose
    /// product with t says how the instruments make up t. The projection is a constant of z: instruments learn through
    /// the gates.
    pub fn rewrite(&self, x: &Tensor, (z, inverse): (&Tensor, &Tensor), dropout: &mut Dropout) -> Result<Rewritten> {
        let treatment = self.treatment.forward(x, dropout)?;
        let coefficients = batch_matmul(inverse, &treatment.unsqueeze(2)?)?; // [n, N, 1]
        let explained = batch_matmul(&coefficients.transpose(1, 2)?, &z.detach())?.squeeze(1)?;
        // The source flattens [d, N]: the instruments are interleaved.
        let seen = Tensor::cat(&[&treatment, &z.transpose(1, 2)?.contiguous()?.flatten_from(1)?], 1)?; // [n, d (1 + N)]
        let gate = |mlp: &TanhMlp| sigmoid(&mlp.forward(&seen, &mut Dropout::off())?);
        let [keep, explain] = [gate(&self.keep)?, gate(&self.explain)?];
        let items = (treatment.broadcast_mul(&keep)? + explained.broadcast_mul(&explain)?)?;
        Ok(Rewritten { treatment, explained, gates: [keep, explain], items })
    }

    /// `[n]` rows of [`Instruments`] → these as vectors `[n, N, d]`.
    fn instruments(&self, embeddings: &Embeddings, rows: &[u32]) -> Result<Tensor> {
        let mut queries = vec![];
        for &row in rows {
            match self.instruments.of(row) {
                Some(instruments) => queries.extend(instruments),
                None => bail!("item {row} has no instruments"),
            }
        }
        let real: Vec<f32> = queries.iter().map(|&query| f32::from(u8::from(query != 0))).collect();
        let real = Tensor::from_vec(real, (queries.len(), 1), embeddings.device())?;
        let vectors = ItemRows::distinct(&[&queries], |queries| embeddings.catalogue_queries(queries))?.list(0)?;
        let d = vectors.dim(1)?;
        vectors.broadcast_mul(&real)?.reshape((rows.len(), (), d))
    }

    /// The sum of the squares of treatment's and gates' weights.
    pub fn squares(&self) -> Result<Tensor> {
        (self.treatment.squares()? + self.keep.squares()?)? + self.explain.squares()?
    }
}

impl Network for Iv4Rec {
    type Users = DinUsers;

    fn encode(&self, history: &HistoryVectors<'_>, dropout: &mut Dropout) -> Result<DinUsers> {
        self.din.encode(history, dropout)
    }

    fn logits(&self, users: &DinUsers, candidates: &Candidates<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        // The source drops out within the treatment alone.
        let mut head = dropout.without_rate();
        self.din.logits(users, candidates, &mut head)
    }

    fn items(&self, embeddings: &Embeddings, rows: &[u32], dropout: &mut Dropout) -> Result<Tensor> {
        let instruments = self.instruments(embeddings, rows)?;
        let inverse = ridge_inverse(&instruments, self.ridge)?;
        let items: Vec<u32> = rows.iter().map(|&row| self.instruments.item_of(row)).collect();
        Ok(self.rewrite(&embeddings.project_items(&items)?, (&instruments, &inverse), dropout)?.items)
    }

    const ITEMS_CHANGE: bool = true;

    fn item_as_of(&self, item: u32, moment: Option<i64>) -> Result<u32> {
        match self.instruments.as_of(item, moment) {
            Some(row) => Ok(row),
            None => bail!("row {item} of a table of {} items", self.instruments.items()),
        }
    }

    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        let Losses { total, mut parts } = step.binary_cross_entropy(dropout)?;
        let squares = self.squares()?;
        parts.push(("l2", squares.clone()));
        Ok(Losses { total: (total + (squares * self.l2_weight)?)?, parts })
    }
}
