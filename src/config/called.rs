//! The subcommand that is called: its own flags are what files and variables set.

use clap::{Arg, Command};

/// The subcommand that arguments call.
pub(super) struct Called<'a> {
    pub(super) command: &'a Command,
    /// From the outermost to its own.
    pub(super) names: Vec<&'a str>,
    /// Where its own arguments begin.
    pub(super) end: usize,
    /// The same command as clap completes it: groups that flags name themselves are there only then, but it can't be
    /// changed any more.
    pub(super) built: Command,
}

impl<'a> Called<'a> {
    pub(super) fn of(whole: &'a Command, args: &'a [String]) -> Self {
        let (mut command, mut names, mut end) = (whole, vec![], 0);
        let mut words = args.iter().enumerate();
        while let Some((place, word)) = words.next() {
            if let Some(subcommand) = command.find_subcommand(word) {
                (command, end) = (subcommand, place + 1);
                names.push(subcommand.get_name());
            } else if word == "--config" {
                // A file may be named like a subcommand.
                words.next();
            }
        }
        let mut built = command.clone();
        built.build();
        Self { command, names, end, built }
    }

    /// Its flag that clap shows as `--name <VALUE>`.
    pub(super) fn shown_as(&self, text: &str) -> Option<&Arg> {
        let long = text.trim_start_matches("--").split([' ', '=']).next();
        self.command.get_arguments().find(|arg| arg.get_long().is_some() && arg.get_long() == long)
    }

    /// The whole command, with this subcommand changed.
    pub(super) fn changed(&self, whole: &Command, change: &dyn Fn(Command) -> Command) -> Command {
        fn within(command: Command, names: &[&str], change: &dyn Fn(Command) -> Command) -> Command {
            match names {
                [] => change(command),
                [name, rest @ ..] => command.mut_subcommand(name, |subcommand| within(subcommand, rest, change)),
            }
        }
        within(whole.clone(), &self.names, change)
    }
}
