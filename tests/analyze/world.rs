//! Small synthetic logs with models of them, made once for all tests.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sesrec::data::{
    Existing, Progress,
    synthetic::{self, SyntheticOptions},
};

use crate::program::{self, errors};

/// Where everything is.
pub struct World {
    pub logs: PathBuf,
    pub data: PathBuf,
    /// SESRec as it is meant.
    pub bundle: PathBuf,
    /// SESRec without its two further losses.
    pub unaligned: PathBuf,
    /// A model without interests.
    pub stamp: PathBuf,
}

/// The world; the first test that asks makes it.
pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = fresh("world");
        let path = |name: &str| dir.join(name);
        let world = World {
            logs: path("logs"),
            data: path("data"),
            bundle: path("aligned"),
            unaligned: path("unaligned"),
            stamp: path("stamp"),
        };
        let options = SyntheticOptions {
            users: 200,
            items: 300,
            seed: 11,
            clicks_per_user: 20.0,
            existing: Existing::Replace,
            progress: Progress::Hidden,
        };
        synthetic::write(&options, &world.logs).unwrap();
        import(&world.logs, &world.data);
        train(&world, &world.bundle, &["--alignment-weight", "0.5"]);
        train(&world, &world.unaligned, &["--alignment-weight", "0", "--contrast-weight", "0"]);
        train(&world, &world.stamp, &["--model", "stamp"]);
        world
    })
}

/// An empty directory that outlives the test, for looking into after a failure.
pub fn fresh(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("analyze").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::create_dir_all(&dir).unwrap();
    dir
}

pub fn import(logs: &Path, data: &Path) {
    let mut command = program::sesrec();
    let output = command.args(["import", "kuaisar", "--quiet"]).arg(logs).arg("--out").arg(data).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
}

fn train(world: &World, out: &Path, flags: &[&str]) {
    let fixed = ["--epochs", "6", "--alignment-negatives", "64", "--max-recommendations", "12", "--max-searches", "8"];
    let mut command = program::sesrec();
    command.args(["train", "--quiet", "--data"]).arg(&world.data).arg("--out").arg(out).args(fixed).args(flags);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
}
