//! Logs: to stderr, so that stdout stays the commands' own; as text for people or as JSON for collectors.

use std::{io::IsTerminal, sync::OnceLock};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

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
    /// What is logged, as tracing directives: `info`, or `info,sesrec=debug`. User content appears at debug only. The
    /// embedded store's engine and the trace exporter are quieted to warnings. Changeable while running: `PUT
    /// /loglevel` on the metrics port, from the server's own machine.
    #[arg(long, default_value = "info,fjall=warn,lsm_tree=warn,opentelemetry=warn", value_name = "FILTER")]
    pub log: String,
}

/// Logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error("log filter {0:?}: {1}; write a level (info) or directives (info,sesrec=debug)")]
    Filter(String, tracing_subscriber::filter::ParseError),
    /// Nothing logs whose filter could be changed.
    #[error("this process has no log of its own")]
    NotStarted,
    /// A word without a level.
    #[error(
        "log filter: {0:?} is no level (error, warn, info, debug, trace, off); a part of the program's is PART=LEVEL"
    )]
    NoLevel(String),
    /// Something logs already.
    #[error("logging is set up already: {0}")]
    Twice(Box<dyn std::error::Error + Send + Sync>),
}

/// The filter of the process's log, once there is one: the log is the process's, and so is this.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Lines that wait for whoever reads standard error. Further ones are dropped, and counted: a reader that stands still
/// must hold up nobody who is served.
const WAITING_LINES: usize = 16_384;

/// Counts the lines that were dropped, once there is a log.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// The log of a server. Dropped, it writes what waits still, if that is read within a second or so.
#[must_use = "without it nothing is written"]
pub struct Log(#[expect(dead_code, reason = "kept for what it does when it is dropped")] WorkerGuard);

/// Starts logging for as long as what it returns lives, by a thread of its own.
///
/// # Errors
/// Names the filter, or the word of it that is no level. Fails, too, if something logs already.
pub fn init(options: &LogOptions) -> Result<Log, LoggingError> {
    let (filter, handle) = reload::Layer::new(parse(&options.log)?);
    let builder = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).thread_name("log");
    let (writer, guard) = builder.finish(std::io::stderr());
    let dropped = writer.error_counter();
    let lines = fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match options.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(lines).try_init().map_err(|error| LoggingError::Twice(error.into()))?;
    let _ = FILTER.set(handle);
    let _ = DROPPED.set(dropped);
    Ok(Log(guard))
}

/// Starts logging of warnings for the rest of the process: for commands whose output is not a log.
///
/// # Errors
/// If something logs already.
pub fn init_warnings() -> Result<(), LoggingError> {
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = lines.without_time().with_target(false).with_filter(parse("warn,opentelemetry=off")?);
    tracing_subscriber::registry().with(lines).try_init().map_err(|error| LoggingError::Twice(error.into()))
}

fn parse(directives: &str) -> Result<EnvFilter, LoggingError> {
    // A word that is no level is the name of a part of the program, whether there is one or not: a slip of the pen
    // would switch everything off.
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    if let Some(word) = directives.split(',').map(str::trim).find(|word| !word.contains('=') && !is_level(word)) {
        return Err(LoggingError::NoLevel(word.into()));
    }
    EnvFilter::try_new(directives).map_err(|error| LoggingError::Filter(directives.into(), error))
}

/// How many lines were dropped since [`init`].
pub(super) fn dropped_lines() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
}

/// What is logged now, as directives; `None` before [`init`].
pub fn directives() -> Option<String> {
    FILTER.get()?.with_current(ToString::to_string).ok()
}

/// Logs by other directives from now on.
///
/// # Errors
/// Names what is no filter, as [`init`] does. Fails, too, if [`init`] has not started the log.
pub fn change(directives: &str) -> Result<(), LoggingError> {
    let filter = parse(directives.trim())?;
    let handle = FILTER.get().ok_or(LoggingError::NotStarted)?;
    // By the filter that has been, and at a level that any but `off` lets through: whoever reads the log has to know
    // why it changes.
    tracing::error!(directives = directives.trim(), "the log level is changed");
    handle.reload(filter).map_err(|_| LoggingError::NotStarted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let options = LogOptions { log_format: LogFormat::Text, log: "info,=??=".into() };
        let error = init(&options).err().expect("no filter").to_string();
        assert!(error.contains("info,=??="), "{error}");
        for slip in ["dbug", "", "info,inof", "foo bar"] {
            assert!(parse(slip).unwrap_err().to_string().contains("is no level"), "{slip}");
        }
        for fine in ["off", "debug", "INFO", "info,fjall=warn", "sesrec::service=debug,warn", "sesrec[rank]=trace"] {
            parse(fine).unwrap();
        }
    }
}
