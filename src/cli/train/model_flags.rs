//! The model's architecture as flags.

use anyhow::bail;

use super::{RecipeName, size_flags::SizeFlags};
use crate::{
    data::Catalogue,
    model::{
        ModelConfig, ModelKind, Setting,
        sesrec::{CoattentionPadding, Threshold},
    },
    units::parse_count,
};

/// Which model, and how large.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// Which model: sesrec, or one of those that it is compared with. The bundle says which it is: evaluate, serve and
    /// the rest need no such flag.
    #[arg(long, value_enum, default_value_t)]
    model: ModelKind,
    #[command(flatten)]
    pub(super) sizes: SizeFlags,
    /// Attention heads; divides the width. [default: sesrec 4 for amazon, 2 for kuaishou; sasrec, query-seqrec 2]
    #[arg(long, value_parser = parse_count)]
    heads: Option<usize>,
    /// Blocks of the encoder. [default: sesrec 1; sasrec, fmlp, query-seqrec 2]
    #[arg(long)]
    blocks: Option<usize>,
    /// What is minimised: bce, over the clicked item and the sampled ones, as SESRec does it (for comparisons), or own,
    /// the publication's: the next item at every position against a sampled one (sasrec), one sampled item per click
    /// (fmlp), softmax over all items (stamp, gru4rec; query-seqrec wherever an item comes next). The other models have
    /// one loss only. [default: bce]
    #[arg(long, value_enum, value_name = "bce|own")]
    loss: Option<Loss>,
    /// Any other setting of the model, by its name in the bundle's config.json: --set coattention=aligned (sesrec),
    /// --set item_projection=false (sasrec, fmlp). May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<Setting>,
    /// sesrec, din, dien, iv4rec: sizes of the hidden layers of the prediction network. [default: 200,80]
    #[arg(long, value_delimiter = ',', value_parser = parse_count)]
    hidden: Vec<usize>,
    /// sesrec: whether co-attention sums over padding, as the release does; its scores then depend on the padded
    /// length. [default: exclude]
    #[arg(long, value_name = "include|exclude", value_parser = padding)]
    coattention_padding: Option<CoattentionPadding>,
    /// sesrec: the co-attention weight from which on an event is an interest that search and recommendation share:
    /// mean, median, or a number. [default: mean]
    #[arg(long, value_parser = threshold)]
    threshold: Option<Threshold>,
    /// sesrec: weight α of the query-item alignment loss. [default: 0.1; best 0.05]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Binary cross-entropy, as SESRec does it.
    #[default]
    Bce,
    /// The publication's.
    Own,
}

impl ModelFlags {
    /// Which model.
    pub(super) fn kind(&self) -> ModelKind {
        self.model
    }

    /// What is minimised.
    pub(super) fn loss(&self) -> Loss {
        self.loss.unwrap_or_default()
    }

    /// The model's configuration for the entities of a catalogue.
    pub(super) fn config(
        &self,
        catalogue: &Catalogue,
        recipe: RecipeName,
        dropout: f64,
    ) -> anyhow::Result<ModelConfig> {
        let (inputs, heads) = self.sizes.inputs(catalogue, recipe)?;
        let config = self.model.config(inputs, heads);
        // What the recipe is made by, too, has a flag for both.
        if let Some(setting) = self.set.iter().find(|setting| matches!(&*setting.name, "loss" | "dropout")) {
            bail!("--set {setting}: say --{}, which the recipe follows", setting.name);
        }
        let mut settings = self.sizes.settings(recipe, self.model);
        settings.extend(self.settings()?);
        if config.setting("dropout").is_some() {
            settings.push(Setting::new("dropout", dropout));
        }
        Ok(config.with_settings(&settings)?)
    }

    /// The flags that change single settings, then what `--set` adds.
    fn settings(&self) -> anyhow::Result<Vec<Setting>> {
        fn setting(name: &str, value: Option<impl serde::Serialize>) -> anyhow::Result<Option<Setting>> {
            let Some(value) = value else { return Ok(None) };
            Ok(Some(Setting::new(name, serde_json::to_value(value)?)))
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
    use anyhow::bail;
    use clap::Parser;

    use super::*;
    use crate::data::{Attribute, fixture};
    use crate::model::{AttributeConfig, sesrec::SesRecConfig};

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
        match command.model.config(&catalogue(), RecipeName::Paper, 0.1)? {
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
        let narrow = super::tests::config(&["--item-attributes", "id:16,other:4", "--item-width", "12"]).unwrap();
        let source = narrow.inputs.query_features.unwrap().search_source.unwrap();
        assert_eq!((narrow.inputs.item_attributes_dim(), narrow.hidden_dim, source.dim), (20, 12, 12));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = format!("{:#}", config(&["--item-attributes", "id:32,colour:8"]).unwrap_err());
        assert!(error.contains("--item-attributes: the data set has no attribute \"colour\""), "{error}");
        assert!(error.contains("type, category, other"), "{error}");
        let error = format!("{:#}", config(&["--heads", "5"]).unwrap_err());
        assert!(error.contains("32 is not divisible by num_heads 5"), "{error}");
        assert!(threshold("1.5").is_err());
        for flag in ["--heads", "--hidden", "--item-width", "--query-dimension", "--max-recommendations"] {
            let error = Command::try_parse_from(["train", flag, "0"]).err().unwrap().to_string();
            assert!(error.contains(flag) && error.contains("must be at least 1"), "{error}");
        }
        // Not every model reads searches.
        let command = Command::parse_from(["train", "--model", "sasrec", "--max-searches", "0"]);
        command.model.config(&catalogue(), RecipeName::Paper, 0.5).unwrap();
    }

    #[test]
    fn other_models_take_their_own_settings_only() {
        let config = |flags: &[&str]| {
            let command = Command::parse_from(["train"].iter().chain(flags));
            command.model.config(&catalogue(), RecipeName::Paper, 0.1)
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
