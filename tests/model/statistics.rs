//! Running statistics of batch normalisation: they follow training, of real positions alone, and come with the bundle.

use std::collections::HashMap;

use candle_core::Device;
use sesrec::{
    data::{HistoryBatch, UserFeatures},
    model::{ModelConfig, ModelKind, TrainableModel, TrainingBatch},
    nn::Dropout,
};

use crate::fixture::{LIMITS, batch, dataset, inputs, some_users};

const KINDS: [ModelKind; 3] = [ModelKind::Din, ModelKind::Dien, ModelKind::Iv4Rec];

fn model(kind: ModelKind) -> Box<dyn TrainableModel> {
    let (inputs, heads) = inputs();
    let config: ModelConfig = kind.config(inputs, heads);
    config.new_trainable(&dataset(), 3, &Device::Cpu).unwrap()
}

fn statistics(model: &dyn TrainableModel) -> HashMap<String, Vec<f32>> {
    let tensors = model.parameters().snapshot().unwrap().into_iter();
    let statistics = tensors.filter(|(name, _)| name.contains("running_"));
    statistics.map(|(name, tensor)| (name, tensor.to_vec1().unwrap())).collect()
}

#[test]
fn they_follow_training_and_nothing_else() {
    // Not the one with a full history: there is to be padding.
    let users: Vec<UserFeatures> =
        some_users().into_iter().skip(1).map(|user| UserFeatures { searches: vec![], ..user }).collect();
    let tight = batch(&users);
    let history = HistoryBatch::padded_to_limits(&users, LIMITS);
    assert!(history.rec_len > tight.history.rec_len);
    let padding = vec![1; history.rec_len - tight.history.rec_len];
    let negatives = tight.history_negatives.chunks(tight.history.rec_len);
    let history_negatives = negatives.flat_map(|negatives| [negatives, &padding].concat()).collect();
    let padded = TrainingBatch { history, history_negatives, ..tight.clone() };
    for kind in KINDS {
        let (trained, trained_on_padding) = (model(kind), model(kind));
        let before = statistics(&*trained);
        assert!(before.len() >= 4 && before.values().flatten().all(|&value| value == 0.0 || value == 1.0));
        trained.losses(&tight, &mut Dropout::off()).unwrap();
        assert_eq!(statistics(&*trained), before, "{kind:?}: no training step");
        let loss = trained.losses(&tight, &mut Dropout::seeded(0.0, 1)).unwrap().total;
        let after = statistics(&*trained);
        for (name, values) in &after {
            assert!(values.iter().all(|value| value.is_finite()) && *values != before[name], "{kind:?}: {name}");
        }
        let other_loss = trained_on_padding.losses(&padded, &mut Dropout::seeded(0.0, 1)).unwrap().total;
        let far = (loss - other_loss).unwrap().abs().unwrap().to_scalar::<f32>().unwrap();
        assert!(far < 1e-5, "{kind:?}: {far} between losses with and without padding");
        for (name, values) in statistics(&*trained_on_padding) {
            let far = values.iter().zip(&after[&name]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-5, "{kind:?}: {name} moves by {far} more with padding");
        }
    }
}
