//! What is set above the file, by the command line and by variables, and what that excludes.

use clap::{
    Arg, ArgAction, ArgGroup, Command, Id,
    builder::{OsStringValueParser, Resettable},
    parser::ValueSource,
};

use super::called::Called;

/// Which of the called subcommand's flags are set above the file.
pub(super) struct Above {
    typed: Vec<Id>,
    /// By variables.
    variables: Vec<Id>,
    /// By variables, to no.
    off: Vec<Id>,
    /// By variables that don't count, each with what is typed and excludes it.
    overruled: Vec<(Id, Id)>,
}

impl Above {
    /// `None` where somebody asks for help: nothing is set then.
    pub(super) fn of(whole: &Command, called: &Called<'_>, args: &[String]) -> Option<Self> {
        let mut above = Self { typed: vec![], variables: vec![], off: vec![], overruled: vec![] };
        // Values are not looked at: a parser reads files, and from a pipe that can be done once.
        let unparsed = |arg: Arg| match arg.get_action().takes_values() {
            true => arg.value_parser(OsStringValueParser::new()),
            false => arg,
        };
        // What is missing, the file may have, and mistakes are for the parse that counts.
        let whole = called.changed(whole, &|called| called.mut_args(unparsed)).ignore_errors(true);
        let matches = whole.try_get_matches_from(args).ok()?;
        let matches = called.names.iter().try_fold(&matches, |matches, name| matches.subcommand_matches(name));
        let Some(matches) = matches else { return Some(above) };
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
        for variable in std::mem::take(&mut above.variables) {
            match called.excluder(&variable, &above.typed).cloned() {
                Some(typed) => above.overruled.push((variable, typed)),
                None => above.variables.push(variable),
            }
        }
        Some(above)
    }

    /// The called subcommand without the variables that don't count.
    pub(super) fn without_the_rest(&self, called: Command) -> Command {
        let unset = self.off.iter().chain(self.overruled.iter().map(|(variable, _)| variable));
        unset.fold(called, |called, id| called.mut_arg(id, |arg| arg.env(Resettable::Reset)))
    }

    /// What is to be said of variables that don't count.
    pub(super) fn overruled<'a>(&'a self, called: &'a Called<'_>) -> impl Iterator<Item = String> + 'a {
        let arg = |id: &Id| called.command.get_arguments().find(|arg| arg.get_id() == id);
        self.overruled.iter().filter_map(move |(variable, typed)| {
            let (name, flag) = (arg(variable)?.get_env()?.to_string_lossy(), arg(typed)?.get_long()?);
            Some(format!("{name} does not count beside --{flag}"))
        })
    }

    /// Whether a flag is left to the file: neither set nor excluded by what is.
    pub(super) fn leaves(&self, called: &Called<'_>, id: &Id) -> bool {
        !self.sets(id) && called.excluder(id, self.typed.iter().chain(&self.variables)).is_none()
    }

    pub(super) fn sets(&self, id: &Id) -> bool {
        [&self.typed, &self.variables, &self.off].into_iter().any(|flags| flags.contains(id))
    }

    pub(super) fn is_typed(&self, id: &Id) -> bool {
        self.typed.contains(id)
    }

    pub(super) fn is_variable(&self, id: &Id) -> bool {
        self.variables.contains(id)
    }
}

impl Called<'_> {
    /// The first of the others that a flag can't be used beside.
    pub(super) fn excluder<'b>(&self, id: &Id, others: impl IntoIterator<Item = &'b Id>) -> Option<&'b Id> {
        let conflict = |one: &Id, other: &Id| {
            let one = self.built.get_arguments().find(|arg| arg.get_id() == one);
            one.is_some_and(|one| self.built.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == other))
        };
        let one_of = |group: &ArgGroup, other: &Id| {
            let has = |id: &Id| group.get_args().any(|arg| arg == id);
            !group.clone().is_multiple() && has(id) && has(other)
        };
        others.into_iter().filter(|other| *other != id).find(|other| {
            conflict(id, other) || conflict(other, id) || self.built.get_groups().any(|group| one_of(group, other))
        })
    }
}
