//! What is trained, but for the seed.

use serde_json::Value;

use super::ExperimentError;
use crate::{
    model::{InputConfig, ModelConfig, ModelKind, Setting},
    train::Recipe,
};

/// A model and how it is trained; the seed is each run's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// What tables call it.
    pub name: String,
    /// What sets it apart from the study's others: columns of the CSV file.
    pub settings: Vec<(String, String)>,
    /// Which model.
    pub model: ModelConfig,
    /// How it is trained.
    pub recipe: Recipe,
}

/// Where all variants of a study begin.
pub struct Base<'a> {
    /// What models embed.
    pub inputs: InputConfig,
    /// Attention heads, where a model leaves the choice.
    pub heads: usize,
    /// Settings that models of a kind have from the beginning.
    pub settings: &'a dyn Fn(ModelKind) -> Vec<Setting>,
    /// The recipe for a model.
    pub recipe: &'a dyn Fn(ModelKind, &ModelConfig) -> Recipe,
}

/// What a variant has of its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Settings of `config.json`.
    pub model: Vec<Setting>,
    /// Settings of the recipe.
    pub recipe: Vec<Setting>,
}

impl Base<'_> {
    /// A model with changes.
    ///
    /// # Errors
    /// Names the setting that there is none of, or whose value can't be.
    pub fn variant(&self, name: &str, kind: ModelKind, changes: &Changes) -> Result<Variant, ExperimentError> {
        let failed = |source| ExperimentError::Variant { variant: name.to_owned(), source };
        let config = kind.config(self.inputs.clone(), self.heads);
        let common = (self.settings)(kind).into_iter().filter(|setting| config.setting(&setting.name).is_some());
        let settings: Vec<Setting> = common.chain(changes.model.iter().cloned()).collect();
        if settings.iter().any(|setting| setting.name == "dropout") {
            let message = "the model's dropout is its recipe's: it belongs to [recipe], or --dropout sets it";
            return Err(ExperimentError::Declaration(format!("{name}: {message}")));
        }
        let config = config.with_settings(&settings).map_err(failed)?;
        let recipe = changes.recipe.iter().try_fold((self.recipe)(kind, &config), |recipe, setting| {
            with_setting(&recipe, setting)
                .map_err(|message| ExperimentError::Declaration(format!("{name}: recipe: {message}")))
        })?;
        recipe.check().map_err(|error| ExperimentError::Declaration(format!("{name}: recipe: {error}")))?;
        let dropout = config.setting("dropout").map(|_| Setting::new("dropout", recipe.dropout));
        let model = config.with_settings(dropout.as_slice()).map_err(failed)?;
        let settings = changes.model.iter().chain(&changes.recipe);
        let settings = settings.map(|setting| (setting.name.clone(), plain(&setting.value))).collect();
        Ok(Variant { name: name.to_owned(), settings, model, recipe })
    }
}

/// A recipe with a setting changed.
fn with_setting(recipe: &Recipe, setting: &Setting) -> Result<Recipe, String> {
    let mut json = serde_json::to_value(recipe).map_err(|error| error.to_string())?;
    let settings = json.as_object_mut().expect("a recipe is an object");
    match settings.get_mut(&setting.name) {
        Some(_) if setting.name == "seed" => return Err("seed: the seeds are a list of their own".into()),
        Some(value) => *value = setting.value.clone(),
        None => {
            let names: Vec<&str> = settings.keys().map(String::as_str).filter(|&name| name != "seed").collect();
            return Err(format!("there is no setting {:?}; there are: {}", setting.name, names.join(", ")));
        }
    }
    serde_json::from_value(json).map_err(|error| format!("{setting}: {error}"))
}

/// A setting's value as people write it: a text without quotes, anything else as JSON.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A number as JSON has it, for settings whose other values are texts.
pub(super) fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}
