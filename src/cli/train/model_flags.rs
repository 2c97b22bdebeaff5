//! The model's architecture as flags.

use std::str::FromStr;

use anyhow::{Context, bail};

use crate::{
    data::{Catalogue, EntityTable},
    model::{
        AttributeConfig, InputConfig, InputSizes, ModelConfig, ModelKind,
        sesrec::{CoattentionPadding, Threshold},
    },
};

/// The release's sizes and constants for one of its two data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Preset {
    /// Item and user ids only, d = 32, 15 recommendations and 15 searches: small logs, short histories.
    #[default]
    Amazon,
    /// Ids and attributes, d = 48, 150 recommendations and 25 searches: large logs, long histories.
    Kuaishou,
}

/// `name:dimension`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeDimension {
    name: String,
    dimension: usize,
}

impl FromStr for AttributeDimension {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once(':').and_then(|(name, dimension)| Some((name.trim(), dimension.trim().parse().ok()?)));
        match parsed {
            Some((name, dimension)) if !name.is_empty() && dimension > 0 => {
                Ok(Self { name: name.to_owned(), dimension })
            }
            _ => Err(format!("{text:?} is not of the form name:dimension, as in id:32")),
        }
    }
}

/// Which model, and how large.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// Which model: sesrec, or one of those that it is compared with. The bundle says which it is: evaluate, serve and
    /// the rest need no such flag.
    #[arg(long, value_enum, default_value_t)]
    model: ModelKind,
    /// The release's sizes for its Amazon or its Kuaishou data; the flags below change single ones.
    #[arg(long, value_enum, default_value_t)]
    pub(super) preset: Preset,
    /// Item embeddings as name:dimension, comma-separated, the id first; names as in the data set. Their dimensions add up
    /// to the model's width. [default: id:32 for amazon; id:32,type:8,category:8 for kuaishou]
    #[arg(long, value_delimiter = ',', value_name = "NAME:DIM")]
    item_attributes: Vec<AttributeDimension>,
    /// User embeddings, likewise. [default: id:32 for amazon; id:16 and every attribute of the data set with 4 for
    /// kuaishou]
    #[arg(long, value_delimiter = ',', value_name = "NAME:DIM")]
    user_attributes: Vec<AttributeDimension>,
    /// Dimension of the embedding of a query as a whole. [default: 16 for amazon, 32 for kuaishou]
    #[arg(long, value_name = "DIM")]
    query_dimension: Option<usize>,
    /// Dimension of the embeddings of its words. [default: 16 for amazon, 32 for kuaishou]
    #[arg(long, value_name = "DIM")]
    word_dimension: Option<usize>,
    /// Newest recommendation events that the model sees. [default: 15 for amazon, 150 for kuaishou]
    #[arg(long, value_name = "EVENTS")]
    max_recommendations: Option<usize>,
    /// Newest searches that the model sees. [default: 15 for amazon, 25 for kuaishou]
    #[arg(long, value_name = "EVENTS")]
    max_searches: Option<usize>,
    /// First words of a query that it sees. [default: 15 for amazon, 6 for kuaishou]
    #[arg(long, value_name = "WORDS")]
    max_words: Option<usize>,
    /// First clicked items of a search that it sees. [default: 1 for amazon, 5 for kuaishou]
    #[arg(long, value_name = "ITEMS")]
    max_clicks: Option<usize>,
    /// Attention heads; divides the width. [default: sesrec 4 for amazon, 2 for kuaishou; sasrec 2]
    #[arg(long)]
    heads: Option<usize>,
    /// Blocks of the encoder. [default: sesrec 1; sasrec, fmlp 2]
    #[arg(long)]
    blocks: Option<usize>,
    /// What is minimised: bce, over the clicked item and the sampled ones, as SESRec does it (for comparisons), or own, the
    /// publication's: the next item at every position against a sampled one (sasrec), one sampled item per click (fmlp),
    /// softmax over all items (stamp, gru4rec). The other models have one loss only. [default: bce]
    #[arg(long, value_enum, value_name = "bce|own")]
    loss: Option<Loss>,
    /// Any other setting of the model, by its name in the bundle's config.json: --set hidden_dim=64, --set
    /// positions=right, --set instruments=3. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<Setting>,
    /// sesrec, din, dien, iv4rec: sizes of the hidden layers of the prediction network. [default: 200,80]
    #[arg(long, value_delimiter = ',')]
    hidden: Vec<usize>,
    /// sesrec: whether co-attention sums over padding, as the release does; its scores then depend on the padded length.
    /// [default: exclude]
    #[arg(long, value_name = "include|exclude", value_parser = padding)]
    coattention_padding: Option<CoattentionPadding>,
    /// sesrec: the co-attention weight from which on an event is an interest that search and recommendation share: mean,
    /// median, or a number. [default: mean]
    #[arg(long, value_parser = threshold)]
    threshold: Option<Threshold>,
    /// sesrec: weight α of the query-item alignment loss. [default: 0.1]
    #[arg(long)]
    alignment_weight: Option<f64>,
    /// sesrec: weight β of the contrast between shared and separate interests. [default: 0.001]
    #[arg(long)]
    contrast_weight: Option<f64>,
    /// sesrec: how much farther than the shared interests the separate ones should be. [default: 0.1]
    #[arg(long)]
    triplet_margin: Option<f64>,
    /// sesrec: temperature of the alignment's softmax to begin with; it is learned. [default: 0.1]
    #[arg(long)]
    temperature: Option<f64>,
}

/// What is minimised, where a model has the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Binary cross-entropy, as SESRec does it.
    Bce,
    /// The publication's.
    Own,
}

/// `name=value`; the value is JSON, or else a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    name: String,
    value: serde_json::Value,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form name=value"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok(Self { name: name.trim().to_owned(), value })
    }
}

impl ModelFlags {
    /// Which model.
    pub(super) fn kind(&self) -> ModelKind {
        self.model
    }

    /// Whether the publication's own loss is asked for.
    pub(super) fn has_own_loss(&self) -> bool {
        self.loss == Some(Loss::Own)
    }

    /// The model's configuration for the entities of a catalogue.
    pub(super) fn config(&self, catalogue: &Catalogue, dropout: f64) -> anyhow::Result<ModelConfig> {
        let (inputs, heads) = self.inputs(catalogue)?;
        let config = serde_json::to_value(self.model.config(inputs, heads))?;
        let mut settings = self.settings()?;
        if config.get("dropout").is_some() {
            settings.push(Setting { name: "dropout".into(), value: dropout.into() });
        }
        let changed = settings.into_iter().try_fold(config, |config, setting| {
            let name = setting.name.clone();
            let changed = setting.apply(config)?;
            // One by one, so that what does not fit is named.
            serde_json::from_value::<ModelConfig>(changed.clone()).with_context(|| format!("setting {name:?}"))?;
            anyhow::Ok(changed)
        })?;
        Ok(ModelConfig::from_json(changed.to_string().as_bytes())?)
    }

    /// The flags that change single settings, then what `--set` adds.
    fn settings(&self) -> anyhow::Result<Vec<Setting>> {
        fn setting(name: &str, value: Option<impl serde::Serialize>) -> anyhow::Result<Option<Setting>> {
            let Some(value) = value else { return Ok(None) };
            Ok(Some(Setting { name: name.into(), value: serde_json::to_value(value)? }))
        }
        let hidden = (!self.hidden.is_empty()).then(|| self.hidden.iter().copied().chain([1]).collect::<Vec<_>>());
        let flags = [
            setting("num_heads", self.heads)?,
            setting("num_blocks", self.blocks)?,
            setting("loss", self.loss)?,
            setting("mlp", hidden)?,
            setting("coattention_padding", self.coattention_padding)?,
            setting("threshold", self.threshold)?,
            setting("loss_weights.align", self.alignment_weight)?,
            setting("loss_weights.contrast", self.contrast_weight)?,
            setting("triplet_margin", self.triplet_margin)?,
            setting("infonce_temperature_init", self.temperature)?,
        ];
        Ok(flags.into_iter().flatten().chain(self.set.iter().cloned()).collect())
    }

    fn inputs(&self, catalogue: &Catalogue) -> anyhow::Result<(InputConfig, usize)> {
        let mut sizes = match self.preset {
            Preset::Amazon => InputSizes::AMAZON,
            Preset::Kuaishou => InputSizes::KUAISHOU,
        };
        let set = |value: &mut usize, flag: Option<usize>| *value = flag.unwrap_or(*value);
        set(&mut sizes.query.0, self.query_dimension);
        set(&mut sizes.query.1, self.word_dimension);
        set(&mut sizes.limits.recommendations, self.max_recommendations);
        set(&mut sizes.limits.searches, self.max_searches);
        set(&mut sizes.limits.words, self.max_words);
        set(&mut sizes.limits.clicks, self.max_clicks);

        let mut inputs = InputConfig::for_catalogue(catalogue, sizes);
        let items = or_default(&self.item_attributes, || self.default_items(&catalogue.items));
        inputs.item_attributes = attributes(&items, &catalogue.items).context("--item-attributes")?;
        let users = or_default(&self.user_attributes, || self.default_users(&catalogue.users));
        inputs.user_attributes = attributes(&users, &catalogue.users).context("--user-attributes")?;
        let d = inputs.item_dim();
        if let Some(source) = inputs.query_features.as_mut().and_then(|features| features.search_source.as_mut()) {
            source.dim = d;
        }
        Ok((inputs, sizes.heads))
    }

    fn default_items(&self, table: &EntityTable) -> Vec<AttributeDimension> {
        let kept = |name: &&str| self.preset == Preset::Kuaishou && table.attribute(name).is_some();
        let others = ["type", "category"].into_iter().filter(kept);
        std::iter::once(("id", 32)).chain(others.map(|name| (name, 8))).map(dimension).collect()
    }

    fn default_users(&self, table: &EntityTable) -> Vec<AttributeDimension> {
        match self.preset {
            Preset::Amazon => vec![dimension(("id", 32))],
            Preset::Kuaishou => {
                let others = table.attributes.iter().map(|attribute| (attribute.name.as_str(), 4));
                std::iter::once(("id", 16)).chain(others).map(dimension).collect()
            }
        }
    }
}

impl Setting {
    /// A configuration with this setting; it must have one of that name.
    fn apply(self, mut config: serde_json::Value) -> anyhow::Result<serde_json::Value> {
        let pointer = format!("/{}", self.name.replace('.', "/"));
        match config.pointer_mut(&pointer) {
            Some(value) => *value = self.value,
            None => {
                let names = config.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
                let kind = config["model"].as_str().unwrap_or_default();
                bail!("{kind} has no setting {:?}; it has: {}", self.name, names.unwrap_or_default().join(", "));
            }
        }
        Ok(config)
    }
}

fn dimension((name, dimension): (&str, usize)) -> AttributeDimension {
    AttributeDimension { name: name.to_owned(), dimension }
}

fn or_default(
    flags: &[AttributeDimension],
    default: impl FnOnce() -> Vec<AttributeDimension>,
) -> Vec<AttributeDimension> {
    if flags.is_empty() { default() } else { flags.to_vec() }
}

/// Embedding tables as large as the catalogue needs them.
fn attributes(wanted: &[AttributeDimension], table: &EntityTable) -> anyhow::Result<Vec<AttributeConfig>> {
    let config = |AttributeDimension { name, dimension }: &AttributeDimension| {
        let rows = match table.attribute(name) {
            _ if name == "id" => table.rows(),
            Some(attribute) => attribute.rows as usize,
            None => {
                let known: Vec<&str> = table.attributes.iter().map(|attribute| attribute.name.as_str()).collect();
                bail!("the data set has no attribute {name:?}; it has: id, {}", known.join(", "));
            }
        };
        Ok(AttributeConfig { name: name.clone(), rows: rows.max(1), dim: *dimension })
    };
    wanted.iter().map(config).collect()
}

fn padding(text: &str) -> Result<CoattentionPadding, String> {
    match text {
        "include" => Ok(CoattentionPadding::Include),
        "exclude" => Ok(CoattentionPadding::Exclude),
        _ => Err(format!("{text:?} is neither include nor exclude")),
    }
}

fn threshold(text: &str) -> Result<Threshold, String> {
    match text {
        "mean" => Ok(Threshold::Mean),
        "median" => Ok(Threshold::Median),
        _ => match text.parse() {
            Ok(value) if (0.0..=1.0).contains(&value) => Ok(Threshold::Constant(value)),
            _ => Err(format!("{text:?} is none of: mean, median, a number from 0 to 1")),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::data::{Attribute, fixture};
    use crate::model::sesrec::SesRecConfig;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        model: ModelFlags,
    }

    fn catalogue() -> Catalogue {
        let dataset = fixture::dataset(5, 2, [fixture::User::clicking(&[1])]);
        let mut catalogue = (*dataset.catalogue).clone();
        let attribute = |name: &str, rows, count| Attribute { name: name.into(), rows, values: vec![0; count] };
        catalogue.items.attributes =
            vec![attribute("type", 3, 6), attribute("category", 4, 6), attribute("other", 2, 6)];
        catalogue.users.attributes = vec![attribute("age", 7, 1)];
        catalogue
    }

    fn config(flags: &[&str]) -> anyhow::Result<SesRecConfig> {
        let command = Command::parse_from(["train"].iter().chain(flags));
        match command.model.config(&catalogue(), 0.1)? {
            ModelConfig::Sesrec(config) => Ok(config),
            other => bail!("{} was asked for", other.kind()),
        }
    }

    fn names(attributes: &[AttributeConfig]) -> Vec<(&str, usize, usize)> {
        attributes.iter().map(|attribute| (attribute.name.as_str(), attribute.rows, attribute.dim)).collect()
    }

    #[test]
    fn presets_are_the_releases() {
        let amazon = config(&[]).unwrap();
        assert_eq!(names(&amazon.inputs.item_attributes), [("id", 6, 32)]);
        assert_eq!(names(&amazon.inputs.user_attributes), [("id", 1, 32)]);
        assert_eq!((amazon.hidden_dim, amazon.num_heads, amazon.inputs.limits.recommendations), (32, 4, 15));
        let queries = amazon.inputs.query_features.unwrap();
        assert_eq!((queries.id.dim, queries.word_segs.dim), (16, 16));
        assert_eq!((amazon.dropout, &amazon.mlp[..]), (0.1, &[200, 80, 1][..]));
        let kuaishou = config(&["--preset", "kuaishou"]).unwrap();
        assert_eq!(names(&kuaishou.inputs.item_attributes), [("id", 6, 32), ("type", 3, 8), ("category", 4, 8)]);
        assert_eq!(names(&kuaishou.inputs.user_attributes), [("id", 1, 16), ("age", 7, 4)]);
        assert_eq!((kuaishou.hidden_dim, kuaishou.num_heads, kuaishou.inputs.limits.searches), (48, 2, 25));
    }

    #[test]
    fn flags_change_single_sizes() {
        let flags = ["--item-attributes", "id:16,other:4", "--heads", "5", "--max-clicks", "3", "--threshold", "0.125"];
        let config = config(&flags).unwrap();
        assert_eq!(names(&config.inputs.item_attributes), [("id", 6, 16), ("other", 2, 4)]);
        let source = config.inputs.query_features.unwrap().search_source.unwrap();
        assert_eq!((config.hidden_dim, source.dim), (20, 20));
        assert_eq!((config.inputs.limits.clicks, config.threshold), (3, Threshold::Constant(0.125)));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = format!("{:#}", config(&["--item-attributes", "id:32,colour:8"]).unwrap_err());
        assert!(error.contains("--item-attributes: the data set has no attribute \"colour\""), "{error}");
        assert!(error.contains("type, category, other"), "{error}");
        let error = format!("{:#}", config(&["--heads", "5"]).unwrap_err());
        assert!(error.contains("32 is not divisible by num_heads 5"), "{error}");
        assert!(AttributeDimension::from_str("id").is_err() && AttributeDimension::from_str("id:0").is_err());
        assert!(threshold("1.5").is_err());
    }

    #[test]
    fn other_models_take_their_own_settings_only() {
        let config = |flags: &[&str]| {
            let command = Command::parse_from(["train"].iter().chain(flags));
            command.model.config(&catalogue(), 0.1)
        };
        let flags = ["--model", "gru4rec", "--set", "hidden_dim=24", "--loss", "own", "--item-attributes", "id:8"];
        let json: serde_json::Value = serde_json::from_str(&config(&flags).unwrap().to_json()).unwrap();
        assert_eq!(
            (&json["model"], &json["hidden_dim"], &json["loss"]),
            (&"gru4rec".into(), &24.into(), &"own".into())
        );
        assert_eq!((&json["max_src_history"], json.get("query_features")), (&0.into(), None));
        let flags = ["--model", "sasrec", "--heads", "4", "--set", "positions=right"];
        let json: serde_json::Value = serde_json::from_str(&config(&flags).unwrap().to_json()).unwrap();
        assert_eq!(
            (&json["num_heads"], &json["num_blocks"], &json["positions"]),
            (&4.into(), &2.into(), &"right".into())
        );
        let error = config(&["--model", "stamp", "--heads", "4"]).unwrap_err().to_string();
        assert!(error.contains("stamp has no setting \"num_heads\"; it has: "), "{error}");
        let error = format!("{:#}", config(&["--model", "din", "--set", "attention_units=3"]).unwrap_err());
        assert!(error.contains("setting \"attention_units\": ") && error.contains("length 2"), "{error}");
        assert!(config(&["--loss", "own"]).unwrap_err().to_string().contains("sesrec has no setting \"loss\""));
        assert!(config(&["--model", "sasrec", "--heads", "5"]).unwrap_err().to_string().contains("divisible"));
    }
}
