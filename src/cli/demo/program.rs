//! How to call this program again: after `cargo run` there is no `sesrec` on the PATH.

use std::path::{Component, Path, PathBuf};

use crate::cli::shell::quoted;

/// What to type, or to paste, for this command.
pub(super) fn command(arguments: &[&str]) -> String {
    arguments.iter().fold(name(), |line, word| line + " " + &quoted(word))
}

/// `sesrec` where the shell finds it, or else the path of the running program, from the current directory if it is
/// below.
pub(super) fn name() -> String {
    let Ok(program) = std::env::current_exe().and_then(|path| path.canonicalize()) else { return "sesrec".into() };
    let directory = std::env::current_dir().and_then(|path| path.canonicalize()).unwrap_or_default();
    let found: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).map(|directory| directory.join("sesrec")).collect())
        .unwrap_or_default();
    // The shell takes the first one.
    let first = found.into_iter().find_map(|path| path.canonicalize().ok());
    name_from(&program, &directory, first.as_deref())
}

fn name_from(program: &Path, directory: &Path, on_path: Option<&Path>) -> String {
    if on_path == Some(program) {
        return "sesrec".into();
    }
    let relative = program.strip_prefix(directory).ok().filter(|_| directory.components().next().is_some());
    let shown = match relative {
        // A bare name is what shells look for on the PATH.
        Some(relative) if relative.components().count() == 1 => Path::new(".").join(relative),
        Some(relative) if directory != Path::new(Component::RootDir.as_os_str()) => relative.to_owned(),
        _ => program.to_owned(),
    };
    let shown = shown.display().to_string();
    if shown.contains(|c: char| c.is_whitespace() || "'\"\\$&;()".contains(c)) {
        format!("'{}'", shown.replace('\'', r"'\''"))
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_words_with_blanks_as_they_are() {
        let line = command(&["serve", "--model", "my demo/bundle"]);
        assert!(line.ends_with(" serve --model 'my demo/bundle'"), "{line}");
    }

    #[test]
    fn a_shell_finds_it() {
        let name = |program: &str, directory: &str, on_path: Option<&str>| {
            name_from(Path::new(program), Path::new(directory), on_path.map(Path::new))
        };
        assert_eq!(name("/p/target/release/sesrec", "/p", None), "target/release/sesrec");
        assert_eq!(name("/p/target/release/sesrec", "/p", Some("/usr/bin/sesrec")), "target/release/sesrec");
        assert_eq!(name("/usr/bin/sesrec", "/p", Some("/usr/bin/sesrec")), "sesrec");
        assert_eq!(name("/p/sesrec", "/p", None), "./sesrec");
        assert_eq!(name("/opt/sesrec", "/p", None), "/opt/sesrec");
        assert_eq!(name("/opt/bin/sesrec", "/", None), "/opt/bin/sesrec");
        assert_eq!(name("/p/my target/sesrec", "/p", None), "'my target/sesrec'");
    }
}
