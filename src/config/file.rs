//! The configuration file: read, checked, and brought to the called subcommand.

use std::path::PathBuf;

use clap::{
    Arg, ArgAction, Command, Id,
    builder::{BoolishValueParser, TypedValueParser},
};

use super::{ConfigError, above::Above, called::Called};

/// A file that has been read.
pub(super) struct File {
    path: PathBuf,
    settings: toml::Table,
}

impl File {
    /// Reads a file and checks its keys, those of all subcommands.
    pub(super) fn read(path: PathBuf, command: &Command) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(&path).map_err(|error| ConfigError::Read(path.clone(), error))?;
        let settings = text.parse::<toml::Table>().map_err(|error| {
            let before = error.span().map_or(0, |span| text[..span.start].matches('\n').count());
            ConfigError::Parse(path.clone(), before + 1, error.message().to_owned())
        })?;
        check(command, "", &settings).map_err(|message| ConfigError::Key(path.clone(), message))?;
        Ok(Self { path, settings })
    }

    /// The called subcommand's flags that it sets: those that are neither set above it nor excluded by what is.
    pub(super) fn left_by(&self, above: &Above, called: &Called<'_>) -> Result<Vec<Left>, ConfigError> {
        let mut left: Vec<Left> = vec![];
        for (key, arg, value) in self.flags(called).filter(|(_, arg, _)| above.leaves(called, arg.get_id())) {
            let values = texts(value).unwrap_or_default();
            let is_off = !arg.get_action().takes_values() && values.iter().all(|text| is_no(text));
            let excludes = |other: &&Left| !other.is_off && called.excluder(arg.get_id(), [&other.id]).is_some();
            if let Some(Left { key: other, .. }) = left.iter().find(excludes).filter(|_| !is_off) {
                let message = format!("[{}] {key}: cannot be used with {other}", called.names.join("."));
                return Err(ConfigError::Key(self.path.clone(), message));
            }
            left.push(Left { id: arg.get_id().clone(), key: key.clone(), values, is_off });
        }
        Ok(left)
    }

    /// What is to be said of keys of the called subcommand that don't count, since something above excludes them.
    pub(super) fn set_aside(&self, above: &Above, called: &Called<'_>) -> Vec<String> {
        let aside = self.flags(called).filter(|(_, arg, _)| {
            let id = arg.get_id();
            !above.sets(id) && !above.leaves(called, id)
        });
        aside.map(|(key, ..)| format!("{} does not count beside what is set", self.place(called, key))).collect()
    }

    /// Names a key of the called subcommand: of this flag, with such a value.
    pub(super) fn key(&self, called: &Called<'_>, flag: &Arg, is_it: impl Fn(&toml::Value) -> bool) -> Option<String> {
        let mut flags = self.flags(called);
        let (key, ..) = flags.find(|(_, arg, value)| arg.get_id() == flag.get_id() && is_it(value))?;
        Some(self.place(called, key))
    }

    fn place(&self, called: &Called<'_>, key: &str) -> String {
        format!("{}: [{}] {key}", self.path.display(), called.names.join("."))
    }

    /// The called subcommand's flags that it names, whether they count or not.
    fn flags<'b>(&'b self, called: &'b Called<'_>) -> impl Iterator<Item = (&'b String, &'b Arg, &'b toml::Value)> {
        let table = called.names.iter().try_fold(&self.settings, |table, name| table.get(*name)?.as_table());
        // What is no flag is a table of a subcommand.
        table.into_iter().flatten().filter_map(|(key, value)| Some((key, flag(called.command, key)?, value)))
    }
}

/// The flag of a key: `max_delay` and `max-delay` are both `--max-delay`'s.
fn flag<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let long = key.replace('_', "-");
    command.get_arguments().find(|arg| arg.get_long() == Some(&*long))
}

/// A flag that the file sets.
pub(super) struct Left {
    id: Id,
    key: String,
    values: Vec<String>,
    /// One without a value, set to no.
    is_off: bool,
}

/// What sets a flag without a value to no.
fn is_no(text: &str) -> bool {
    let command = Command::new("");
    BoolishValueParser::new().parse_ref(&command, None, text.as_ref()).is_ok_and(|yes| !yes)
}

/// `--config FILE` or `--config=FILE`, wherever it stands, but for `convert`'s own `--config`, which is a model's.
pub(super) fn argument(args: &[String]) -> Option<PathBuf> {
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

/// The called subcommand with the file's values as defaults.
pub(super) fn with_defaults(called: Command, left: &[Left]) -> Command {
    left.iter().fold(called, |called, Left { id, values, .. }| {
        called.mut_arg(id, |arg| arg.default_values(values.clone()).required(false))
    })
}

/// The arguments with the file's values.
pub(super) fn typed_in(args: &[String], Called { command, end, .. }: &Called<'_>, left: &[Left]) -> Vec<String> {
    let mut typed = args.to_vec();
    for Left { key, values, .. } in left {
        let arg = flag(command, key).filter(|arg| arg.get_action().takes_values());
        if let Some(long) = arg.and_then(Arg::get_long) {
            typed.splice(end..end, values.iter().map(|text| format!("--{long}={text}")));
        }
    }
    typed
}

/// Whether all keys are flags, whose values they could have. `above` is the path to `command` in the file.
fn check(command: &Command, above: &str, settings: &toml::Table) -> Result<(), String> {
    for (name, value) in settings {
        let here = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        let Some(subcommand) = command.find_subcommand(name) else {
            return Err(format!("[{here}]: there is no such subcommand"));
        };
        let toml::Value::Table(table) = value else {
            return Err(format!("{here}: must be a table, as in [{here}]"));
        };
        for (key, value) in table {
            if let (toml::Value::Table(_), Some(_)) = (value, subcommand.find_subcommand(key)) {
                check(subcommand, &here, &toml::Table::from_iter([(key.clone(), value.clone())]))?;
                continue;
            }
            let Some(arg) = flag(subcommand, key) else {
                let (command, flag) = (here.replace('.', " "), key.replace('_', "-"));
                return Err(format!("[{here}] {key}: `sesrec {command}` has no flag --{flag}"));
            };
            let values = texts(value).ok_or_else(|| format!("[{here}] {key}: tables are no values here"))?;
            if values.len() != 1 && !takes_many(arg) {
                return Err(format!("[{here}] {key}: is one value, not a list of {}", values.len()));
            }
        }
    }
    Ok(())
}

fn takes_many(arg: &Arg) -> bool {
    let several = arg.get_num_args().is_some_and(|number| number.max_values() > 1);
    several || arg.get_value_delimiter().is_some() || matches!(arg.get_action(), ArgAction::Append)
}

/// A value as it would be typed, or several.
pub(super) fn texts(value: &toml::Value) -> Option<Vec<String>> {
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
        argument(&words).map(|path| path.display().to_string())
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
}
