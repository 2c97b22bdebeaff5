//! SESRec's sizes and constants: the `config.json` of bundles and of the release's checkpoints.

use serde::{Deserialize, Serialize};

use crate::{
    data::{Catalogue, EntityTable, HistoryLimits},
    model::ModelError,
};

/// Everything that decides the model's tensors and how they are used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SesRecConfig {
    /// Whether co-attention sums run over padding, as in the release.
    #[serde(default)]
    pub coattention_padding: CoattentionPadding,
    /// Embedding tables of items in the order of their concatenation; the first is "id".
    pub item_attributes: Vec<AttributeConfig>,
    /// Embedding tables of users, likewise.
    pub user_attributes: Vec<AttributeConfig>,
    /// Embedding tables of queries.
    pub query_features: QueryFeatures,
    /// How much of a history is seen.
    #[serde(flatten)]
    pub limits: HistoryLimits,
    /// Encoder blocks per side.
    #[serde(default = "one")]
    pub num_blocks: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// d: the sum of the item dimensions.
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
    /// Dropout rate in training.
    #[serde(default = "tenth")]
    pub dropout: f64,
    /// The optimizer's constants where the file has them; kept for reference, not used by the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adam: Option<serde_json::Value>,
}

/// An embedding table of a named attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeConfig {
    /// "id", "cate", ...
    pub name: String,
    /// Rows, padding included.
    pub rows: usize,
    /// Columns.
    pub dim: usize,
}

/// An embedding table's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableConfig {
    /// Rows, padding included.
    pub rows: usize,
    /// Columns.
    pub dim: usize,
}

/// Embedding tables of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryFeatures {
    /// Of the query as a whole; row 0 is padding.
    pub id: TableConfig,
    /// Of how the search began; its dimension is d.
    pub search_source: TableConfig,
    /// Of the query's words; row 0 is "none".
    pub word_segs: TableConfig,
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
#[serde(untagged)]
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

/// The sizes that are chosen freely when a model is made for a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SesRecSizes {
    /// Dimensions of the item id and of each further item attribute.
    pub item: (usize, usize),
    /// Dimensions of the user id and of each further user attribute.
    pub user: (usize, usize),
    /// Dimensions of query ids and of words.
    pub query: (usize, usize),
    /// Attention heads.
    pub heads: usize,
    /// How much of a history is seen.
    pub limits: HistoryLimits,
}

impl SesRecSizes {
    /// The release's for KuaiSAR.
    pub const KUAISHOU: Self = Self {
        item: (32, 8),
        user: (16, 4),
        query: (32, 32),
        heads: 2,
        limits: HistoryLimits { recommendations: 150, searches: 25, words: 6, clicks: 5 },
    };
    /// The release's for Amazon.
    pub const AMAZON: Self = Self {
        item: (32, 8),
        user: (32, 4),
        query: (16, 16),
        heads: 4,
        limits: HistoryLimits { recommendations: 15, searches: 15, words: 15, clicks: 1 },
    };
}

impl SesRecConfig {
    /// A model of these sizes for the entities of a catalogue, everything else as in the release.
    pub fn for_catalogue(catalogue: &Catalogue, sizes: SesRecSizes) -> Self {
        let item_attributes = attributes(&catalogue.items, sizes.item);
        let hidden_dim = item_attributes.iter().map(|attribute| attribute.dim).sum();
        let table = |table: &EntityTable, dim| TableConfig { rows: table.rows().max(1), dim };
        Self {
            coattention_padding: CoattentionPadding::Exclude,
            item_attributes,
            user_attributes: attributes(&catalogue.users, sizes.user),
            query_features: QueryFeatures {
                id: table(&catalogue.queries, sizes.query.0),
                search_source: table(&catalogue.sources, hidden_dim),
                word_segs: table(&catalogue.words, sizes.query.1),
            },
            limits: sizes.limits,
            num_blocks: one(),
            num_heads: sizes.heads,
            hidden_dim,
            layer_norm_eps: layer_norm_eps(),
            mlp: mlp(),
            triplet_margin: tenth(),
            infonce_temperature_init: tenth(),
            loss_weights: LossWeights::default(),
            threshold: Threshold::Mean,
            dropout: tenth(),
            adam: None,
        }
    }

    /// Size of the concatenated user embedding.
    pub fn user_dim(&self) -> usize {
        self.user_attributes.iter().map(|attribute| attribute.dim).sum()
    }

    /// Inputs of the prediction layers: three poolings per side, user, candidate.
    pub fn head_dim(&self) -> usize {
        7 * self.hidden_dim + self.user_dim()
    }

    /// Checks that the sizes fit each other.
    pub fn validate(&self) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Config(message));
        for (kind, attributes) in
            [("item_attributes", &self.item_attributes), ("user_attributes", &self.user_attributes)]
        {
            if attributes.first().is_none_or(|attribute| attribute.name != "id") {
                return fail(format!("{kind}: the first attribute must be \"id\""));
            }
            for attribute in attributes {
                if attribute.rows == 0 || attribute.dim == 0 {
                    return fail(format!("{kind}.{}: rows and dim must not be 0", attribute.name));
                }
                if attributes.iter().filter(|other| other.name == attribute.name).count() > 1 {
                    return fail(format!("{kind}.{}: named twice", attribute.name));
                }
            }
        }
        let d: usize = self.item_attributes.iter().map(|attribute| attribute.dim).sum();
        if self.hidden_dim != d {
            return fail(format!(
                "hidden_dim is {}, but the item attributes' dimensions add up to {d}",
                self.hidden_dim
            ));
        }
        if self.num_heads == 0 || !d.is_multiple_of(self.num_heads) {
            return fail(format!("hidden_dim {d} is not divisible by num_heads {}", self.num_heads));
        }
        if self.query_features.search_source.dim != d {
            let dim = self.query_features.search_source.dim;
            return fail(format!("query_features.search_source.dim is {dim}; it must be hidden_dim, {d}"));
        }
        let QueryFeatures { id, search_source, word_segs } = self.query_features;
        if [id, search_source, word_segs].iter().any(|table| table.rows == 0 || table.dim == 0) {
            return fail("query_features: rows and dim must not be 0".into());
        }
        let HistoryLimits { recommendations, searches, words, clicks } = self.limits;
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

    /// Checks that every row of the catalogue has a row in its table, and that attributes are there.
    pub fn check_catalogue(&self, catalogue: &Catalogue) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Config(message));
        let query = &self.query_features;
        let tables = [
            ("queries", catalogue.queries.rows(), query.id.rows),
            ("words", catalogue.words.rows(), query.word_segs.rows),
            ("sources", catalogue.sources.rows(), query.search_source.rows),
        ];
        for (name, rows, capacity) in tables {
            if rows > capacity {
                return fail(format!("the catalogue has {rows} rows of {name}, the model's table only {capacity}"));
            }
        }
        let entities =
            [("items", &catalogue.items, &self.item_attributes), ("users", &catalogue.users, &self.user_attributes)];
        for (name, table, attributes) in entities {
            for config in attributes {
                let (rows, values) = match (config.name.as_str(), table.attribute(&config.name)) {
                    ("id", _) => (table.rows(), table.rows()),
                    (_, Some(attribute)) => {
                        let used = attribute.values.iter().max().map_or(0, |&max| max as usize + 1);
                        (used, attribute.values.len())
                    }
                    (attribute, None) => {
                        return fail(format!("the catalogue's {name} lack the attribute {attribute:?}"));
                    }
                };
                if rows > config.rows || values != table.rows() {
                    return fail(format!(
                        "{name}: attribute {:?} has {values} values up to row {}, for {} {name} and a table of {} rows",
                        config.name,
                        rows.saturating_sub(1),
                        table.rows(),
                        config.rows
                    ));
                }
            }
        }
        if catalogue.query_word_ends.len() < catalogue.queries.rows() {
            return fail("the catalogue lists the words of fewer queries than it has".into());
        }
        if catalogue.query_words.iter().any(|&word| word as usize >= query.word_segs.rows) {
            return fail("a query of the catalogue has a word beyond the model's word table".into());
        }
        if catalogue.default_source as usize >= query.search_source.rows {
            return fail("the catalogue's default source is beyond the model's source table".into());
        }
        Ok(())
    }
}

fn attributes(table: &EntityTable, (id, other): (usize, usize)) -> Vec<AttributeConfig> {
    let id = AttributeConfig { name: "id".into(), rows: table.rows().max(1), dim: id };
    let others = table.attributes.iter().map(|attribute| AttributeConfig {
        name: attribute.name.clone(),
        rows: attribute.rows.max(1) as usize,
        dim: other,
    });
    std::iter::once(id).chain(others).collect()
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
