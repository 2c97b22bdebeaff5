//! What the fuzz targets do with bytes; `tests/fuzz.rs` does the same with random ones and with the corpus.
//!
//! Each body either takes the bytes or says what is wrong with them. Anything else (a panic, an endless loop, memory
//! without bound) is a bug.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use candle_core::Device;
use prost::Message;
use sesrec::{
    data::kuaisar::{self, ImportOptions},
    domain::EventTime,
    engine::LoadedModel,
    history,
    model::RankerOptions,
    proto::v1,
    service::convert::{self, RankQuestion},
};
use tempfile::TempDir;

#[allow(dead_code, reason = "the promises' tests use all of it")]
#[path = "../tests/promises/bundle.rs"]
mod bundle;

/// A request as it comes from the network, or as JSON from `ingest` and `score`; the first byte says which.
pub fn request(bytes: &[u8]) {
    let Some((&kind, message)) = bytes.split_first() else { return };
    let latest = EventTime::now();
    let rank = |request: v1::RankRequest| {
        if let Ok(question) = RankQuestion::parse(request, 100, catalogue()) {
            assert_eq!(question.candidates.rows.len(), question.candidates.ids.len());
        }
    };
    match kind % 5 {
        0 => drop(v1::RankRequest::decode(message).map(rank)),
        1 => drop(v1::AppendEventRequest::decode(message).map(|event| convert::event(event, latest))),
        2 => drop(v1::GetHistoryRequest::decode(message).map(|request| convert::history_question(&request))),
        3 => drop(serde_json::from_slice::<v1::RankRequest>(message).map(rank)),
        _ => {
            let event = serde_json::from_slice::<v1::Event>(message);
            drop(event.map(|event| convert::event(v1::AppendEventRequest { event: Some(event) }, latest)));
        }
    }
}

/// A value out of a store.
pub fn stored_value(bytes: &[u8]) {
    history::read_stored(bytes);
}

/// Logs for `sesrec import kuaisar`: the first byte says which file is replaced, the rest is what it becomes.
pub fn csv_import(bytes: &[u8]) {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| tempfile::tempdir().expect("a temporary directory")).path();
    let Some((&kind, text)) = bytes.split_first() else { return };
    for (n, (name, whole)) in LOGS.iter().enumerate() {
        let text = if n == usize::from(kind) % LOGS.len() { text } else { whole.as_bytes() };
        fs::write(directory.join(name), text).expect("the directory is writable");
    }
    for skip_bad_rows in [0, u64::MAX] {
        let options = ImportOptions { skip_bad_rows, ..ImportOptions::default() };
        if let Ok(imported) = kuaisar::read(directory, &options) {
            assert!(imported.dataset.catalogue.items.rows() >= 1);
        }
    }
}

const LOGS: [(&str, &str); 4] = [
    ("rec_inter.csv", "user_id,item_id,timestamp,click\nu1,i1,1000,1\nu2,i2,1500,0\nu1,i2,2000,1\n"),
    (
        "src_inter.csv",
        "user_id,search_session_id,search_session_timestamp,keyword,search_source,item_id,click_cnt\n\
         u1,7,1900,red shoes,TYPED,i1,0\nu1,7,1900,red shoes,TYPED,i2,2\nu2,8,1000,\"[10, 20]\",RELATED,i1,1\n",
    ),
    (
        "item_features.csv",
        "item_id,item_type,first_level_category_id,second_level_category_id\ni1,NORMAL,5,50\ni2,AD,6,\n",
    ),
    ("user_features.csv", "user_id,level\nu1,1\nu2,0\n"),
];

/// A bundle of which one file is what the bytes say, the first of them says which; its manifest is made true, so that
/// no checksum stands in front of what reads the file.
pub fn bundle(bytes: &[u8]) {
    let whole = whole_bundle();
    let Some((&kind, contents)) = bytes.split_first() else { return };
    let name = &whole.files[usize::from(kind) % whole.files.len()];
    let path = whole.path.join(name);
    let original = fs::read(&path).expect("a file of the bundle");
    fs::write(&path, contents).expect("the directory is writable");
    if name != MANIFEST {
        sign(&whole.path);
    }
    let loaded = LoadedModel::load(&whole.path, &Device::Cpu, RankerOptions::default());
    fs::write(&path, original).expect("the directory is writable");
    sign(&whole.path);
    if let Ok(model) = loaded {
        assert!(model.featurizer.catalogue().items.rows() > 1);
    }
}

const MANIFEST: &str = "manifest.json";

struct Whole {
    path: PathBuf,
    /// The manifest last.
    files: Vec<String>,
    _directory: TempDir,
}

fn written_bundle() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("bundle");
    bundle::write(&path, 1);
    (directory, path)
}

fn whole_bundle() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let (directory, path) = written_bundle();
        let mut files: Vec<String> = manifest(&path)["files"].as_object().expect("files").keys().cloned().collect();
        files.push(MANIFEST.into());
        Whole { path, files, _directory: directory }
    })
}

/// Files of the whole bundle, each after the byte that stands for it: a corpus to begin with.
#[allow(dead_code, reason = "only the tests write corpora")]
pub fn bundle_seeds() -> Vec<Vec<u8>> {
    let whole = whole_bundle();
    let file = |(n, name): (usize, &String)| [vec![n as u8], fs::read(whole.path.join(name)).expect("a file")].concat();
    whole.files.iter().enumerate().map(file).collect()
}

/// The same of logs.
#[allow(dead_code, reason = "only the tests write corpora")]
pub fn csv_seeds() -> Vec<Vec<u8>> {
    LOGS.iter().enumerate().map(|(n, (_, text))| [vec![n as u8], text.as_bytes().to_vec()].concat()).collect()
}

fn catalogue() -> &'static sesrec::data::Catalogue {
    static MODEL: OnceLock<LoadedModel> = OnceLock::new();
    MODEL
        .get_or_init(|| {
            // Not the whole bundle: its files are damaged by whoever fuzzes bundles meanwhile.
            let (_directory, path) = written_bundle();
            LoadedModel::load(&path, &Device::Cpu, RankerOptions::default()).expect("a whole bundle")
        })
        .featurizer
        .catalogue()
}

fn manifest(path: &Path) -> serde_json::Value {
    let text = fs::read(path.join(MANIFEST)).expect("a manifest");
    serde_json::from_slice(&text).expect("a manifest is JSON")
}

fn sign(path: &Path) {
    let mut manifest = manifest(path);
    for (name, sum) in manifest["files"].as_object_mut().expect("files") {
        let bytes = fs::read(path.join(name)).expect("a file of the bundle");
        sum["bytes"] = bytes.len().into();
        sum["blake3"] = blake3::hash(&bytes).to_hex().to_string().into();
    }
    fs::write(path.join(MANIFEST), manifest.to_string()).expect("the directory is writable");
}
