//! The images' build, as far as it can be told without a builder: the first layer, which compiles dependencies, is
//! given all that cargo wants to see, and `.dockerignore` lets it through.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// What a Dockerfile copies from here before it runs cargo for the first time.
fn copied_first(dockerfile: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("deploy").join(dockerfile)).unwrap();
    let (before, _) = text.split_once("cargo build").unwrap();
    let copies = before.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|copy| !copy.contains("--from"));
    let sources = copies.flat_map(|copy| {
        let words: Vec<&str> = copy.split_whitespace().collect();
        words[..words.len() - 1].iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    });
    sources.collect()
}

/// All but hidden files: the environment that benchmarks of peers make for themselves is one.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if !entry.file_name().to_string_lossy().starts_with('.') {
                copy(&entry.path(), &to.join(entry.file_name()));
            }
        }
    } else {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
}

#[test]
fn the_first_layer_has_what_cargo_wants() {
    let ignore = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    assert!(ignore.lines().any(|line| line == "benches/peers/.venv"));
    for dockerfile in ["Dockerfile", "Dockerfile.cuda"] {
        let directory = tempfile::tempdir().unwrap();
        for source in copied_first(dockerfile) {
            let first = source.split('/').next().unwrap();
            assert!(ignore.lines().any(|line| line == format!("!{first}")), "{dockerfile}: {first} is ignored");
            copy(&root().join(&source), &directory.path().join(&source));
        }
        let src = directory.path().join("src");
        std::fs::create_dir_all(&src).unwrap();
        std::fs::write(src.join("lib.rs"), "").unwrap();
        std::fs::write(src.join("main.rs"), "fn main() {}").unwrap();
        // Asked for what there isn't, cargo says so once it has read the manifest and before it compiles anything.
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "--offline", "--bin", "none"]).current_dir(directory.path());
        let said = String::from_utf8(cargo.output().unwrap().stderr).unwrap();
        assert!(said.contains("no bin target named `none`"), "{dockerfile}: {said}");
    }
}
