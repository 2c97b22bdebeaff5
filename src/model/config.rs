//! Which model it is: the one place that lists them.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    Architecture, InputConfig, ModelError, Parameter, RankerOptions, RankingModel, Setting, TrainableModel,
    baselines::{
        DienConfig, DinConfig, FmlpConfig, Gru4RecConfig, Iv4RecConfig, JsrConfig, NrhubConfig, QuerySeqRecConfig,
        SasRecConfig, SrjGraphConfig, StampConfig,
    },
    sesrec::SesRecConfig,
    weights,
};
use crate::data::{Catalogue, Dataset, HistoryLimits};

/// A bundle's `config.json`: `{"model": "sesrec", …}` with that model's own settings beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "lowercase")]
pub enum ModelConfig {
    /// SESRec.
    Sesrec(SesRecConfig),
    /// STAMP.
    Stamp(StampConfig),
    /// DIN.
    Din(DinConfig),
    /// GRU4Rec.
    Gru4Rec(Gru4RecConfig),
    /// SASRec.
    SasRec(SasRecConfig),
    /// DIEN.
    Dien(DienConfig),
    /// FMLP-Rec.
    Fmlp(FmlpConfig),
    /// NRHUB.
    Nrhub(NrhubConfig),
    /// JSR.
    Jsr(JsrConfig),
    /// IV4Rec.
    Iv4Rec(Iv4RecConfig),
    /// Query-SeqRec.
    #[serde(rename = "query-seqrec")]
    QuerySeqRec(QuerySeqRecConfig),
    /// SRJGraph.
    SrjGraph(SrjGraphConfig),
}

/// The models' names, as in `config.json` and on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum ModelKind {
    /// SESRec (SIGIR 2023): both histories, disentangled into similar and dissimilar interests.
    #[default]
    Sesrec,
    /// STAMP (KDD 2018): short-term attention over the clicked items and the newest one.
    Stamp,
    /// DIN (KDD 2018): each candidate weighs the clicked items by itself.
    Din,
    /// GRU4Rec (2016): a recurrent network over the clicked items.
    Gru4Rec,
    /// SASRec (ICDM 2018): causal self-attention over the clicked items.
    SasRec,
    /// DIEN (AAAI 2019): a recurrent network over the clicked items, and one that evolves towards each candidate.
    Dien,
    /// FMLP-Rec (WWW 2022): learned frequency filters over the clicked items.
    Fmlp,
    /// NRHUB (EMNLP 2019): attention over clicked items, queries and items clicked in searches.
    Nrhub,
    /// JSR (2018, 2020): recommendation and search learned together, without histories.
    Jsr,
    /// IV4Rec (WWW 2022): DIN over items rewritten by the queries that lead to them.
    Iv4Rec,
    /// Query-SeqRec (CIKM 2022): causal self-attention over clicked items and queries in one sequence.
    #[serde(rename = "query-seqrec")]
    #[value(name = "query-seqrec")]
    QuerySeqRec,
    /// SRJGraph (WSDM 2022): a graph of all clicks, with the queries that led to them.
    SrjGraph,
}

impl ModelKind {
    /// All of them, SESRec first.
    pub fn all() -> &'static [Self] {
        <Self as clap::ValueEnum>::value_variants()
    }

    /// A model of this kind with its publication's constants, over all inputs or those of them that it uses.
    pub fn config(self, inputs: InputConfig, heads: usize) -> ModelConfig {
        match self {
            Self::Sesrec => ModelConfig::Sesrec(SesRecConfig::new(inputs, heads)),
            Self::Stamp => ModelConfig::Stamp(StampConfig::new(inputs)),
            Self::Din => ModelConfig::Din(DinConfig::new(inputs)),
            Self::Gru4Rec => ModelConfig::Gru4Rec(Gru4RecConfig::new(inputs)),
            Self::SasRec => ModelConfig::SasRec(SasRecConfig::new(inputs)),
            Self::Dien => ModelConfig::Dien(DienConfig::new(inputs)),
            Self::Fmlp => ModelConfig::Fmlp(FmlpConfig::new(inputs)),
            Self::Nrhub => ModelConfig::Nrhub(NrhubConfig::new(inputs)),
            Self::Jsr => ModelConfig::Jsr(JsrConfig::new(inputs)),
            Self::Iv4Rec => ModelConfig::Iv4Rec(Iv4RecConfig::new(inputs)),
            Self::QuerySeqRec => ModelConfig::QuerySeqRec(QuerySeqRecConfig::new(inputs)),
            Self::SrjGraph => ModelConfig::SrjGraph(SrjGraphConfig::new(inputs)),
        }
    }

    /// The dropout rate that its publication, or the code that the specification follows, trains it with.
    pub fn dropout(self) -> f64 {
        match self {
            Self::Sesrec | Self::Iv4Rec | Self::Jsr => 0.1,
            Self::Stamp | Self::Din | Self::Dien | Self::Nrhub | Self::SrjGraph => 0.0,
            Self::Gru4Rec => 0.3,
            Self::SasRec | Self::Fmlp => 0.5,
            Self::QuerySeqRec => 0.6,
        }
    }

    /// What it is built with for better results than its publication's; the others are taken as they are published.
    pub fn better_settings(self) -> Vec<Setting> {
        match self {
            Self::Sesrec => vec![
                // Users are known by what they did: an embedding by id learns their few training clicks by heart.
                Setting::new("user_attributes", serde_json::Value::Array(vec![])),
                Setting::new("positions_from", "newest"),
                Setting::new("item_bias", true),
                Setting::new("matching", true),
                Setting::new("inner_products", true),
                Setting::new("shared_words", true),
                Setting::new("clicked_together", true),
                Setting::new("prediction_loss", "softmax"),
                Setting::new("loss_weights.align", 0.05),
            ],
            _ => vec![],
        }
    }

    /// The dropout rate that goes with [`Self::better_settings`].
    pub fn better_dropout(self) -> f64 {
        match self {
            Self::Sesrec => 0.3,
            _ => self.dropout(),
        }
    }
}

impl ModelConfig {
    /// What depends on which model it is.
    fn architecture(&self) -> &dyn Architecture {
        match self {
            Self::Sesrec(config) => config,
            Self::Stamp(config) => config,
            Self::Din(config) => config,
            Self::Gru4Rec(config) => config,
            Self::SasRec(config) => config,
            Self::Dien(config) => config,
            Self::Fmlp(config) => config,
            Self::Nrhub(config) => config,
            Self::Jsr(config) => config,
            Self::Iv4Rec(config) => config,
            Self::QuerySeqRec(config) => config,
            Self::SrjGraph(config) => config,
        }
    }

    /// From JSON; without a "model" key, as the release's files are, it is SESRec's.
    ///
    /// # Errors
    /// If it is no model's configuration; then as [`Self::validate`].
    pub fn from_json(json: &[u8]) -> Result<Self, ModelError> {
        let wrong = |error: serde_json::Error| ModelError::Config(error.to_string());
        let mut value: serde_json::Value = serde_json::from_slice(json).map_err(wrong)?;
        let Some(settings) = value.as_object_mut() else {
            return Err(ModelError::Config("expected a JSON object".into()));
        };
        settings.entry("model").or_insert_with(|| "sesrec".into());
        let config: Self = serde_json::from_value(value).map_err(wrong)?;
        config.validate()?;
        Ok(config)
    }

    /// Indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a configuration has string keys only")
    }

    /// "sesrec", ...
    pub fn kind(&self) -> &'static str {
        self.architecture().kind()
    }

    /// What it embeds.
    pub fn inputs(&self) -> &InputConfig {
        self.architecture().inputs()
    }

    /// See `Architecture::revision`.
    pub fn revision(&self) -> u32 {
        self.architecture().revision()
    }

    /// How much of a history it sees.
    pub fn limits(&self) -> HistoryLimits {
        self.inputs().limits
    }

    /// Checks that the settings fit each other.
    ///
    /// # Errors
    /// Names the first setting that doesn't fit.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.architecture().validate()
    }

    /// Checks that the model's tables hold the catalogue's rows.
    ///
    /// # Errors
    /// Names the first of the catalogue's tables that doesn't fit.
    pub fn check_catalogue(&self, catalogue: &Catalogue) -> Result<(), ModelError> {
        self.inputs().check_catalogue(catalogue)
    }

    /// Every tensor of the model.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.architecture().parameters()
    }

    /// Checks that the tensors are this model's: names, shapes, finite values, rows that there are.
    ///
    /// # Errors
    /// Names the first tensor that isn't.
    pub fn check_weights(&self, tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
        weights::check(&self.parameters(), tensors)?;
        self.architecture().check_tables(tensors)
    }

    /// A model that begins to learn from a data set; equal seeds begin equally.
    ///
    /// # Errors
    /// As [`Self::validate`]; if the tables that the data set makes don't fit; then if the device fails, for want of
    /// memory for example.
    pub fn new_trainable(
        &self,
        dataset: &Dataset,
        seed: u64,
        device: &Device,
    ) -> Result<Box<dyn TrainableModel>, ModelError> {
        self.validate()?;
        let mut tensors = weights::initialise(&self.parameters(), seed)?;
        tensors.extend(self.architecture().tables(dataset)?);
        self.check_weights(&tensors)?;
        self.architecture().trainable(dataset.catalogue.clone(), &tensors, device)
    }

    /// A model that answers, with these options.
    ///
    /// # Errors
    /// As [`Self::validate`] and [`Self::check_weights`]; then if the device fails, for want of memory for example.
    pub fn ranker(
        &self,
        catalogue: Arc<Catalogue>,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
        options: RankerOptions,
    ) -> Result<Box<dyn RankingModel>, ModelError> {
        self.validate()?;
        self.check_weights(tensors)?;
        self.architecture().ranker(catalogue, tensors, device, options)
    }
}
