//! Settings of a model by their names in `config.json`.

use std::{fmt, str::FromStr};

use serde_json::Value;

use super::{ModelConfig, ModelError};

/// `name=value`; the value is JSON, or else a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// As in `config.json`; "." goes a level down, as in `loss_weights.align`.
    pub name: String,
    /// Its value there.
    pub value: Value,
}

impl Setting {
    /// A setting's name and value.
    pub fn new(name: &str, value: impl Into<Value>) -> Self {
        Self { name: name.to_owned(), value: value.into() }
    }

    fn pointer(name: &str) -> String {
        format!("/{}", name.replace('.', "/"))
    }
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form name=value"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok(Self { name: name.trim().to_owned(), value })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::String(text) => write!(f, "{}={text}", self.name),
            value => write!(f, "{}={value}", self.name),
        }
    }
}

impl ModelConfig {
    /// The value of a setting; nothing if the model has none of that name.
    pub fn setting(&self, name: &str) -> Option<Value> {
        serde_json::to_value(self).ok()?.pointer(&Setting::pointer(name)).cloned()
    }

    /// The configuration with some settings changed.
    ///
    /// # Errors
    /// Names the setting that the model doesn't have or whose value it can't be; then as [`Self::validate`].
    pub fn with_settings(&self, settings: &[Setting]) -> Result<Self, ModelError> {
        let mut config = self.clone();
        for (n, setting) in settings.iter().enumerate() {
            // The last of a name counts. The others are not tried: a list that one of them empties would not be there
            // for it.
            if !settings[n + 1..].iter().any(|later| later.name == setting.name) {
                config = config.with_setting(setting)?;
            }
        }
        config.validate()?;
        Ok(config)
    }

    fn with_setting(&self, setting: &Setting) -> Result<Self, ModelError> {
        let mut json = serde_json::to_value(self).map_err(|error| ModelError::Config(error.to_string()))?;
        match json.pointer_mut(&Setting::pointer(&setting.name)) {
            Some(value) => *value = setting.value.clone(),
            None => {
                let names = json.as_object().map(|object| object.keys().map(String::as_str).collect::<Vec<_>>());
                let names = names.unwrap_or_default().join(", ");
                let message = format!("{} has no setting {:?}; it has: {names}", self.kind(), setting.name);
                return Err(ModelError::Config(message));
            }
        }
        serde_json::from_value(json).map_err(|error| ModelError::Config(format!("setting {:?}: {error}", setting.name)))
    }
}
