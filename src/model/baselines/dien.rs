//! DIEN (Zhou et al., AAAI 2019), in RecBole's form: one recurrent network extracts interests from the clicked items, a
//! second lets them evolve towards each candidate. The first, and what the second makes of its states, is cached per
//! user.

use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;
use serde::{Deserialize, Serialize};

use super::{
    Activation, Baseline, Candidates, Network, Step, Users,
    din::mlp,
    prediction_head::PredictionHead,
    target_attention::{PairLayer, Pairs, in_slices, of_user},
};
use crate::{
    model::{BatchPlan, Extras, HistoryVectors, InputConfig, Losses, ModelError, ParameterList, Weights},
    nn::{
        Dropout, Gru, Initial, Linear, Mask, RowZero, binary_cross_entropy, gather_rows, masked_softmax, project,
        softplus,
    },
};

/// DIEN's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DienConfig {
    /// Items, of width d, and users.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// Hidden layers, with sigmoids, of the unit that weighs a state.
    #[serde(default = "hidden_units")]
    pub attention_units: Vec<usize>,
    /// Hidden layers, without activations, of the network that tells the next item from a sampled one.
    #[serde(default = "hidden_units")]
    pub auxiliary_units: Vec<usize>,
    /// Weight of that network's loss; 0 leaves it out.
    #[serde(default = "auxiliary_weight")]
    pub auxiliary_weight: f64,
    /// Layers of the prediction network; the last is 1.
    #[serde(default = "mlp")]
    pub mlp: Vec<usize>,
    /// What lies between them.
    #[serde(default)]
    pub activation: Activation,
}

impl DienConfig {
    /// With the specification's constants, for the items and users of these inputs.
    pub fn new(inputs: InputConfig) -> Self {
        Self {
            inputs: inputs.without_searches(),
            attention_units: hidden_units(),
            auxiliary_units: hidden_units(),
            auxiliary_weight: auxiliary_weight(),
            mlp: mlp(),
            activation: Activation::default(),
        }
    }

    fn is_auxiliary(&self) -> bool {
        self.auxiliary_weight > 0.0
    }
}

fn hidden_units() -> Vec<usize> {
    vec![64, 16]
}

fn auxiliary_weight() -> f64 {
    1.0
}

impl Baseline for DienConfig {
    type Network = Dien;

    const KIND: &'static str = "dien";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn check(&self) -> std::result::Result<(), ModelError> {
        for (name, units) in [("attention_units", &self.attention_units), ("auxiliary_units", &self.auxiliary_units)] {
            if units.is_empty() || units.contains(&0) {
                return Err(ModelError::Config(format!("{name} is {units:?}; it needs layers of at least 1 unit")));
            }
        }
        if !(self.auxiliary_weight >= 0.0 && self.auxiliary_weight.is_finite()) {
            let message = format!("auxiliary_weight is {}; it must not be negative", self.auxiliary_weight);
            return Err(ModelError::Config(message));
        }
        PredictionHead::check(&self.mlp)
    }

    fn parameters(&self, list: &mut ParameterList) {
        let d = self.inputs.item_dim();
        for (gru, suffix) in [("interest_extractor.gru", "_l0"), ("interest_evolution.gru", "")] {
            for part in ["ih", "hh"] {
                list.add(format!("{gru}.weight_{part}{suffix}"), &[3 * d, d], Initial::XavierUniform);
                list.add(format!("{gru}.bias_{part}{suffix}"), &[3 * d], Initial::Constant(0.0));
            }
        }
        let mut width = 4 * d;
        for (n, &units) in self.attention_units.iter().enumerate() {
            list.linear(&format!("interest_evolution.attention.{n}"), units, width);
            width = units;
        }
        // A bias would add the same to every event: softmax doesn't see it.
        list.xavier("interest_evolution.attention.output.weight".into(), &[1, width]);
        if self.is_auxiliary() {
            let mut width = 2 * d;
            for (n, &units) in self.auxiliary_units.iter().chain(&[1]).enumerate() {
                list.linear(&format!("auxiliary.{n}"), units, width);
                width = units;
            }
        }
        PredictionHead::parameters(list, "head", 2 * d + self.inputs.user_dim(), (&self.mlp, self.activation));
    }

    fn batch_plan(&self) -> BatchPlan {
        let extras = if self.is_auxiliary() { Extras::HistoryNegatives } else { Extras::None };
        BatchPlan { extras, ..BatchPlan::default() }
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<Dien, ModelError> {
        let gru = |name: &str, suffix: &str| {
            let part = |part: &str| weights.get(&format!("{name}.{part}{suffix}"));
            let biases = Some((part("bias_ih")?, part("bias_hh")?));
            Ok::<_, ModelError>(Gru { input: part("weight_ih")?, recurrent: part("weight_hh")?, biases })
        };
        let layers = |name: &str, numbers: std::ops::Range<usize>| -> std::result::Result<Vec<Linear>, ModelError> {
            numbers.map(|n| weights.linear(&format!("{name}.{n}"))).collect()
        };
        let auxiliary = if self.is_auxiliary() { 0..self.auxiliary_units.len() + 1 } else { 0..0 };
        Ok(Dien {
            extractor: gru("interest_extractor.gru", "_l0")?,
            first: PairLayer::new(weights.linear("interest_evolution.attention.0")?),
            hidden: layers("interest_evolution.attention", 1..self.attention_units.len())?,
            weigh: weights.get("interest_evolution.attention.output.weight")?,
            evolution: gru("interest_evolution.gru", "")?,
            head: PredictionHead::new(weights, "head", (&self.mlp, self.activation))?,
            auxiliary: layers("auxiliary", auxiliary)?,
            auxiliary_weight: self.auxiliary_weight,
            has_users: self.inputs.user_dim() > 0,
        })
    }
}

/// DIEN over given tensors.
#[derive(Debug, Clone)]
pub struct Dien {
    extractor: Gru,
    first: PairLayer,
    hidden: Vec<Linear>,
    weigh: Tensor,
    evolution: Gru,
    head: PredictionHead,
    auxiliary: Vec<Linear>,
    auxiliary_weight: f64,
    has_users: bool,
}

/// Users as DIEN sees them: everything that no candidate changes.
#[derive(Debug, Clone)]
pub struct DienUsers {
    /// The first network's states `[B, L, d]`.
    pub states: Tensor,
    /// Their share of the attention unit's first layer `[B, L, h]`.
    shares: Tensor,
    /// Their share of the second network's gates `[B, L, 3d]`.
    inputs: Tensor,
    /// The users' share of the head's first layer `[B, H]`.
    head: Tensor,
    lengths: Vec<usize>,
}

impl Users for DienUsers {
    fn user(&self, n: usize) -> Result<Self> {
        let length = self.lengths[n];
        Ok(Self {
            states: of_user(&self.states, n, length)?,
            shares: of_user(&self.shares, n, length)?,
            inputs: of_user(&self.inputs, n, length)?,
            head: Users::user(&self.head, n)?,
            lengths: vec![length],
        })
    }

    fn bytes(&self) -> usize {
        [&self.states, &self.shares, &self.inputs, &self.head].map(Users::bytes).iter().sum()
    }
}

/// How interests evolve towards candidates.
#[derive(Debug, Clone)]
pub struct Evolution {
    /// `[B, C, L]`: the states' weights, zero at padding.
    pub attention: Tensor,
    /// The second network's state after each position, `[B, C, d]` each; padding leaves it as it is.
    pub states: Vec<Tensor>,
}

impl Dien {
    /// Events `[B, L, d]` with `lengths` real positions, users `[B, u]` if the model knows them.
    pub fn users(&self, events: &Tensor, lengths: &[usize], users: Option<&Tensor>) -> Result<DienUsers> {
        let states = self.extractor.forward(events)?;
        Ok(DienUsers {
            shares: self.first.events(&states)?,
            inputs: self.evolution.inputs(&states)?,
            head: self.head.users(users, lengths.len())?,
            lengths: lengths.to_vec(),
            states,
        })
    }

    /// Towards candidates `[B, C, d]`.
    pub fn evolve(&self, users: &DienUsers, candidates: &Tensor) -> Result<Evolution> {
        let (count, number, d) = candidates.dims3()?;
        let length = users.states.dim(1)?;
        let pairs = Pairs::new(&users.lengths, number, length);
        let mut hidden = sigmoid(&self.first.pairs((&users.states, &users.shares), candidates, &pairs)?)?; // [P, h]
        for layer in &self.hidden {
            hidden = sigmoid(&layer.forward(&hidden)?)?;
        }
        let scores = (pairs.place(&project(&hidden, &self.weigh)?)? / (d as f64).sqrt())?; // [B, C, L]
        let attention = masked_softmax(&scores, &Mask::prefixes(&users.lengths, length))?;
        let states = self.evolution.attended(&users.inputs, &attention)?;
        let states = states.into_iter().map(|state| state.reshape((count, number, d))).collect::<Result<_>>()?;
        Ok(Evolution { attention, states })
    }

    /// Logits `[B, C]` of candidates `[B, C, d]`.
    pub fn score(&self, users: &DienUsers, candidates: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        let interest = match self.evolve(users, candidates)?.states.pop() {
            Some(last) => last,
            None => candidates.zeros_like()?,
        };
        self.head.forward(&Tensor::cat(&[&interest, candidates], 2)?, &users.head, dropout)
    }

    /// The auxiliary loss: does a state `[B, L, d]` go with the next event rather than with the one sampled for its
    /// place (both `[B, L, d]`)? The mean over both questions at all events but each user's last; 0 where nobody has
    /// two.
    pub fn auxiliary_loss(
        &self,
        states: &Tensor,
        events: &Tensor,
        sampled: &Tensor,
        lengths: &[usize],
    ) -> Result<Tensor> {
        let length = states.dim(1)?;
        let mut before: Vec<u32> = lengths
            .iter()
            .enumerate()
            .flat_map(|(user, &n)| (0..n.saturating_sub(1)).map(move |position| (user * length + position) as u32))
            .collect();
        let count = before.len();
        let mut next: Vec<u32> = before.iter().map(|&row| row + 1).collect();
        if count == 0 {
            // Of no weight, so that there are gradients: zeros.
            (before, next) = (vec![0], vec![0]);
        }
        let rows = |x: &Tensor, rows: &[u32]| gather_rows(x, rows, RowZero::Learns);
        let states = rows(states, &before)?;
        let logits = |items: &Tensor| {
            let pairs = Tensor::cat(&[&states, &rows(items, &next)?], 1)?; // [M, 2d]
            self.auxiliary.iter().try_fold(pairs, |x, layer| layer.forward(&x))
        };
        let losses = (softplus(&logits(events)?.neg()?)?.sum_all()? + softplus(&logits(sampled)?)?.sum_all()?)?;
        // A tensor: candle has no gradient, not even zero, for what is multiplied by the number 0.
        let weight = if count == 0 { 0.0 } else { 0.5 / count as f32 };
        losses * Tensor::new(weight, states.device())?
    }
}

impl Network for Dien {
    type Users = DienUsers;

    fn encode(&self, history: &HistoryVectors<'_>, _: &mut Dropout) -> Result<DienUsers> {
        let users = if self.has_users { Some(history.users()?) } else { None };
        self.users(&history.items()?, &history.batch().rec_lengths, users.as_ref())
    }

    fn logits(&self, users: &DienUsers, candidates: &Candidates<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        let events = users.lengths.iter().sum();
        in_slices(&candidates.vectors, events, |candidates| self.score(users, candidates, dropout))
    }

    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        if self.auxiliary.is_empty() {
            return step.binary_cross_entropy(dropout);
        }
        let history = step.history();
        let users = self.encode(&history, dropout)?;
        let bce = binary_cross_entropy(&self.logits(&users, &step.candidates()?, dropout)?)?;
        let events = history.items()?;
        let sampled = if users.lengths.iter().any(|&n| n > 1) {
            step.further_items(&step.batch().history_negatives, dropout)?.reshape(events.shape())?
        } else {
            events.clone() // none is looked at
        };
        let auxiliary = self.auxiliary_loss(&users.states, &events, &sampled, &users.lengths)?;
        let total = (&bce + (&auxiliary * self.auxiliary_weight)?)?;
        Ok(Losses { total, parts: vec![("bce", bce), ("auxiliary", auxiliary)] })
    }
}
