//! What is set above the file, by the command line and by variables, and what that excludes.

use clap::{ArgAction, ArgGroup, Command, Id, builder::Resettable, parser::ValueSource};

use super::called::Called;

/// Which of the called subcommand's flags are set above the file.
#[derive(Default)]
pub(super) struct Above {
    typed: Vec<Id>,
    /// By variables.
    variables: Vec<Id>,
    /// By variables, to no.
    off: Vec<Id>,
    /// By variables that don't count, since something is typed that excludes them.
    overruled: Vec<Id>,
}

impl Above {
    pub(super) fn of(whole: &Command, called: &Called<'_>, args: &[String]) -> Self {
        // What is missing, the file may have; help and mistakes are for the parse that counts.
        let Ok(matches) = whole.clone().ignore_errors(true).try_get_matches_from(args) else { return Self::default() };
        let matches = called.names.iter().try_fold(&matches, |matches, name| matches.subcommand_matches(name));
        let Some(matches) = matches else { return Self::default() };
        let mut above = Self::default();
        for arg in called.command.get_arguments() {
            // Nothing where its variable has no such value.
            let yes = || matches.try_get_one::<bool>(arg.get_id().as_str()).ok().flatten();
            let is_off = || matches!(arg.get_action(), ArgAction::SetTrue) && yes() == Some(&false);
            let flags = match matches.value_source(arg.get_id().as_str()) {
                Some(ValueSource::CommandLine) => &mut above.typed,
                Some(ValueSource::EnvVariable) if is_off() => &mut above.off,
                Some(ValueSource::EnvVariable) => &mut above.variables,
                _ => continue,
            };
            flags.push(arg.get_id().clone());
        }
        let typed = &above.typed;
        (above.overruled, above.variables) =
            std::mem::take(&mut above.variables).into_iter().partition(|id| excluded(called.command, id, typed));
        above
    }

    /// The called subcommand without the variables that don't count.
    pub(super) fn without_the_rest(&self, called: Command) -> Command {
        let unset = self.off.iter().chain(&self.overruled);
        unset.fold(called, |called, id| called.mut_arg(id, |arg| arg.env(Resettable::Reset)))
    }

    /// Whether a flag is left to the file: neither set nor excluded by what is.
    pub(super) fn leaves(&self, called: &Command, id: &Id) -> bool {
        let set = || self.typed.iter().chain(&self.variables);
        !set().chain(&self.off).any(|flag| flag == id) && !excluded(called, id, set())
    }

    pub(super) fn is_typed(&self, id: &Id) -> bool {
        self.typed.contains(id)
    }

    pub(super) fn is_variable(&self, id: &Id) -> bool {
        self.variables.contains(id)
    }
}

/// Whether a flag can't be used beside one of the others.
pub(super) fn excluded<'a>(called: &Command, id: &Id, others: impl IntoIterator<Item = &'a Id>) -> bool {
    let conflict = |one: &Id, other: &Id| {
        let one = called.get_arguments().find(|arg| arg.get_id() == one);
        one.is_some_and(|one| called.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == other))
    };
    let one_of = |group: &ArgGroup, other: &Id| {
        let has = |id: &Id| group.get_args().any(|arg| arg == id);
        !group.clone().is_multiple() && has(id) && has(other)
    };
    others.into_iter().filter(|other| *other != id).any(|other| {
        conflict(id, other) || conflict(other, id) || called.get_groups().any(|group| one_of(group, other))
    })
}
