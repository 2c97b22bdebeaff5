//! How large what a model embeds is, as flags.

use std::str::FromStr;

use anyhow::{Context, bail};

use super::RecipeName;
use crate::{
    data::{Catalogue, EntityTable, ITEM_WORDS},
    model::{AttributeConfig, InputConfig, InputSizes, ModelKind, Setting},
    units::parse_count,
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

/// Embeddings, and how much of a history is seen.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct SizeFlags {
    /// The release's sizes for its Amazon or its Kuaishou data; the flags below change single ones.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) preset: Preset,
    /// Item embeddings as name:dimension, comma-separated, the id first; names as in the data set, and "words" for the
    /// words of captions, which items and queries then share. [default: id:32 for amazon; id:32,type:8,category:8 for
    /// kuaishou; best: id:64 and words:64 where there are captions]
    #[arg(long, value_delimiter = ',', value_name = "NAME:DIM")]
    item_attributes: Vec<AttributeDimension>,
    /// The model's width: what these are projected to. [default: the sum of their dimensions; best: 64]
    #[arg(long, value_name = "DIM", value_parser = parse_count)]
    item_width: Option<usize>,
    /// User embeddings, likewise. [default: id:32 for amazon; id:16 and every attribute of the data set with 4 for
    /// kuaishou]
    #[arg(long, value_delimiter = ',', value_name = "NAME:DIM")]
    user_attributes: Vec<AttributeDimension>,
    /// Dimension of the embedding of a query as a whole. [default: 16 for amazon, 32 for kuaishou]
    #[arg(long, value_name = "DIM", value_parser = parse_count)]
    query_dimension: Option<usize>,
    /// Dimension of the embeddings of its words. [default: 16 for amazon, 32 for kuaishou; that of the items' words
    /// where these are embedded]
    #[arg(long, value_name = "DIM", value_parser = parse_count)]
    word_dimension: Option<usize>,
    /// Newest recommendation events that the model sees. [default: 15 for amazon, 150 for kuaishou]
    #[arg(long, value_name = "EVENTS", value_parser = parse_count)]
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
}

impl SizeFlags {
    /// What a model embeds of a catalogue, and how many heads the preset gives it.
    pub(crate) fn inputs(&self, catalogue: &Catalogue, recipe: RecipeName) -> anyhow::Result<(InputConfig, usize)> {
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
        let items = or_default(&self.item_attributes, || self.default_items(&catalogue.items, recipe));
        inputs.item_attributes = attributes(&items, &catalogue.items, &catalogue.words).context("--item-attributes")?;
        let users = or_default(&self.user_attributes, || self.default_users(&catalogue.users));
        inputs.user_attributes = attributes(&users, &catalogue.users, &catalogue.words).context("--user-attributes")?;
        let item_words = inputs.item_attributes.iter().find(|attribute| attribute.name == ITEM_WORDS);
        let shared = item_words.filter(|_| self.word_dimension.is_none()).map(|words| words.dim);
        if let (Some(features), Some(dim)) = (&mut inputs.query_features, shared) {
            features.word_segs.dim = dim;
        }
        // Attributes that were asked for one by one add up, as in the release.
        let best = (recipe == RecipeName::Best && self.item_attributes.is_empty()).then_some(64);
        inputs.item_width = self.item_width.or(best);
        let d = inputs.item_dim();
        if let Some(source) = inputs.query_features.as_mut().and_then(|features| features.search_source.as_mut()) {
            source.dim = d;
        }
        Ok((inputs, sizes.heads))
    }

    /// What the recipe builds a model with, but for what these flags say otherwise.
    pub(crate) fn settings(&self, recipe: RecipeName, model: ModelKind) -> Vec<Setting> {
        let own_users = !self.user_attributes.is_empty();
        let mut settings = recipe.settings(model);
        settings.retain(|setting| !(own_users && setting.name == "user_attributes"));
        settings
    }

    fn default_items(&self, table: &EntityTable, recipe: RecipeName) -> Vec<AttributeDimension> {
        let kept = |name: &&str| self.preset == Preset::Kuaishou && table.attribute(name).is_some();
        let others = ["type", "category"].into_iter().filter(kept).map(|name| (name, 8));
        let words = table.words.rows() > 0;
        let begin: &[(&str, usize)] = match recipe {
            RecipeName::Paper => &[("id", 32)],
            RecipeName::Best if words => &[("id", 64), (ITEM_WORDS, 64)],
            RecipeName::Best => &[("id", 64)],
        };
        begin.iter().copied().chain(others).map(dimension).collect()
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
fn attributes(
    wanted: &[AttributeDimension],
    table: &EntityTable,
    words: &EntityTable,
) -> anyhow::Result<Vec<AttributeConfig>> {
    let config = |AttributeDimension { name, dimension }: &AttributeDimension| {
        let rows = match table.attribute(name) {
            _ if name == "id" => table.rows(),
            Some(attribute) => attribute.rows as usize,
            None if name == ITEM_WORDS && table.words.rows() > 0 => words.rows(),
            None => {
                let words = (table.words.rows() > 0).then_some(ITEM_WORDS);
                let known = table.attributes.iter().map(|attribute| attribute.name.as_str()).chain(words);
                let known: Vec<&str> = known.collect();
                bail!("the data set has no attribute {name:?}; it has: id, {}", known.join(", "));
            }
        };
        Ok(AttributeConfig { name: name.clone(), rows: rows.max(1), dim: *dimension })
    };
    wanted.iter().map(config).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_need_a_name_and_a_dimension() {
        let parsed = AttributeDimension::from_str(" id : 32").unwrap();
        assert_eq!((parsed.name.as_str(), parsed.dimension), ("id", 32));
        for text in ["id", "id:0", ":8", "id:x"] {
            assert!(AttributeDimension::from_str(text).unwrap_err().contains("name:dimension"), "{text}");
        }
    }
}
