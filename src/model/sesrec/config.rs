//! SESRec's sizes and constants: the `config.json` of bundles and of the release's checkpoints.

use serde::{Deserialize, Serialize};

use super::first_layer::FirstLayer;
use crate::{
    data::{Catalogue, HistoryLimits},
    model::{HistoryPadding, InputConfig, InputSizes, ModelError, QueryFeatures},
};

/// Everything that decides the model's tensors and how they are used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SesRecConfig {
    /// Whether co-attention sums run over padding, as in the release.
    #[serde(default)]
    pub coattention_padding: CoattentionPadding,
    /// Embedding tables, and how much of a history is seen.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// Encoder blocks per side.
    #[serde(default = "one")]
    pub num_blocks: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// d: the width of an item's vector.
    pub hidden_dim: usize,
    /// Layer norm's epsilon.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Outputs of the prediction layers; the last is 1.
    #[serde(default = "mlp")]
    pub mlp: Vec<usize>,
    /// Margin of the contrast loss.
    #[serde(default = "tenth")]
    pub triplet_margin: f64,
    /// The alignment loss's temperature to begin with.
    #[serde(default = "tenth")]
    pub infonce_temperature_init: f64,
    /// Weights of the auxiliary losses.
    #[serde(default)]
    pub loss_weights: LossWeights,
    /// γ, the co-attention weight from which on an event is a similar interest.
    #[serde(default)]
    pub threshold: Threshold,
    /// What co-attention compares.
    #[serde(default)]
    pub coattention: Compared,
    /// To which events of a side candidates attend.
    #[serde(default)]
    pub interest_extraction: InterestExtraction,
    /// What an event's position is counted from.
    #[serde(default)]
    pub positions_from: Positions,
    /// Whether every item has a number of its own that is added to its logits.
    #[serde(default)]
    pub item_bias: bool,
    /// Whether a candidate's logit has, besides the prediction layers, a weighted sum of how well it matches each set
    /// of events: per set the logarithm of the mean of e^score, the scores being those that it attends by (eq. 14-16).
    #[serde(default)]
    pub matching: bool,
    /// Whether it also has a weighted sum of the inner products of the candidate with each of its pooled interests, as
    /// in matrix factorisation: prediction layers alone are slow to learn these.
    #[serde(default)]
    pub inner_products: bool,
    /// Whether it also has a weighted count of the words that the candidate's caption shares with the items and with
    /// the queries of the history, rare words counting more; how much is fitted to validation's clicks. Nothing where
    /// captions aren't known.
    #[serde(default)]
    pub shared_words: bool,
    /// Whether it also has a weighted count of how often the candidate and the newest clicks of the history were
    /// clicked shortly after each other in the training part, which becomes part of the model; how much is fitted
    /// likewise.
    #[serde(default)]
    pub clicked_together: bool,
    /// What is minimised besides the auxiliary losses.
    #[serde(default)]
    pub prediction_loss: PredictionLoss,
    /// Dropout rate in training.
    #[serde(default = "tenth")]
    pub dropout: f64,
    /// The optimizer's constants where the file has them; kept for reference, not used by the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adam: Option<serde_json::Value>,
}

/// Weights of the auxiliary losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossWeights {
    /// α, of query-item alignment.
    pub align: f64,
    /// β, of the contrast between similar and dissimilar interests.
    pub contrast: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        Self { align: 0.1, contrast: 0.001 }
    }
}

/// Over what the sums of co-attention run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoattentionPadding {
    /// Padded positions too, with histories padded to the model's limits: what the release does, and what its
    /// checkpoints need.
    Include,
    /// Real events only: scores don't depend on padding.
    #[default]
    Exclude,
}

/// What co-attention compares of the two histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// The encoded events, by weights of its own (eq. 8-9). The sets are constants to the gradient, so that these
    /// weights learn from the contrast alone, which any division of the events satisfies.
    #[default]
    Encoded,
    /// The items and the queries as they are embedded, by the matrix that aligns them: an event weighs as much as the
    /// other history has of what it is about.
    Aligned,
}

/// To which events of a side candidates attend (Table 3 of the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterestExtraction {
    /// All, the similar and the dissimilar ones, separately (eq. 14-16).
    #[default]
    Multiple,
    /// All in one: the model without multi-interest extraction.
    Single,
}

impl InterestExtraction {
    /// How many vectors a candidate gets from a side.
    pub fn poolings(self) -> usize {
        match self {
            Self::Multiple => 3,
            Self::Single => 1,
        }
    }
}

/// What an event's position is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// The oldest event that is seen: the release's.
    #[default]
    Oldest,
    /// The newest: then a position says how long ago, however long the history is.
    Newest,
}

/// What tells the clicked item from the sampled ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionLoss {
    /// Binary cross-entropy of each (eq. 19).
    #[default]
    Bce,
    /// Softmax cross-entropy of the clicked one among them: only the order counts, as in ranking.
    Softmax,
}

/// γ (Table 4 of the paper).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "ThresholdText", into = "ThresholdText")]
pub enum Threshold {
    /// 1 / number of events: the mean weight.
    #[default]
    Mean,
    /// The median weight; of an even number, the mean of the middle two.
    Median,
    /// A constant.
    Constant(f64),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a threshold is mean, median or a number from 0 to 1")]
enum ThresholdText {
    Named(ThresholdName),
    Constant(f64),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ThresholdName {
    Mean,
    Median,
}

impl From<ThresholdText> for Threshold {
    fn from(text: ThresholdText) -> Self {
        match text {
            ThresholdText::Named(ThresholdName::Mean) => Self::Mean,
            ThresholdText::Named(ThresholdName::Median) => Self::Median,
            ThresholdText::Constant(value) => Self::Constant(value),
        }
    }
}

impl From<Threshold> for ThresholdText {
    fn from(threshold: Threshold) -> Self {
        match threshold {
            Threshold::Mean => Self::Named(ThresholdName::Mean),
            Threshold::Median => Self::Named(ThresholdName::Median),
            Threshold::Constant(value) => Self::Constant(value),
        }
    }
}

impl SesRecConfig {
    /// A model of these sizes for the entities of a catalogue, everything else as in the release.
    pub fn for_catalogue(catalogue: &Catalogue, sizes: InputSizes) -> Self {
        Self::new(InputConfig::for_catalogue(catalogue, sizes), sizes.heads)
    }

    /// To which length batches of histories are padded: where co-attention sums over padding, it matters.
    pub(super) fn history_padding(&self) -> HistoryPadding {
        match self.coattention_padding {
            CoattentionPadding::Include => HistoryPadding::Limits,
            CoattentionPadding::Exclude => HistoryPadding::Longest,
        }
    }

    /// A model over these inputs, everything else as in the release.
    pub fn new(inputs: InputConfig, num_heads: usize) -> Self {
        Self {
            coattention_padding: CoattentionPadding::Exclude,
            hidden_dim: inputs.item_dim(),
            inputs,
            num_blocks: one(),
            num_heads,
            layer_norm_eps: layer_norm_eps(),
            mlp: mlp(),
            triplet_margin: tenth(),
            infonce_temperature_init: tenth(),
            loss_weights: LossWeights::default(),
            threshold: Threshold::Mean,
            coattention: Compared::default(),
            interest_extraction: InterestExtraction::Multiple,
            positions_from: Positions::default(),
            item_bias: false,
            matching: false,
            inner_products: false,
            shared_words: false,
            clicked_together: false,
            prediction_loss: PredictionLoss::default(),
            dropout: tenth(),
            adam: None,
        }
    }

    /// The tables of queries, which [`Self::validate`] makes sure of.
    pub(super) fn query_features(&self) -> Result<QueryFeatures, ModelError> {
        self.inputs.query_features.ok_or_else(|| ModelError::Config("query_features: SESRec needs them".into()))
    }

    /// Inputs of the prediction layers: interests, user, candidate.
    pub fn head_dim(&self) -> usize {
        FirstLayer::new(self).width()
    }

    /// Checks that the sizes fit each other.
    pub fn validate(&self) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Config(message));
        self.inputs.validate()?;
        if self.query_features()?.search_source.is_none() {
            return fail("query_features.search_source: SESRec needs it".into());
        }
        let d = self.inputs.item_dim();
        if self.hidden_dim != d {
            return fail(format!(
                "hidden_dim is {}, but items are {d} wide (item_width, or the sum of the item attributes' dimensions)",
                self.hidden_dim
            ));
        }
        if self.num_heads == 0 || !d.is_multiple_of(self.num_heads) {
            return fail(format!("hidden_dim {d} is not divisible by num_heads {}", self.num_heads));
        }
        let HistoryLimits { recommendations, searches, words, clicks } = self.inputs.limits;
        if [recommendations, searches, words, clicks].contains(&0) {
            return fail(
                "max_rec_history, max_src_history, max_query_words and max_clicked_items must not be 0".into(),
            );
        }
        if self.mlp.last() != Some(&1) || self.mlp.len() < 2 || self.mlp.contains(&0) {
            return fail(format!("mlp is {:?}; it needs at least two layers, the last of size 1", self.mlp));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail(format!("dropout is {}; it must be in [0, 1)", self.dropout));
        }
        let constant = if let Threshold::Constant(value) = self.threshold { value } else { 0.0 };
        let finite = [
            ("threshold", constant),
            ("triplet_margin", self.triplet_margin),
            ("loss_weights.align", self.loss_weights.align),
            ("loss_weights.contrast", self.loss_weights.contrast),
            ("layer_norm_eps", self.layer_norm_eps),
        ];
        if let Some((name, value)) = finite.iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            return fail(format!("{name} is {value}; it must be a number from 0 on"));
        }
        if !(self.infonce_temperature_init.is_finite() && self.infonce_temperature_init > 0.0) {
            return fail(format!("infonce_temperature_init is {}; it must be above 0", self.infonce_temperature_init));
        }
        Ok(())
    }
}

fn one() -> usize {
    1
}

fn tenth() -> f64 {
    0.1
}

fn layer_norm_eps() -> f64 {
    1e-8
}

fn mlp() -> Vec<usize> {
    vec![200, 80, 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_that_is_none_is_told_what_it_may_be() {
        let parse = |json: &str| serde_json::from_str::<Threshold>(json);
        assert_eq!(parse("\"median\"").unwrap(), Threshold::Median);
        assert_eq!(parse("0.125").unwrap(), Threshold::Constant(0.125));
        for wrong in ["\"foo\"", "true", "[0.1]"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains("mean, median or a number from 0 to 1"), "{wrong}: {error}");
        }
    }
}
