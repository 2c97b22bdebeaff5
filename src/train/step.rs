//! A step of learning: the losses of a batch, their gradients, Adam.

use candle_core::Tensor;

use super::{
    Position, Recipe, TrainingError,
    randomness::{Purpose, generator},
};
use crate::{
    data::{Dataset, UserRow},
    model::{Losses, ModelError, TrainableModel, TrainingBatch},
    nn::{Adam, Dropout, OptimizerError},
};

/// A model with what moves its weights.
pub(super) struct Learner<'a> {
    pub adam: Adam,
    model: &'a dyn TrainableModel,
    dataset: &'a Dataset,
    recipe: &'a Recipe,
}

impl<'a> Learner<'a> {
    /// With moments of zero, at the recipe's first learning rate.
    pub fn new(model: &'a dyn TrainableModel, dataset: &'a Dataset, recipe: &'a Recipe) -> Result<Self, TrainingError> {
        let adam = Adam::new(model.parameters(), recipe.adam());
        let adam = adam.map_err(|source| TrainingError::Optimizer { epoch: 1, step: 1, source })?;
        Ok(Self { adam, model, dataset, recipe })
    }

    /// The step at `place`; the batch's losses by name.
    pub fn step(&mut self, batch: &TrainingBatch, place: Position) -> Result<Vec<(String, f64)>, TrainingError> {
        let Position { epoch, step } = place;
        let seed = rand::RngExt::random(&mut generator(self.recipe.seed, Purpose::Dropout, epoch, step));
        let mut dropout = Dropout::seeded(self.recipe.dropout as f32, seed);
        let losses = self.model.losses(batch, &mut dropout)?;
        let values = scalars(&losses).map_err(ModelError::from)?;
        // The parts first: one of them is the cause, the total only follows.
        if let Some((name, value)) = values.iter().rev().find(|(_, value)| !value.is_finite()) {
            return Err(self.not_finite(batch, place, format!("the loss {name} = {value}")));
        }
        let gradients = self.adam.backward(&losses.total).map_err(ModelError::from)?;
        match self.adam.step(&gradients) {
            Ok(()) => Ok(values),
            Err(OptimizerError::NonFinite(name)) => {
                Err(self.not_finite(batch, place, format!("the gradient of {name}")))
            }
            Err(source) => Err(TrainingError::Optimizer { epoch, step: step + 1, source }),
        }
    }

    fn not_finite(&self, batch: &TrainingBatch, place: Position, what: String) -> TrainingError {
        let Position { epoch, step } = place;
        TrainingError::NotFinite { epoch, step: step + 1, what, users: self.users_text(batch) }
    }

    /// The ids of a batch's users, as many as a terminal line or two hold.
    fn users_text(&self, batch: &TrainingBatch) -> String {
        const SHOWN: usize = 16;
        let users = &self.dataset.catalogue.users;
        let ids = batch.history.user_rows.iter().filter_map(|row| match row {
            UserRow::Known(row) => users.id(*row),
            UserRow::Mean => None,
        });
        let shown: Vec<&str> = ids.take(SHOWN).collect();
        match batch.history.users().saturating_sub(SHOWN) {
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    }
}

/// Total and parts by name; one copy from the device.
fn scalars(losses: &Losses) -> candle_core::Result<Vec<(String, f64)>> {
    let names = std::iter::once("total").chain(losses.parts.iter().map(|(name, _)| *name));
    let tensors = std::iter::once(&losses.total).chain(losses.parts.iter().map(|(_, part)| part));
    let scalars: Vec<Tensor> = tensors.map(|tensor| tensor.detach().reshape(())).collect::<Result<_, _>>()?;
    let values: Vec<f32> = Tensor::stack(&scalars, 0)?.to_vec1()?;
    Ok(names.map(str::to_owned).zip(values.into_iter().map(f64::from)).collect())
}
