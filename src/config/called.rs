//! The subcommand that is called: its own flags are what files and variables set.

use clap::Command;

/// The subcommand that arguments call.
pub(super) struct Called<'a> {
    pub(super) command: &'a Command,
    /// From the outermost to its own.
    pub(super) names: Vec<&'a str>,
    /// Where its own arguments begin.
    pub(super) end: usize,
}

impl<'a> Called<'a> {
    pub(super) fn of(command: &'a Command, args: &'a [String]) -> Self {
        let mut called = Self { command, names: vec![], end: 0 };
        for (place, word) in args.iter().enumerate() {
            if let Some(subcommand) = called.command.find_subcommand(word) {
                (called.command, called.end) = (subcommand, place + 1);
                called.names.push(word);
            }
        }
        called
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
