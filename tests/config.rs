//! Flags over environment over file over defaults, as a user meets them: `synth` shows in its files what it was told.

#[path = "support/program.rs"]
mod program;

use std::{fs, path::Path, process::Output};

use program::{errors, said};

/// `sesrec` with variables of its own and none of the surroundings'.
fn sesrec(args: &[&str], variables: &[(&str, &str)]) -> Output {
    program::sesrec().args(args).envs(variables.iter().copied()).output().unwrap()
}

fn refusal(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = sesrec(args, variables);
    assert_eq!(output.status.code(), Some(2), "{args:?} {variables:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// With a configuration file of this text: the exit code, and what standard error has.
fn told(file: &Path, text: &str, args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    fs::write(file, text).unwrap();
    let output = sesrec(&[&["--config", file.to_str().unwrap()], args].concat(), variables);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Makes logs; how many users they have.
fn users(out: &Path, args: &[&str], variables: &[(&str, &str)]) -> usize {
    let out = out.to_str().unwrap();
    let all = [&["synth", "--items", "100", "--clicks-per-user", "5", "--force", "--out", out], args].concat();
    let output = sesrec(&all, variables);
    assert!(output.status.success(), "{}", errors(&output));
    fs::read_to_string(Path::new(out).join("user_features.csv")).unwrap().lines().count() - 1
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let (out, file) = (dir.path().join("logs"), dir.path().join("sesrec.toml"));
    fs::write(&file, "[synth]\nusers = 21\n").unwrap();
    let file = file.to_str().unwrap();
    let variable = ("SESREC_SYNTH_USERS", "22");
    assert_eq!(users(&out, &["--config", file, "--users", "23"], &[variable]), 23);
    assert_eq!(users(&out, &["--config", file], &[variable]), 22);
    assert_eq!(users(&out, &["--config", file], &[]), 21);
    assert_eq!(users(&out, &[], &[("SESREC_CONFIG", file)]), 21, "the file is named by a variable, too");
    assert_eq!(users(&out, &[], &[]), 1_000, "the default");
}

#[test]
fn flags_without_a_value_are_yes_or_no_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logs");
    users(&out, &["--users", "20"], &[]);
    let file = dir.path().join("sesrec.toml");
    let args = ["synth", "--items", "100", "--users", "20", "--out", out.to_str().unwrap()];
    let replaces = |args: &[&str], variables: &[(&str, &str)]| {
        let output = sesrec(args, variables);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() || message.contains("--force"), "{message}");
        output.status.success()
    };
    assert!(!replaces(&args, &[]));
    assert!(replaces(&[&args[..], &["--force"]].concat(), &[]));
    for (value, replaced) in [("1", true), ("yes", true), ("on", true), ("true", true), ("0", false), ("off", false)] {
        assert_eq!(replaces(&args, &[("SESREC_SYNTH_FORCE", value)]), replaced, "{value}");
    }
    assert!(replaces(&[&args[..], &["--force"]].concat(), &[("SESREC_SYNTH_FORCE", "no")]), "the flag wins");
    for (value, replaced) in [("true", true), ("1", true), ("\"on\"", true), ("false", false), ("0", false)] {
        fs::write(&file, format!("[synth]\nforce = {value}\n")).unwrap();
        let args = [&["--config", file.to_str().unwrap()], &args[..]].concat();
        assert_eq!(replaces(&args, &[]), replaced, "{value}");
        assert!(replaces(&args, &[("SESREC_SYNTH_FORCE", "1")]), "the variable wins over {value}");
    }
    let message = refusal(&args, &[("SESREC_SYNTH_FORCE", "perhaps")]);
    assert!(message.contains("perhaps") && message.contains("--force"), "{message}");
}

#[test]
fn a_refused_value_names_who_set_it() {
    let dir = tempfile::tempdir().unwrap();
    let (out, file) = (dir.path().join("logs"), dir.path().join("sesrec.toml"));
    let args = ["--config", file.to_str().unwrap(), "synth", "--out", out.to_str().unwrap()];
    fs::write(&file, "[import]\nusers = \"many\"\n[synth]\nusers = \"many\"\n").unwrap();
    let message = refusal(&args, &[]);
    // A table of another subcommand is refused first.
    assert!(message.contains("[import] users"), "{message}");
    fs::write(&file, "[synth]\nusers = \"many\"\n").unwrap();
    let message = refusal(&args, &[]);
    let place = format!("{}: [synth] users: invalid value 'many' for '--users <", file.display());
    assert!(message.contains(&place) && message.lines().count() == 1, "{message}");
    let message = refusal(&args, &[("SESREC_SYNTH_USERS", "few")]);
    assert!(message.contains("SESREC_SYNTH_USERS: invalid value 'few' for '--users <"), "{message}");
    let message = refusal(&[&args[..], &["--users", "few"]].concat(), &[("SESREC_SYNTH_USERS", "few")]);
    assert!(message.starts_with("error: invalid value 'few'"), "{message}");
    // Neither another subcommand's variable nor one of a longer name is to blame.
    let others = [("SESREC_BENCH_LOCAL_USERS", "many"), ("SESREC_TRAIN_VALIDATION_USERS", "many")];
    assert!(refusal(&args, &others).contains(&place));
    fs::write(&file, "[bench.local]\nusers = \"many\"\n").unwrap();
    let message = refusal(&["bench", "local", "--config", file.to_str().unwrap()], &[]);
    assert!(message.contains("[bench.local] users: invalid value 'many'"), "{message}");
}

/// Also where one flag is required unless there is another one.
#[test]
fn what_is_required_may_be_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sesrec.toml");
    let told = |text: &str, args: &[&str], variables: &[(&str, &str)]| told(&file, text, args, variables);
    let evaluate = "[evaluate]\nmodel = 'no-bundle'\ndata = 'no-data'\nquiet = true";
    for (text, args, missing) in [
        (evaluate, &["evaluate"][..], "no-data"),
        (evaluate, &["evaluate", "--data", "other"], "other"),
        ("[evaluate]\nrank_log = ['no-log']\nevents = ['no-events']", &["evaluate"], "no-log"),
        ("[bench.rank]\nitems = 'no-items'", &["bench", "rank"], "no-items"),
    ] {
        let (code, message) = told(text, args, &[]);
        assert!(code == Some(1) && message.contains(missing), "{text}: {message}");
    }
    let (_, message) = told(evaluate, &["evaluate"], &[("SESREC_EVALUATE_DATA", "of-a-variable")]);
    assert!(message.contains("of-a-variable"), "{message}");
    let (code, message) = told("[evaluate]\nmodel = 'm'", &["evaluate"], &[]);
    assert!(code == Some(2) && message.contains("--data <DATASET>"), "{message}");
    let (code, message) = told("[experiment.table2]\nmodls = 'm'", &["evaluate"], &[]);
    assert!(code == Some(2) && message.contains("[experiment.table2] modls"), "{message}");
}

/// What is typed counts, not what it excludes and a variable or the file sets.
#[test]
fn what_excludes_each_other_is_set_by_the_strongest() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sesrec.toml");
    let told = |text: &str, args: &[&str], variables: &[(&str, &str)]| told(&file, text, args, variables);
    let live = "[evaluate]\nrank_log = ['no-log']\nevents = ['no-events']";
    let evaluate = ["evaluate", "--model", "no-bundle", "--data", "no-data"];
    for (text, args, variables, missing) in [
        (live, &["evaluate"][..], &[][..], "no-log"),
        (live, &evaluate, &[], "no-data"),
        (live, &["evaluate"], &[("SESREC_EVALUATE_MODEL", "m"), ("SESREC_EVALUATE_DATA", "no-data")], "no-data"),
        ("", &evaluate, &[("SESREC_EVALUATE_RANK_LOG", "no-log"), ("SESREC_EVALUATE_EVENTS", "no-events")], "no-data"),
        ("[evaluate]\nmodel = 'm'\ndata = 'd'", &["evaluate", "--rank-log", "no-log", "--events", "e"], &[], "no-log"),
        // Members of one group.
        ("[bench.rank]\nitems = 'no-items'", &["bench", "rank", "--data", "no-data"], &[], "no-data"),
        ("", &["bench", "rank", "--data", "no-data"], &[("SESREC_BENCH_RANK_ITEMS", "no-items")], "no-data"),
        // A value that counts for nothing may be none.
        (
            "",
            &["evaluate", "--data", "no-data", "--via-server", "x"],
            &[("SESREC_EVALUATE_DEVICE", "bogus")],
            "no-data",
        ),
    ] {
        let (code, message) = told(text, args, variables);
        assert!(code == Some(1) && message.contains(missing), "{text} {args:?} {variables:?}: {message}");
    }
    // What doesn't count is told: by variables always, by the file where something is wrong.
    let (_, message) = told("", &evaluate, &[("SESREC_EVALUATE_RANK_LOG", "l"), ("SESREC_EVALUATE_EVENTS", "e")]);
    assert!(message.contains("warning: SESREC_EVALUATE_RANK_LOG does not count beside --model\n"), "{message}");
    let (code, message) = told(live, &["evaluate"], &[("SESREC_EVALUATE_POPULARITY", "1")]);
    assert!(code == Some(2) && message.contains("[evaluate] rank_log does not count beside what is set"), "{message}");
    // Members of a group that they name themselves.
    let append = ["append", "--user", "u", "--query-id", "7", "--server", "http://127.0.0.1:1"];
    for (text, variables) in [
        ("[append]\nquery = 'x'", &[][..]),
        ("", &[("SESREC_APPEND_QUERY", "x")]),
        ("[append]\nquery = 'x'", &[("A", "")]),
    ] {
        let (code, message) = told(text, &append, variables);
        assert!(code == Some(1) && message.contains("127.0.0.1:1"), "{message}");
    }
    // Equally strong: who set them is named.
    let train = ["train", "--data", "no-data", "--out", "o"];
    let (code, message) = told("[train]\nforce = true\nresume = true", &train, &[]);
    let key = |key: &str| format!("{}: [train] {key}", file.display());
    assert!(code == Some(2) && message.contains(&format!("{}: cannot be used with force", key("resume"))), "{message}");
    let variables = [("SESREC_TRAIN_FORCE", "1"), ("SESREC_TRAIN_RESUME", "1")];
    let (code, message) = told("", &train, &variables);
    assert!(code == Some(2) && message.contains("SESREC_TRAIN_FORCE") && message.contains("_RESUME"), "{message}");
    assert!(message.contains("cannot be used with '--"), "{message}");
    let (code, message) = told("", &[&train[..], &["--force", "--resume"]].concat(), &variables);
    assert!(code == Some(2) && !message.contains("SESREC_TRAIN"), "{message}");
    // A flag that a variable sets to no excludes nothing, and is set.
    for (text, value) in [("[train]\nforce = true", "0"), ("", "no")] {
        let (code, message) = told(text, &[&train[..], &["--resume"]].concat(), &[("SESREC_TRAIN_FORCE", value)]);
        assert!(code == Some(1) && message.contains("no-data"), "{message}");
    }
    let help = told("[train]\nforce = true\nresume = true", &["train", "--help"], &[]);
    assert_eq!(help, (Some(0), String::new()));
    let (code, message) = told("[train]\nforce = 'perhaps'", &train, &[]);
    assert!(code == Some(2) && message.contains(&format!("{}: invalid value 'perhaps'", key("force"))), "{message}");
}

/// A file may be named like a subcommand, and what flags name may be a pipe.
#[cfg(unix)]
#[test]
fn files_of_any_name_and_kind() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logs");
    fs::write(dir.path().join("train"), "[synth]\nusers = 12\nitems = 100\n").unwrap();
    let args = ["--config", "train", "synth", "--out", out.to_str().unwrap()];
    let output = program::sesrec().current_dir(&dir).args(args).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(fs::read_to_string(out.join("user_features.csv")).unwrap().lines().count() - 1, 12);
    let pipe = r#"exec "$0" health https://127.0.0.1:1 --ca <(printf '%s\n' '-----BEGIN CERTIFICATE-----' '-----END CERTIFICATE-----')"#;
    let program = program::sesrec().get_program().to_owned();
    let output = std::process::Command::new("bash").args(["-c", pipe]).arg(program).output().unwrap();
    assert!(!errors(&output).contains("has no certificate"), "{}", errors(&output));
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
}

#[test]
fn who_has_read_enough_is_no_error() {
    let mut child = program::sesrec()
        .args(["synth", "--help"])
        .env("COLUMNS", "80")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(!String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap().contains("panicked"));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logs");
    let synth = |stdout: std::process::Stdio| {
        let args = ["synth", "--users", "10", "--items", "100", "--force", "--out", out.to_str().unwrap()];
        let mut child =
            program::sesrec().args(args).stdout(stdout).stderr(std::process::Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(synth(std::process::Stdio::piped()), (Some(0), String::new()));
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        let (code, message) = synth(full.into());
        assert!(code == Some(1) && message.starts_with("error: standard output: No space left"), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_no_text_is_an_error() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let output = program::sesrec().arg("rank").arg(OsStr::from_bytes(b"\xff")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is not UTF-8"));
}

#[test]
fn tables_of_nested_subcommands() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, file) = (dir.path().join("logs"), dir.path().join("sesrec.toml"));
    users(&logs, &["--users", "20"], &[]);
    let data = dir.path().join("data");
    fs::write(&file, format!("[import.kuaisar]\nout = {data:?}\nunclicked_searches = \"keep\"\nquiet = 1\n")).unwrap();
    let import = ["import", "kuaisar", logs.to_str().unwrap(), "--config", file.to_str().unwrap()];
    // A required flag may stand in the file.
    let output = sesrec(&import, &[]);
    assert!(output.status.success(), "{}", errors(&output));
    assert!(data.join("dataset.json").exists());
    assert!(!sesrec(&import, &[]).status.success());
    assert!(sesrec(&import, &[("SESREC_IMPORT_KUAISAR_FORCE", "1")]).status.success());
}

#[test]
fn what_no_flag_corresponds_to_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sesrec.toml");
    let out = dir.path().join("logs");
    let path = file.to_str().unwrap();
    for (text, reason) in [
        ("[sinth]\nusers = 20", "[sinth]: there is no such subcommand"),
        ("users = 20", "there is no such subcommand"),
        ("synth = 20", "synth: must be a table, as in [synth]"),
        ("[synth]\nuser = 20", "[synth] user: `sesrec synth` has no flag --user"),
        ("[synth.users]\nn = 20", "[synth] users: tables are no values here"),
        ("[synth]\nitems = [200, 300]", "[synth] items: is one value, not a list of 2"),
        ("[import.kuaisar]\nskip = 1", "[import.kuaisar] skip"),
        ("[import.amazon]\nquiet = true", "[import] amazon"),
        ("[synth]\nusers = \"many\"", "invalid value 'many' for '--users"),
        ("[synth", "sesrec.toml:1: "),
    ] {
        fs::write(&file, text).unwrap();
        let message = refusal(&["synth", "--out", out.to_str().unwrap(), "--config", path], &[]);
        assert!(message.contains(reason), "{text}: {message}");
    }
    // A line that can't be read may hold a secret.
    fs::write(&file, "[rank]\ntoken = hidden\n").unwrap();
    let message = refusal(&["synth", "--out", "x", "--config", path], &[]);
    assert!(message.contains("sesrec.toml:2: ") && !message.contains("hidden"), "{message}");
    fs::remove_file(&file).unwrap();
    assert!(refusal(&["synth", "--out", "x", "--config", path], &[]).contains("sesrec.toml: "));
    assert!(refusal(&["synth", "--out", "x"], &[("SESREC_CONFIG", path)]).contains("sesrec.toml: "));
}

/// A slip of the pen in a variable is told, and stops nothing: others than this program set variables, too.
#[test]
fn a_variable_that_no_flag_has_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logs");
    let args = ["synth", "--users", "10", "--items", "100", "--force", "--out", out.to_str().unwrap()];
    let told = |variables: &[(&str, &str)]| {
        let output = sesrec(&args, variables);
        assert!(output.status.success(), "{variables:?}: {}", errors(&output));
        errors(&output)
    };
    let warning = "warning: SESREC_SYNTH_USER does nothing: `sesrec synth` has no such flag\n";
    assert_eq!(told(&[("SESREC_SYNTH_USER", "hidden")]), warning);
    // A flag's, another subcommand's, and what Kubernetes sets for a Service named sesrec-synth.
    let link = ("SESREC_SYNTH_PORT_80_TCP", "tcp://10.0.0.1:80");
    assert_eq!(told(&[("SESREC_SYNTH_SEED", "1"), ("SESREC_TRAIN_USER", "1"), link]), "");
    // What is missing may be what was misspelt.
    let message = refusal(&["synth"], &[("SESREC_SYNTH_OTU", "logs")]);
    let (first, rest) = message.split_once('\n').unwrap();
    assert!(first.contains("SESREC_SYNTH_OTU does nothing") && rest.contains("--out <"), "{message}");
    let help = sesrec(&["synth", "--help"], &[("SESREC_SYNTH_OTU", "logs")]);
    assert!(help.status.success() && help.stderr.is_empty(), "{}", errors(&help));
}

/// Whatever is wrong with a URL, its password stays out of logs and terminals.
#[test]
fn passwords_are_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sesrec.toml");
    for (args, variables, config) in [
        (&["serve", "--model", "m", "--store", "redi://me:hidden@host"][..], &[][..], ""),
        (&["serve", "--model", "m", "--store=redis:/me:hidden@host", "--listen", "nowhere"], &[], ""),
        (&["serve", "--model", "m"], &[("SESREC_SERVE_STORE", "reddis://me:hidden@host")], ""),
        (&["serve", "--model", "m"], &[], "[serve]\nstore = \"reddis://me:hidden@host\"\n"),
        (&["serve", "--model", "m"], &[], "[serve]\nstore = redis://me:hidden@host\n"),
        (&["bench", "replicas", "--redis", "http://me:hidden@host"], &[], ""),
        (&["bench", "events", "redi://me:hidden@host/stream"], &[], ""),
        (&["ingest", "redi://me:hidden@host/stream"], &[], ""),
    ] {
        fs::write(&file, config).unwrap();
        let args = [args, &["--config", file.to_str().unwrap()]].concat();
        let output = sesrec(&args, variables);
        let said = said(&output);
        assert!(!output.status.success() && !said.contains("hidden"), "{args:?}: {said}");
    }
}

/// A slip that would store something else than was meant.
#[test]
fn an_event_of_two_kinds_is_an_error() {
    let click = ["append", "--user", "u", "--item", "i"];
    for of_a_search in [["--search-id", "s"], ["--source", "HOME"], ["--clicked", "i"]] {
        let message = refusal(&[&click[..], &of_a_search].concat(), &[]);
        assert!(message.contains("--query <TEXT>|--query-id <ID>"), "{message}");
    }
}
