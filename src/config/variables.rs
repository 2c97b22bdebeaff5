//! Environment variables: a name for every flag, and those that no flag has.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, builder::BoolishValueParser};

use super::called::Called;

/// The command with an environment variable for every flag.
pub(super) fn named(command: Command) -> Command {
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

/// What is to be said of variables that are named like flags of the called subcommand, and that no flag has.
pub(super) fn flagless(
    all: &Command,
    Called { command: called, names, .. }: &Called<'_>,
    variables: impl Iterator<Item = OsString>,
) -> Vec<String> {
    // A subcommand that only leads to others has no flags whose names these could resemble.
    if names.is_empty() || called.has_subcommands() {
        return vec![];
    }
    let prefix = format!("SESREC_{}_", shout(&names.join("-")));
    let mut known = vec![];
    note_variables(all, &mut known);
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn variables_that_no_flag_has_are_found() {
        let command = named(Cli::command());
        let found = |words: &str, name: &str| {
            let words: Vec<String> = words.split(' ').map(Into::into).collect();
            flagless(&command, &Called::of(&command, &words), std::iter::once(OsString::from(name)))
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
        named(Cli::command()).get_subcommands().for_each(|command| names(command, &mut found));
        for name in ["SESREC_SERVE_LISTEN", "SESREC_IMPORT_KUAISAR_SKIP_BAD_ROWS", "SESREC_TRAIN_QUIET"] {
            assert!(found.iter().any(|other| other == name), "{name} is not among {found:?}");
        }
        let all = found.len();
        found.sort();
        found.dedup();
        assert_eq!(found.len(), all);
    }
}
