//! Who set what is refused: clap takes all for the command line's.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{
    ConfigError,
    above::Above,
    called::Called,
    file::{File, texts},
};

/// Names the variable or the key that a refused value comes from, or flags that exclude each other.
pub(super) fn with_source(
    error: clap::Error,
    called: &Called<'_>,
    args: &[String],
    above: &Above,
    file: Option<&File>,
) -> ConfigError {
    let source = if error.kind() == ErrorKind::ArgumentConflict {
        of_a_conflict(&error, called, above, file)
    } else {
        of_a_value(&error, called, args, file)
    };
    match source {
        // The first line says it all; what follows is about the command line.
        Some(source) => {
            let message = error.to_string();
            let message = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
            ConfigError::Value(source, message.to_owned())
        }
        None => error.into(),
    }
}

/// `None`: the command line's.
fn of_a_value(error: &clap::Error, called: &Called<'_>, args: &[String], file: Option<&File>) -> Option<String> {
    let flag = called.shown_as(texts_of(error, ContextKind::InvalidArg).first()?)?;
    let value = *texts_of(error, ContextKind::InvalidValue).first()?;
    if args.iter().any(|arg| arg == value || arg.split_once('=').is_some_and(|(_, text)| text == value)) {
        return None;
    }
    let variable = || {
        let name = flag.get_env()?;
        (std::env::var_os(name)? == value).then(|| name.to_string_lossy().into_owned())
    };
    let is_value = |set: &toml::Value| texts(set).is_some_and(|texts| texts.iter().any(|text| text == value));
    variable().or_else(|| file?.key(called, flag, is_value))
}

/// All that didn't type what they set.
fn of_a_conflict(error: &clap::Error, called: &Called<'_>, above: &Above, file: Option<&File>) -> Option<String> {
    let source = |text: &str| {
        let flag = called.shown_as(text)?;
        if above.is_typed(flag.get_id()) {
            return None;
        }
        let variable = flag.get_env().filter(|_| above.is_variable(flag.get_id()));
        variable.map(|name| name.to_string_lossy().into_owned()).or_else(|| file?.key(called, flag, |_| true))
    };
    let flags = [ContextKind::InvalidArg, ContextKind::PriorArg].into_iter().flat_map(|kind| texts_of(error, kind));
    let sources: Vec<String> = flags.filter_map(source).collect();
    (!sources.is_empty()).then(|| sources.join(" and "))
}

fn texts_of(error: &clap::Error, kind: ContextKind) -> Vec<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text],
        Some(ContextValue::Strings(texts)) => texts.iter().map(String::as_str).collect(),
        _ => vec![],
    }
}
