//! The model's architecture as flags.

use std::str::FromStr;

use anyhow::{Context, bail};

use crate::{
    data::{Catalogue, EntityTable},
    model::{
        ModelConfig,
        sesrec::{AttributeConfig, CoattentionPadding, LossWeights, SesRecConfig, SesRecSizes, Threshold},
    },
    train::HistoryPadding,
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

/// Which model learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ModelKind {
    /// SESRec (SIGIR 2023).
    #[default]
    Sesrec,
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
    /// Which model.
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
    /// Attention heads of the encoders; divides the width. [default: 4 for amazon, 2 for kuaishou]
    #[arg(long)]
    heads: Option<usize>,
    /// Transformer blocks per encoder.
    #[arg(long, default_value_t = 1)]
    blocks: usize,
    /// Sizes of the hidden layers of the prediction network.
    #[arg(long, value_delimiter = ',', default_values_t = [200, 80])]
    hidden: Vec<usize>,
    /// Whether co-attention sums over padding, as the release does; its scores then depend on the padded length.
    #[arg(long, value_enum, default_value = "exclude", value_name = "include|exclude", value_parser = padding)]
    coattention_padding: CoattentionPadding,
    /// The co-attention weight from which on an event is an interest that search and recommendation share: mean, median,
    /// or a number.
    #[arg(long, default_value = "mean", value_parser = threshold)]
    threshold: Threshold,
    /// Weight α of the query-item alignment loss.
    #[arg(long, default_value_t = 0.1)]
    alignment_weight: f64,
    /// Weight β of the contrast between shared and separate interests.
    #[arg(long, default_value_t = 0.001)]
    contrast_weight: f64,
    /// How much farther than the shared interests the separate ones should be.
    #[arg(long, default_value_t = 0.1)]
    triplet_margin: f64,
    /// Temperature of the alignment's softmax to begin with; it is learned.
    #[arg(long, default_value_t = 0.1)]
    temperature: f64,
}

impl ModelFlags {
    /// The model's configuration for the entities of a catalogue.
    pub(super) fn config(&self, catalogue: &Catalogue, dropout: f64) -> anyhow::Result<ModelConfig> {
        match self.model {
            ModelKind::Sesrec => Ok(ModelConfig::Sesrec(self.sesrec(catalogue, dropout)?)),
        }
    }

    /// What batches have to be padded to.
    pub(super) fn padding(&self) -> HistoryPadding {
        match self.coattention_padding {
            CoattentionPadding::Include => HistoryPadding::Limits,
            CoattentionPadding::Exclude => HistoryPadding::Longest,
        }
    }

    fn sesrec(&self, catalogue: &Catalogue, dropout: f64) -> anyhow::Result<SesRecConfig> {
        let mut sizes = match self.preset {
            Preset::Amazon => SesRecSizes::AMAZON,
            Preset::Kuaishou => SesRecSizes::KUAISHOU,
        };
        let set = |value: &mut usize, flag: Option<usize>| *value = flag.unwrap_or(*value);
        set(&mut sizes.query.0, self.query_dimension);
        set(&mut sizes.query.1, self.word_dimension);
        set(&mut sizes.heads, self.heads);
        set(&mut sizes.limits.recommendations, self.max_recommendations);
        set(&mut sizes.limits.searches, self.max_searches);
        set(&mut sizes.limits.words, self.max_words);
        set(&mut sizes.limits.clicks, self.max_clicks);

        let mut config = SesRecConfig::for_catalogue(catalogue, sizes);
        let items = or_default(&self.item_attributes, || self.default_items(&catalogue.items));
        config.item_attributes = attributes(&items, &catalogue.items).context("--item-attributes")?;
        let users = or_default(&self.user_attributes, || self.default_users(&catalogue.users));
        config.user_attributes = attributes(&users, &catalogue.users).context("--user-attributes")?;
        config.hidden_dim = config.item_attributes.iter().map(|attribute| attribute.dim).sum();
        config.query_features.search_source.dim = config.hidden_dim;
        config.num_blocks = self.blocks;
        config.mlp = self.hidden.iter().copied().chain([1]).collect();
        config.coattention_padding = self.coattention_padding;
        config.threshold = self.threshold;
        config.loss_weights = LossWeights { align: self.alignment_weight, contrast: self.contrast_weight };
        config.triplet_margin = self.triplet_margin;
        config.infonce_temperature_init = self.temperature;
        config.dropout = dropout;
        config.validate()?;
        Ok(config)
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
        command.model.sesrec(&catalogue(), 0.1)
    }

    fn names(attributes: &[AttributeConfig]) -> Vec<(&str, usize, usize)> {
        attributes.iter().map(|attribute| (attribute.name.as_str(), attribute.rows, attribute.dim)).collect()
    }

    #[test]
    fn presets_are_the_releases() {
        let amazon = config(&[]).unwrap();
        assert_eq!(names(&amazon.item_attributes), [("id", 6, 32)]);
        assert_eq!(names(&amazon.user_attributes), [("id", 1, 32)]);
        assert_eq!((amazon.hidden_dim, amazon.num_heads, amazon.limits.recommendations), (32, 4, 15));
        assert_eq!((amazon.query_features.id.dim, amazon.query_features.word_segs.dim), (16, 16));
        assert_eq!((amazon.dropout, &amazon.mlp[..]), (0.1, &[200, 80, 1][..]));
        let kuaishou = config(&["--preset", "kuaishou"]).unwrap();
        assert_eq!(names(&kuaishou.item_attributes), [("id", 6, 32), ("type", 3, 8), ("category", 4, 8)]);
        assert_eq!(names(&kuaishou.user_attributes), [("id", 1, 16), ("age", 7, 4)]);
        assert_eq!((kuaishou.hidden_dim, kuaishou.num_heads, kuaishou.limits.searches), (48, 2, 25));
    }

    #[test]
    fn flags_change_single_sizes() {
        let flags = ["--item-attributes", "id:16,other:4", "--heads", "5", "--max-clicks", "3", "--threshold", "0.125"];
        let config = config(&flags).unwrap();
        assert_eq!(names(&config.item_attributes), [("id", 6, 16), ("other", 2, 4)]);
        assert_eq!((config.hidden_dim, config.query_features.search_source.dim), (20, 20));
        assert_eq!((config.limits.clicks, config.threshold), (3, Threshold::Constant(0.125)));
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
}
