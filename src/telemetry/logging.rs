//! Logs: to stderr, so that stdout stays the commands' own; as text for people or as JSON for collectors.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Logging options of a command.
#[derive(Debug, Clone, clap::Args)]
pub struct LogOptions {
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What is logged, as tracing directives: `info`, or `info,sesrec=debug`. User content appears at debug only.
    /// The embedded store's engine is quieted to warnings.
    #[arg(long, default_value = "info,fjall=warn,lsm_tree=warn", value_name = "FILTER")]
    pub log: String,
}

/// Logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error("--log {0:?}: {1}; write a level (info) or directives (info,sesrec=debug)")]
    Filter(String, tracing_subscriber::filter::ParseError),
    /// Something logs already.
    #[error("logging is set up already: {0}")]
    Twice(Box<dyn std::error::Error + Send + Sync>),
}

/// Starts logging for the rest of the process.
pub fn init(options: &LogOptions) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(&options.log).map_err(|error| LoggingError::Filter(options.log.clone(), error))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(LoggingError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let options = LogOptions { log_format: LogFormat::Text, log: "info,=??=".into() };
        let error = init(&options).unwrap_err().to_string();
        assert!(error.contains("info,=??="), "{error}");
    }
}
