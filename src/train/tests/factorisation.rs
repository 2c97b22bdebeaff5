//! A matrix factorisation as a model: small enough to train in milliseconds, and breakable at will.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use candle_core::{D, DType, Device, Tensor};

use crate::{
    data::{Dataset, HistoryBatch, HistoryLimits, UserFeatures, UserRow},
    domain::{HistoryWeights, ItemAttention},
    model::{
        BatchPlan, HeldOutClick, Losses, ModelError, RankingModel, ScoreRequest, TrainableModel, TrainingBatch,
        UserState,
    },
    nn::{Dropout, Parameters, binary_cross_entropy},
};

const WIDTH: usize = 8;
const LIMITS: HistoryLimits = HistoryLimits { recommendations: 4, searches: 2, words: 1, clicks: 1 };

/// Not learned: the sum of the items that held-out users clicked, and a weight as it was then.
pub(super) const FITTED: &str = "fitted";

pub(super) fn first(table: &Tensor) -> f32 {
    table.flatten_all().unwrap().get(0).unwrap().to_scalar().unwrap()
}

/// Click probability = sigmoid(user · item).
pub(super) struct Factorisation {
    pub(super) parameters: Parameters,
    steps: AtomicUsize,
    /// At this step the loss is NaN.
    pub(super) broken_step: usize,
    /// After this step the run is told to stop.
    pub(super) stopping: Option<(usize, Arc<AtomicBool>)>,
}

impl Factorisation {
    pub(super) fn new(dataset: &Dataset) -> Self {
        let table = |rows: usize, salt: usize| {
            let values: Vec<f32> =
                (0..rows * WIDTH).map(|n| (((n + 7 * salt) * 2_654_435_761) as f32).sin() * 0.1).collect();
            Tensor::from_vec(values, (rows, WIDTH), &Device::Cpu).unwrap()
        };
        let tensors = HashMap::from([
            ("users".to_owned(), table(dataset.catalogue.users.rows(), 1)),
            ("items".to_owned(), table(dataset.catalogue.items.rows(), 2)),
            (FITTED.to_owned(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap()),
        ]);
        let parameters = Parameters::partly_fixed(&tensors, |name| name == FITTED).unwrap();
        Self { parameters, steps: AtomicUsize::new(0), broken_step: usize::MAX, stopping: None }
    }

    fn table(&self, name: &str) -> &Tensor {
        self.parameters.get(name).unwrap().as_tensor()
    }
}

impl TrainableModel for Factorisation {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn limits(&self) -> HistoryLimits {
        LIMITS
    }

    fn batch_plan(&self) -> BatchPlan {
        BatchPlan::default()
    }

    fn logits(&self, history: &HistoryBatch, items: &[u32], dropout: &mut Dropout) -> Result<Tensor, ModelError> {
        let users: Vec<u32> = history
            .user_rows
            .iter()
            .map(|row| match row {
                UserRow::Known(row) => *row,
                UserRow::Mean => panic!("training users are known"),
            })
            .collect();
        let select = |table: &str, rows: &[u32]| self.table(table).index_select(&Tensor::new(rows, &Device::Cpu)?, 0);
        let vectors = dropout.apply(&select("users", &users)?)?.unsqueeze(1)?; // [B, 1, d]
        let items = select("items", items)?.reshape((users.len(), (), WIDTH))?; // [B, C, d]
        Ok(items.broadcast_mul(&vectors)?.sum(D::Minus1)?)
    }

    fn losses(&self, batch: &TrainingBatch, dropout: &mut Dropout) -> Result<Losses, ModelError> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((last, stop)) = &self.stopping {
            stop.store(step >= *last, Ordering::Relaxed);
        }
        let bce = binary_cross_entropy(&self.logits(&batch.history, &batch.candidates()?, dropout)?)?;
        let total = if step == self.broken_step { (&bce * f64::NAN)? } else { bce.clone() };
        Ok(Losses { total, parts: vec![("bce", bce)] })
    }

    fn fitted(&self) -> Vec<&'static str> {
        vec![FITTED]
    }

    fn fit_held_out(&self, clicks: &[HeldOutClick]) -> Result<(), ModelError> {
        let (_, fitted) = self.parameters.all().find(|(name, _)| *name == FITTED).unwrap();
        let sum: u32 = clicks.iter().map(|click| click.candidates[0]).sum();
        Ok(fitted.set(&Tensor::new(&[sum as f32, first(self.table("items"))], &Device::Cpu)?)?)
    }

    fn ranker(&self) -> Result<Box<dyn RankingModel>, ModelError> {
        let rows = |name: &str| self.table(name).to_vec2::<f32>();
        Ok(Box::new(FactorisationRanker { users: rows("users")?, items: rows("items")? }))
    }
}

struct FactorisationRanker {
    users: Vec<Vec<f32>>,
    items: Vec<Vec<f32>>,
}

impl RankingModel for FactorisationRanker {
    fn limits(&self) -> HistoryLimits {
        LIMITS
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn encode(&self, users: &[&UserFeatures]) -> Result<Vec<UserState>, ModelError> {
        let state = |user: &&UserFeatures| match user.user {
            UserRow::Known(row) => self.users[row as usize].clone(),
            UserRow::Mean => vec![0.0; WIDTH],
        };
        Ok(users.iter().map(|user| UserState::new(state(user), WIDTH * 4)).collect())
    }

    fn score(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let score =
            |user: &[f32], item: u32| user.iter().zip(&self.items[item as usize]).map(|(a, b)| a * b).sum::<f32>();
        let scores = requests.iter().map(|request| {
            let user: &Vec<f32> = request.state.get();
            request.items.iter().map(|&item| score(user, item)).collect()
        });
        Ok(scores.collect())
    }

    fn explain(&self, _: &UserState, _: &[u32]) -> Result<(HistoryWeights, Vec<ItemAttention>), ModelError> {
        Ok(Default::default())
    }
}
