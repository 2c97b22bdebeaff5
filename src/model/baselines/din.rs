//! DIN (Zhou et al., KDD 2018), in the form of IV4Rec+'s code: a candidate decides by itself how much each clicked item
//! counts. Weights are not normalised: their sum says how strongly the history speaks.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    Activation, Baseline, Candidates, Network, Users,
    prediction_head::{PredictionHead, dice, dice_parameters},
    target_attention::{PairLayer, Pairs, in_slices, of_user},
};
use crate::{
    model::{HistoryVectors, InputConfig, ModelError, ParameterList, Weights},
    nn::{Dice, Dropout, Linear, add_row, batch_matmul, project},
};

/// DIN's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DinConfig {
    /// Items, of width d, and users.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// Hidden layers of the unit that weighs an event: Dice after the first, nothing after the second.
    #[serde(default = "attention_units")]
    pub attention_units: [usize; 2],
    /// Layers of the prediction network, Dice between them; the last is 1.
    #[serde(default = "mlp")]
    pub mlp: Vec<usize>,
}

impl DinConfig {
    /// With the publication's constants, for the items and users of these inputs.
    pub fn new(inputs: InputConfig) -> Self {
        Self { inputs: inputs.without_searches(), attention_units: attention_units(), mlp: mlp() }
    }
}

pub(super) fn attention_units() -> [usize; 2] {
    [64, 16]
}

pub(super) fn mlp() -> Vec<usize> {
    vec![200, 80, 1]
}

impl Baseline for DinConfig {
    type Network = Din;

    const KIND: &'static str = "din";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn check(&self) -> std::result::Result<(), ModelError> {
        if self.attention_units.contains(&0) {
            return Err(ModelError::Config("attention_units must not be 0".into()));
        }
        PredictionHead::check(&self.mlp)
    }

    fn parameters(&self, list: &mut ParameterList) {
        let (d, [first, second]) = (self.inputs.item_dim(), self.attention_units);
        list.linear("attention.fc1.fc.0", first, 4 * d);
        dice_parameters(list, "attention.fc1.fc.1", first);
        list.linear("attention.fc1.fc.2", second, first);
        list.linear("attention.fc2", 1, second);
        PredictionHead::parameters(list, "head", 2 * d + self.inputs.user_dim(), (&self.mlp, Activation::Dice));
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<Din, ModelError> {
        Ok(Din {
            first: PairLayer::new(weights.linear("attention.fc1.fc.0")?),
            dice: dice(weights, "attention.fc1.fc.1")?,
            second: weights.linear("attention.fc1.fc.2")?,
            weigh: weights.linear("attention.fc2")?,
            head: PredictionHead::new(weights, "head", (&self.mlp, Activation::Dice))?,
            has_users: self.inputs.user_dim() > 0,
        })
    }
}

/// DIN over given tensors.
#[derive(Debug, Clone)]
pub struct Din {
    first: PairLayer,
    dice: Dice,
    second: Linear,
    weigh: Linear,
    head: PredictionHead,
    has_users: bool,
}

/// Users as DIN sees them: their histories, and what of the attention unit and of the head depends on them alone.
#[derive(Debug, Clone)]
pub struct DinUsers {
    /// `[B, L, d]`.
    events: Tensor,
    /// The events' share of the unit's first layer `[B, L, h]`.
    shares: Tensor,
    /// The users' share of the head's first layer `[B, H]`.
    head: Tensor,
    lengths: Vec<usize>,
}

impl Users for DinUsers {
    fn user(&self, n: usize) -> Result<Self> {
        let length = self.lengths[n];
        Ok(Self {
            events: of_user(&self.events, n, length)?,
            shares: of_user(&self.shares, n, length)?,
            head: Users::user(&self.head, n)?,
            lengths: vec![length],
        })
    }

    fn bytes(&self) -> usize {
        [&self.events, &self.shares, &self.head].map(Users::bytes).iter().sum()
    }
}

/// What a history is to candidates.
#[derive(Debug, Clone)]
pub struct Interest {
    /// `[P, h]`: the unit's hidden layer after Dice, of the real (candidate, event) pairs one after the other.
    pub hidden: Tensor,
    /// `[B, C, L]`: the events' weights, zero at padding.
    pub attention: Tensor,
    /// `[B, C, d]`: the weighted sum of the events.
    pub pooled: Tensor,
}

impl Din {
    /// Events `[B, L, d]` with `lengths` real positions, users `[B, u]` if the model knows them.
    pub fn users(&self, events: &Tensor, lengths: &[usize], users: Option<&Tensor>) -> Result<DinUsers> {
        Ok(DinUsers {
            events: events.clone(),
            shares: self.first.events(events)?,
            head: self.head.users(users, lengths.len())?,
            lengths: lengths.to_vec(),
        })
    }

    /// Of histories, as seen from candidates `[B, C, d]`.
    pub fn interest(&self, users: &DinUsers, candidates: &Tensor, dropout: &Dropout) -> Result<Interest> {
        let pairs = Pairs::new(&users.lengths, candidates.dim(1)?, users.events.dim(1)?);
        let hidden = self.first.pairs((&users.events, &users.shares), candidates, &pairs)?; // [P, h]
        // Nothing lies between the unit's last two layers: they are one.
        let weight = self.weigh.weight().matmul(self.second.weight())?; // [1, h]
        let bias = (self.weigh.weight().matmul(&self.second.bias().unsqueeze(1)?)?.flatten_all()? + self.weigh.bias())?;
        let hidden = self.dice.forward(&hidden, dropout)?;
        let weights = add_row(&project(&hidden, &weight)?, &bias)?; // [P, 1]
        let attention = pairs.place(&weights)?;
        let pooled = batch_matmul(&attention, &users.events)?;
        Ok(Interest { hidden, attention, pooled })
    }

    /// Logits `[B, C]` of candidates `[B, C, d]`.
    pub fn score(&self, users: &DinUsers, candidates: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        let Interest { pooled, .. } = self.interest(users, candidates, dropout)?;
        self.head.forward(&Tensor::cat(&[candidates, &pooled], 2)?, &users.head, dropout)
    }
}

impl Network for Din {
    type Users = DinUsers;

    fn encode(&self, history: &HistoryVectors<'_>, _: &mut Dropout) -> Result<DinUsers> {
        let users = if self.has_users { Some(history.users()?) } else { None };
        self.users(&history.items()?, &history.batch().rec_lengths, users.as_ref())
    }

    fn logits(&self, users: &DinUsers, candidates: &Candidates<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        let events = users.lengths.iter().sum();
        in_slices(&candidates.vectors, events, |candidates| self.score(users, candidates, dropout))
    }
}
