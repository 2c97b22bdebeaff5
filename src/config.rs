//! Settings: flags over environment over file over defaults.
//!
//! Every flag of every subcommand is also an environment variable (`SESREC_SERVE_LISTEN` for `serve --listen`) and a
//! key of the TOML file given by `--config` (`[serve] listen = "…"`); flags without a value are 1, yes, on or true
//! there, or 0, no, off or false. Flags are declared once, in `cli`; the rest follows from that.
//!
//! A key of the file that is no flag is an error, a variable that is none only has a warning: the file is this
//! program's own, the environment is not. Kubernetes adds variables for every Service, `SESREC_SERVE_PORT` for one named
//! `sesrec-serve`, and what was set for a new version must not keep the old one from starting after a rollback.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, Command, CommandFactory, FromArgMatches,
    builder::BoolishValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::cli::Cli;

/// A configuration file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Not TOML. The line itself is not repeated: it may hold a token.
    #[error("{0}:{1}: {2}")]
    Parse(PathBuf, usize, String),
    /// A table or key that no flag corresponds to, or a value that no flag takes.
    #[error("{0}: {1}")]
    Key(PathBuf, String),
    /// A value of the file or of a variable that its flag doesn't take.
    #[error("{0}: {1}")]
    Value(String, String),
    /// The command line itself.
    #[error(transparent)]
    Usage(#[from] clap::Error),
}

/// Parses the process's arguments, environment and configuration file.
///
/// # Errors
/// Names the file with its line or key, or the variable that a refused value comes from. [`ConfigError::Usage`] is what
/// clap says of the command line; help that was asked for is one, too.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Cli, ConfigError> {
    let args: Vec<String> = args.into_iter().collect();
    let mut command = with_environment(Cli::command());
    let mut file = None;
    if let Some(path) = file_argument(&args).or_else(|| std::env::var_os("SESREC_CONFIG").map(PathBuf::from)) {
        let text = std::fs::read_to_string(&path).map_err(|error| ConfigError::Read(path.clone(), error))?;
        let settings = text.parse::<toml::Table>().map_err(|error| {
            let before = error.span().map_or(0, |span| text[..span.start].matches('\n').count());
            ConfigError::Parse(path.clone(), before + 1, error.message().to_owned())
        })?;
        command = with_file(command, "", &settings, &path)?;
        file = Some((path, settings));
    }
    let mut matches = command.try_get_matches_from_mut(&args);
    if let (Err(error), Some((_, settings))) = (&matches, &file)
        && error.kind() == ErrorKind::MissingRequiredArgument
    {
        // Defaults don't count where one flag stands for another that is required: those of the file are as if typed,
        // then.
        matches = command.try_get_matches_from_mut(typed_in(&command, settings, &args));
    }
    // Also where something is missing: it may be what was misspelt. Who asks for help is left alone.
    if !matches.as_ref().is_err_and(|error| !error.use_stderr()) {
        let variables = std::env::vars_os().map(|(name, _)| name);
        // There is no log yet.
        flagless(&command, &args, variables).iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    let matches = matches.map_err(|error| with_source(error, &command, &args, file.as_ref()))?;
    Ok(Cli::from_arg_matches(&matches)?)
}

/// Names where a value comes from that is refused: clap takes it for the command line's, whoever set it.
fn with_source(
    error: clap::Error,
    command: &Command,
    args: &[String],
    file: Option<&(PathBuf, toml::Table)>,
) -> ConfigError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (Some(arg), Some(value)) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue)) else {
        return error.into();
    };
    let flag = arg.trim_start_matches("--").split(' ').next().unwrap_or_default();
    let Called { command: called, names, .. } = Called::of(command, args);
    let typed = args.iter().any(|arg| arg == value || arg.split_once('=').is_some_and(|(_, text)| text == value));
    let variable = || {
        let name = called.get_arguments().find(|arg| arg.get_long() == Some(flag))?.get_env()?;
        (std::env::var_os(name)? == value).then(|| name.to_string_lossy().into_owned())
    };
    let key = || {
        let (path, settings) = file?;
        let table = table_of(settings, &names)?;
        let is_value = |set: &toml::Value| texts(set).is_some_and(|texts| texts.iter().any(|text| text == value));
        let (key, _) = table.iter().find(|(key, set)| key.replace('_', "-") == flag && is_value(set))?;
        Some(format!("{}: [{}] {key}", path.display(), names.join(".")))
    };
    let source = if typed { None } else { variable().or_else(key) };
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

/// The subcommand that arguments call.
struct Called<'a> {
    command: &'a Command,
    names: Vec<&'a str>,
    /// Where its own arguments begin.
    end: usize,
}

impl<'a> Called<'a> {
    fn of(command: &'a Command, args: &'a [String]) -> Self {
        let mut called = Self { command, names: vec![], end: 0 };
        for (place, word) in args.iter().enumerate() {
            if let Some(subcommand) = called.command.find_subcommand(word) {
                (called.command, called.end) = (subcommand, place + 1);
                called.names.push(word);
            }
        }
        called
    }
}

/// What is to be said of variables that are named like flags of the called subcommand, and that no flag has.
fn flagless(command: &Command, args: &[String], variables: impl Iterator<Item = OsString>) -> Vec<String> {
    let Called { command: called, names, .. } = Called::of(command, args);
    // A subcommand that only leads to others has no flags whose names these could resemble.
    if names.is_empty() || called.has_subcommands() {
        return vec![];
    }
    let prefix = format!("SESREC_{}_", shout(&names.join("-")));
    let mut known = vec![];
    note_variables(command, &mut known);
    let is_flagless =
        |name: &String| name.starts_with(&prefix) && !known.contains(&name.as_str()) && !is_service_link(name);
    let mut found: Vec<String> = variables.filter_map(|name| name.into_string().ok()).filter(is_flagless).collect();
    found.sort();
    let warning = |name: String| format!("{name} does nothing: `sesrec {}` has no such flag", names.join(" "));
    found.into_iter().map(warning).collect()
}

/// The variables of all flags.
fn note_variables<'a>(command: &'a Command, known: &mut Vec<&'a str>) {
    known.extend(command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()));
    for subcommand in command.get_subcommands() {
        note_variables(subcommand, known);
    }
}

/// Whether Kubernetes sets such variables for a Service: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`,
/// `NAME_SERVICE_PORT_GRPC`, `NAME_PORT`, `NAME_PORT_50051_TCP`, `NAME_PORT_50051_TCP_ADDR` and so on.
fn is_service_link(name: &str) -> bool {
    let is_of_a_port = |(_, rest): (&str, &str)| rest.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.split_once("_PORT_").is_some_and(is_of_a_port)
}

/// A subcommand's table in the file.
fn table_of<'a>(settings: &'a toml::Table, names: &[&str]) -> Option<&'a toml::Table> {
    names.iter().try_fold(settings, |table, name| table.get(*name)?.as_table())
}

/// Names an environment variable for every flag.
fn with_environment(command: Command) -> Command {
    command.mut_subcommands(|subcommand| environment_of(subcommand, "SESREC"))
}

fn environment_of(command: Command, prefix: &str) -> Command {
    let prefix = format!("{prefix}_{}", shout(command.get_name()));
    let flags = prefix.clone();
    command
        .mut_args(move |arg| {
            if arg.get_long().is_some_and(|long| !matches!(long, "help" | "version" | "config")) {
                let name = format!("{flags}_{}", shout(arg.get_long().unwrap_or_default()));
                boolish(arg).env(name).hide_env_values(true)
            } else {
                arg
            }
        })
        .mut_subcommands(move |subcommand| environment_of(subcommand, &prefix))
}

/// Flags without a value have one in the environment and in files: 1, yes and on are as good as true there.
fn boolish(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    }
}

fn shout(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// `--config FILE` or `--config=FILE`, wherever it stands, but for `convert`'s own `--config`, which is a model's.
fn file_argument(args: &[String]) -> Option<PathBuf> {
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        match arg.strip_prefix("--config=") {
            Some(path) => return Some(path.into()),
            None if arg == "--config" => return rest.next().map(PathBuf::from),
            None if arg == "convert" => return None,
            None if arg.starts_with('-') => {}
            // Any other subcommand.
            None => break,
        }
    }
    let position = rest.clone().position(|arg| arg == "--config" || arg.starts_with("--config="))?;
    match rest.nth(position)?.strip_prefix("--config=") {
        Some(path) => Some(path.into()),
        None => rest.next().map(PathBuf::from),
    }
}

/// The arguments with the file's values for flags that neither they nor the environment have.
fn typed_in(command: &Command, settings: &toml::Table, args: &[String]) -> Vec<String> {
    let Called { command: called, names, end } = Called::of(command, args);
    let is_given = |arg: &Arg| {
        let long = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
        let named = |word: &String| match word.strip_prefix(&long) {
            Some(rest) => rest.is_empty() || rest.starts_with('='),
            None => {
                !word.starts_with("--") && arg.get_short().is_some_and(|short| word.starts_with(&format!("-{short}")))
            }
        };
        args.iter().any(named) || arg.get_env().is_some_and(|name| std::env::var_os(name).is_some())
    };
    let mut typed = args.to_vec();
    for (key, value) in table_of(settings, &names).into_iter().flatten() {
        let flag = key.replace('_', "-");
        let arg = called.get_arguments().find(|arg| arg.get_long() == Some(&*flag));
        if arg.is_some_and(|arg| arg.get_action().takes_values() && !is_given(arg)) {
            let values = texts(value).unwrap_or_default().into_iter().map(|text| format!("--{flag}={text}"));
            typed.splice(end..end, values);
        }
    }
    typed
}

/// Turns the file's values into defaults, which flags and environment override. `above` is the path to `command` in the
/// file.
fn with_file(mut command: Command, above: &str, settings: &toml::Table, path: &Path) -> Result<Command, ConfigError> {
    for (name, value) in settings {
        let key_error = |message: String| ConfigError::Key(path.to_owned(), message);
        let here = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        if command.find_subcommand(name).is_none() {
            return Err(key_error(format!("[{here}]: there is no such subcommand")));
        }
        let toml::Value::Table(table) = value else {
            return Err(key_error(format!("{here}: must be a table, as in [{here}]")));
        };
        for (key, value) in table {
            let subcommand = command.find_subcommand(name).expect("checked above");
            if let (toml::Value::Table(_), Some(_)) = (value, subcommand.find_subcommand(key)) {
                let nested = toml::Table::from_iter([(key.clone(), value.clone())]);
                let mut inner = Ok(Command::new(""));
                command = command.mut_subcommand(name, |subcommand| {
                    match with_file(subcommand.clone(), &here, &nested, path) {
                        Ok(done) => done,
                        Err(error) => {
                            inner = Err(error);
                            subcommand
                        }
                    }
                });
                inner?;
                continue;
            }
            let flag = key.replace('_', "-");
            let arg = subcommand.get_arguments().find(|arg| arg.get_long() == Some(&*flag));
            let Some(id) = arg.map(|arg| arg.get_id().clone()) else {
                return Err(key_error(format!(
                    "[{here}] {key}: `sesrec {}` has no flag --{flag}",
                    here.replace('.', " ")
                )));
            };
            let many = arg.is_some_and(takes_many);
            let values = texts(value).ok_or_else(|| key_error(format!("[{here}] {key}: tables are no values here")))?;
            if values.len() != 1 && !many {
                return Err(key_error(format!("[{here}] {key}: is one value, not a list of {}", values.len())));
            }
            command = command.mut_subcommand(name, |subcommand| {
                subcommand.mut_arg(id, |arg| arg.default_values(values).required(false))
            });
        }
    }
    Ok(command)
}

fn takes_many(arg: &Arg) -> bool {
    let several = arg.get_num_args().is_some_and(|number| number.max_values() > 1);
    several || arg.get_value_delimiter().is_some() || matches!(arg.get_action(), ArgAction::Append)
}

fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(flag) => Some(vec![flag.to_string()]),
        toml::Value::Datetime(time) => Some(vec![time.to_string()]),
        toml::Value::Array(values) => Some(values.iter().map(texts).collect::<Option<Vec<_>>>()?.concat()),
        toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(words: &str) -> Option<String> {
        let words: Vec<String> = words.split(' ').map(Into::into).collect();
        file_argument(&words).map(|path| path.display().to_string())
    }

    #[test]
    fn the_file_is_found_wherever_it_stands() {
        for words in [
            "sesrec --config a.toml serve --model m",
            "sesrec --config=a.toml serve",
            "sesrec serve --config a.toml --model m",
            "sesrec serve --model m --config=a.toml",
            "sesrec import kuaisar logs --config a.toml",
            "sesrec --config a.toml convert --config model.json",
        ] {
            assert_eq!(file(words).as_deref(), Some("a.toml"), "{words}");
        }
        for words in ["sesrec", "sesrec serve --model m", "sesrec convert --config model.json", "sesrec serve --config"]
        {
            assert_eq!(file(words), None, "{words}");
        }
    }

    #[test]
    fn variables_that_no_flag_has_are_found() {
        let command = with_environment(Cli::command());
        let found = |words: &str, name: &str| {
            let words: Vec<String> = words.split(' ').map(Into::into).collect();
            flagless(&command, &words, std::iter::once(OsString::from(name)))
        };
        let told = |name: &str, path: &str| vec![format!("{name} does nothing: `sesrec {path}` has no such flag")];
        for (words, name, path) in [
            ("sesrec serve --model m", "SESREC_SERVE_USER_CACHE_BYTE", "serve"),
            ("sesrec serve", "SESREC_SERVE_CONFIG", "serve"),
            ("sesrec serve", "SESREC_SERVE_PORT_NUMBER", "serve"),
            ("sesrec --config a.toml import kuaisar logs", "SESREC_IMPORT_KUAISAR_SKIP", "import kuaisar"),
            ("sesrec convert --config model.json", "SESREC_CONVERT_CONFIGS", "convert"),
        ] {
            assert_eq!(found(words, name), told(name, path), "{words}");
        }
        for (words, name) in [
            ("sesrec serve", "SESREC_SERVE_USER_CACHE_BYTES"),
            ("sesrec serve", "SESREC_CONFIG"),
            ("sesrec serve", "SESREC_TRAIN_EPOCH"),
            ("sesrec serve", "SESREC_SERVER"),
            ("sesrec convert", "SESREC_CONVERT_CONFIG"),
            ("sesrec health", "SESREC_HEALTH_CA"),
            ("sesrec bench", "SESREC_BENCH_ONCE"),
            ("sesrec bench local", "SESREC_BENCH_ONCE"),
            ("sesrec", "SESREC_KILLS"),
            // Of Services named sesrec-serve and sesrec-serve-canary.
            ("sesrec serve", "SESREC_SERVE_SERVICE_HOST"),
            ("sesrec serve", "SESREC_SERVE_SERVICE_PORT"),
            ("sesrec serve", "SESREC_SERVE_SERVICE_PORT_GRPC"),
            ("sesrec serve", "SESREC_SERVE_PORT"),
            ("sesrec serve", "SESREC_SERVE_PORT_50051_TCP"),
            ("sesrec serve", "SESREC_SERVE_PORT_50051_TCP_PROTO"),
            ("sesrec serve", "SESREC_SERVE_CANARY_SERVICE_HOST"),
            ("sesrec serve", "SESREC_SERVE_CANARY_PORT_50051_TCP_ADDR"),
        ] {
            assert!(found(words, name).is_empty(), "{words}: {name}");
        }
    }

    #[test]
    fn every_flag_is_a_variable_and_has_one_name() {
        fn names(command: &Command, found: &mut Vec<String>) {
            let flags = command
                .get_arguments()
                .filter(|arg| arg.get_long().is_some_and(|long| !matches!(long, "help" | "version" | "config")));
            for flag in flags {
                let name = flag.get_env().unwrap_or_else(|| panic!("{flag} has no variable"));
                found.push(name.to_string_lossy().into_owned());
            }
            command.get_subcommands().for_each(|subcommand| names(subcommand, found));
        }
        let mut found = vec![];
        with_environment(Cli::command()).get_subcommands().for_each(|command| names(command, &mut found));
        for name in ["SESREC_SERVE_LISTEN", "SESREC_IMPORT_KUAISAR_SKIP_BAD_ROWS", "SESREC_TRAIN_QUIET"] {
            assert!(found.iter().any(|other| other == name), "{name} is not among {found:?}");
        }
        let all = found.len();
        found.sort();
        found.dedup();
        assert_eq!(found.len(), all);
    }
}
