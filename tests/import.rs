//! Importing logs: what is kept, what is refused and how it is named, and that training sees what serving would.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use sesrec::{
    data::{
        Dataset, Existing, Featurizer, HistoryLimits, Split, Target,
        kuaisar::{self, ImportOptions, Imported, UnclickedSearches},
        synthetic::{self, SyntheticOptions},
    },
    domain::{History, HistorySearch, ItemId, Query, UserId},
};
use tempfile::TempDir;

const REC: &str = "rec_inter.csv";
const SRC: &str = "src_inter.csv";
const ITEMS: &str = "item_features.csv";
const USERS: &str = "user_features.csv";

/// Columns in an order of their own, with one that nobody reads: they are found by name.
const LOGS: [(&str, &str); 4] = [
    (
        REC,
        "item_id,user_id,playing_time,timestamp,click\n\
         i1,u1,1.5,1000,1\n\
         i2,u2,,1.5e3,1\n\
         i3,u1,2,3000,0\n\
         i2,u1,2,2000.0,1\n\
         i4,u1,2,2000,1\n\
         i9,u1,2,4000,1\n",
    ),
    (
        SRC,
        "user_id,search_session_id,search_session_time,search_session_timestamp,keyword,search_source,item_id,click_cnt,item_type\n\
         u1,7,x,1900,\"[10, 20]\",TYPED,i1,0,VIDEO\n\
         u2,7,x,1000,Red  SHOES,RELATED,i3,1,VIDEO\n\
         u1,8,x,1500,\"[20, 10, 20]\",TYPED,i4,2,VIDEO\n\
         u1,7,x,1900,\"[10, 20]\",TYPED,i3,3,VIDEO\n\
         u1,7,x,1900,\"[10, 20]\",TYPED,i2,1,VIDEO\n\
         u1,7,x,1900,\"[10, 20]\",TYPED,i3,1,VIDEO\n\
         u3,9,x,1200,[],,i1,0,VIDEO\n\
         u3,9,x,1200,[],,i2,0,VIDEO\n",
    ),
    (
        ITEMS,
        "item_id,caption,item_type,first_level_category_id,second_level_category_id\n\
         i1,\"[1, 2]\",NORMAL,5,50\n\
         i2,,AD,6,\n\
         i3,,NORMAL,5,51\n\
         i4,,NORMAL,,52\n\
         i5,,NORMAL,7,50\n",
    ),
    (USERS, "user_id,search_active_level,onehot_feat1\nu2,0,3\nu1,1,\nu4,1,9\n"),
];

fn write_logs(logs: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in logs {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// The logs with one file changed.
fn changed(file: &str, change: impl Fn(&str) -> String) -> TempDir {
    let dir = write_logs(&LOGS);
    let text = LOGS.iter().find(|(name, _)| *name == file).unwrap().1;
    fs::write(dir.path().join(file), change(text)).unwrap();
    dir
}

fn import(dir: &Path) -> Imported {
    kuaisar::read(dir, &ImportOptions::default()).unwrap()
}

fn refusal(dir: &Path, options: &ImportOptions) -> String {
    kuaisar::read(dir, options).expect_err("must be refused").to_string()
}

/// A user's items by name.
fn items(dataset: &Dataset, user: &str) -> Vec<String> {
    let user = dataset.catalogue.users.row(user).unwrap();
    dataset.recommendations(user).iter().map(|&row| dataset.catalogue.items.id(row).unwrap().to_owned()).collect()
}

/// A user's searches: query, source, clicks.
fn searches(dataset: &Dataset, user: &str) -> Vec<(String, String, Vec<String>)> {
    let catalogue = &dataset.catalogue;
    let searches = dataset.searches(catalogue.users.row(user).unwrap());
    searches
        .iter()
        .map(|search| {
            let clicks = search.clicks.iter().map(|&row| catalogue.items.id(row).unwrap().to_owned()).collect();
            let words: Vec<&str> = search.words.iter().map(|&row| catalogue.words.id(row).unwrap()).collect();
            assert_eq!(words.join(" "), catalogue.queries.id(search.query).unwrap());
            (words.join(" "), catalogue.sources.id(search.source).unwrap().to_owned(), clicks)
        })
        .collect()
}

fn attribute(dataset: &Dataset, table: &str, name: &str) -> Vec<u32> {
    let table = if table == "items" { &dataset.catalogue.items } else { &dataset.catalogue.users };
    table.attribute(name).unwrap().values.clone()
}

fn search(query: &str, source: &str, clicks: &[&str]) -> (String, String, Vec<String>) {
    (query.into(), source.into(), clicks.iter().map(|&click| click.to_owned()).collect())
}

#[test]
fn keeps_clicks_and_groups_sessions() {
    let imported = import(write_logs(&LOGS).path());
    let (dataset, report) = (&imported.dataset, &imported.report);
    // By time, then file order; the unclicked one is gone.
    assert_eq!(items(dataset, "u1"), ["i1", "i2", "i4", "i9"]);
    assert_eq!(items(dataset, "u2"), ["i2"]);
    assert_eq!(dataset.recommendation_times(dataset.catalogue.users.row("u2").unwrap()), [1500]);
    // A session is a user's: u1 and u2 share the id 7. Clicks are distinct and in file order.
    assert_eq!(
        searches(dataset, "u1"),
        [search("20 10 20", "TYPED", &["i4"]), search("10 20", "TYPED", &["i3", "i2"])]
    );
    assert_eq!(searches(dataset, "u2"), [search("red shoes", "RELATED", &["i3"])]);
    // No click: the first shown result. No source: the most frequent one. No keyword: a query without words.
    assert_eq!(searches(dataset, "u3"), [search("", "TYPED", &["i1"])]);
    assert_eq!(dataset.catalogue.sources.id(dataset.catalogue.default_source), Some("TYPED"));

    let ids: Vec<&str> = dataset.catalogue.items.ids.iter().collect();
    assert_eq!(ids, ["i1", "i2", "i3", "i4", "i5", "i9"], "all items with features, and the clicked one without");
    // Row 0 is padding; value 0 is unknown: i9 has no row, i4 no category.
    assert_eq!(attribute(dataset, "items", "type"), [0, 1, 2, 1, 1, 1, 0]);
    assert_eq!(attribute(dataset, "items", "category"), [0, 1, 2, 1, 0, 3, 0]);
    assert_eq!(attribute(dataset, "items", "category2"), [0, 1, 0, 2, 3, 1, 0]);
    let users: Vec<&str> = dataset.catalogue.users.ids.iter().collect();
    assert_eq!(users, ["u1", "u2", "u3"]);
    assert_eq!(attribute(dataset, "users", "search_active_level"), [2, 1, 0]);
    assert_eq!(attribute(dataset, "users", "onehot_feat1"), [0, 1, 0]);

    let statistics = dataset.statistics;
    assert_eq!((statistics.users, statistics.items, statistics.queries), (3, 6, 4));
    assert_eq!((statistics.actions_search, statistics.actions_recommendation), (4, 5));
    assert_eq!((report.unclicked_recommendations, report.unclicked_results, report.unclicked_searches), (1, 3, 1));
    assert_eq!((report.items_without_features, report.users_without_features), (1, 1));
    assert_eq!((report.users_without_actions, report.bad_rows, report.disagreeing_search_rows), (1, 0, 0));
}

#[test]
fn plain_and_zipped_files_are_the_same() {
    let plain = import(write_logs(&LOGS).path()).dataset;
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in LOGS {
        let file = fs::File::create(dir.path().join(format!("{name}.gz"))).unwrap();
        // Two members, as bgzip and concatenated files have them.
        let (head, tail) = text.split_at(text.len() / 2);
        let mut zip = GzEncoder::new(file, Compression::fast());
        zip.write_all(head.as_bytes()).unwrap();
        let mut zip = GzEncoder::new(zip.finish().unwrap(), Compression::fast());
        zip.write_all(tail.as_bytes()).unwrap();
        zip.finish().unwrap();
    }
    let zipped = import(dir.path()).dataset;
    assert_eq!(format!("{plain:?}"), format!("{zipped:?}"));

    let rec = dir.path().join("rec_inter.csv.gz");
    let bytes = fs::read(&rec).unwrap();
    fs::write(&rec, &bytes[..bytes.len() - 20]).unwrap();
    let message = refusal(dir.path(), &ImportOptions::default());
    assert!(message.contains("rec_inter.csv.gz: is cut short"), "{message}");
    fs::write(dir.path().join(REC), LOGS[0].1).unwrap();
    let message = refusal(dir.path(), &ImportOptions::default());
    assert!(message.contains("both rec_inter.csv and rec_inter.csv.gz"), "{message}");
}

#[test]
fn searches_without_a_click_are_kept_or_dropped_as_asked() {
    let dir = write_logs(&LOGS);
    let with = |unclicked_searches| {
        kuaisar::read(dir.path(), &ImportOptions { unclicked_searches, ..ImportOptions::default() }).unwrap()
    };
    let kept = with(UnclickedSearches::Keep).dataset;
    assert_eq!(searches(&kept, "u3"), [search("", "TYPED", &[])]);
    let dropped = with(UnclickedSearches::Drop);
    assert_eq!(dropped.report.dropped_searches, 1);
    // Nothing else is known of u3, nor of the empty query.
    assert_eq!(dropped.dataset.catalogue.users.row("u3"), None);
    assert_eq!(dropped.dataset.catalogue.queries.row(""), None);
    assert_eq!(dropped.dataset.statistics.actions_search, 3);
    assert_eq!(searches(&dropped.dataset, "u2"), [search("red shoes", "RELATED", &["i3"])]);
}

#[test]
fn a_bad_row_is_named_by_file_line_and_column() {
    let long = "x".repeat(600);
    let cases: [(&str, &str, &str, u64, &str, &str); 20] = [
        (REC, "i3,u1,2,3000,0", "i3,u1,2,3000,yes", 4, "click", "must be 0 or 1"),
        (REC, "i3,u1,2,3000,0", "i3,u1,2,3000,", 4, "click", "must be 0 or 1"),
        (REC, "i3,u1,2,3000,0", "i3,u1,2,,0", 4, "timestamp", "not a time"),
        (REC, "i3,u1,2,3000,0", "i3,u1,2,NaN,0", 4, "timestamp", "not a time"),
        (REC, "i3,u1,2,3000,0", "i3,u1,2,inf,0", 4, "timestamp", "not a time"),
        (REC, "i3,u1,2,3000,0", "i3,u1,2,-5,0", 4, "timestamp", "between 1970 and 2262"),
        (REC, "i3,u1,2,3000,0", "i3,u1,2,1e30,0", 4, "timestamp", "between 1970 and 2262"),
        (REC, "i3,u1,2,3000,0", "i3,,2,3000,0", 4, "user_id", "is empty"),
        (REC, "i3,u1,2,3000,0", "i\u{1}3,u1,2,3000,0", 4, "item_id", "control character"),
        (REC, "i3,u1,2,3000,0", &format!("{long},u1,2,3000,0"), 4, "item_id", "600 bytes"),
        (REC, "i3,u1,2,3000,0", "i3,u1,2,3000", 4, "click", "4 fields, the header 5"),
        (REC, "i3,u1,2,3000,0", "i3,u1,2,3000,0,9", 4, "click", "6 fields, the header 5"),
        (SRC, "u3,9,x,1200,[],,i1,0", "u3,9,x,1200,[],,,0", 8, "item_id", "is empty"),
        (SRC, "u3,9,x,1200,[],,i1,0", "u3,9,x,1200,[],,i1,many", 8, "click_cnt", "not a count"),
        (SRC, "u3,9,x,1200,[],,i1,0", "u3,9,x,1200,[],,i1,-1", 8, "click_cnt", "not a count"),
        (SRC, "u3,9,x,1200,[],,i1,0", "u3,9,x,noon,[],,i1,0", 8, "search_session_timestamp", "not a time"),
        (SRC, "u3,9,x,1200,[],,i1,0", "u3,,x,1200,[],,i1,0", 8, "search_session_id", "is empty"),
        (ITEMS, "i5,", "i1,", 6, "item_id", "has a row already"),
        (ITEMS, "i5,", ",", 6, "item_id", "is empty"),
        (USERS, "u1,1,", "u2,1,", 3, "user_id", "has a row already"),
    ];
    for (file, good, bad, line, column, reason) in cases {
        let dir = changed(file, |text| text.replacen(good, bad, 1));
        let message = refusal(dir.path(), &ImportOptions::default());
        let expected = format!("{}:{line}: column {column}: ", dir.path().join(file).display());
        assert!(message.starts_with(&expected) && message.contains(reason), "{bad:?}: {message}");
        // The same row may be left out; one more may not.
        let skip = ImportOptions { skip_bad_rows: 1, ..ImportOptions::default() };
        let report = kuaisar::read(dir.path(), &skip).unwrap().report;
        assert_eq!((report.bad_rows, report.bad_row_examples), (1, vec![message]));
    }
}

#[test]
fn bytes_that_are_no_text_are_a_bad_row() {
    let dir = write_logs(&LOGS);
    let mut text = LOGS[1].1.replacen("u2,7,x,1000,Red  SHOES", "u2,7,x,1000,Red ? SHOES", 1).into_bytes();
    let place = text.iter().position(|&byte| byte == b'?').unwrap();
    text[place] = 0xff;
    fs::write(dir.path().join(SRC), text).unwrap();
    let message = refusal(dir.path(), &ImportOptions::default());
    assert!(message.contains("src_inter.csv:3: column keyword: is not UTF-8"), "{message}");
}

#[test]
fn skips_as_many_bad_rows_as_allowed_and_reports_them() {
    let dir = changed(REC, |text| {
        (0..15).fold(text.to_owned(), |text, n| text + &format!("i{n},u1,1,when,1\n")) + "i1,u2,1,7000,1\n"
    });
    let skip = |skip_bad_rows| ImportOptions { skip_bad_rows, ..ImportOptions::default() };
    let message = refusal(dir.path(), &skip(14));
    assert!(message.contains("rec_inter.csv:22: column timestamp"), "the fifteenth is too many: {message}");
    let imported = kuaisar::read(dir.path(), &skip(15)).unwrap();
    assert_eq!(imported.report.bad_rows, 15);
    assert_eq!(imported.report.bad_row_examples.len(), 10, "the first ones");
    assert!(imported.report.bad_row_examples[0].contains("rec_inter.csv:8: column timestamp"));
    assert_eq!(items(&imported.dataset, "u2"), ["i2", "i1"], "rows after a bad one count");
    assert!(imported.report.to_string().contains("and 5 more"));
}

#[test]
fn missing_files_and_columns_are_named() {
    for (file, column) in [
        (REC, "timestamp"),
        (SRC, "search_session_id"),
        (SRC, "search_source"),
        (ITEMS, "first_level_category_id"),
        (USERS, "user_id"),
    ] {
        let dir = changed(file, |text| text.replacen(column, "renamed", 1));
        let message = refusal(dir.path(), &ImportOptions::default());
        assert!(message.contains(&format!("{file}: has no column {column}")), "{message}");
        fs::remove_file(dir.path().join(file)).unwrap();
        let message = refusal(dir.path(), &ImportOptions::default());
        assert!(message.contains(&format!("has no {file}")), "{message}");
    }
    let dir = changed(REC, |text| text.replace(",1\n", ",0\n"));
    fs::write(dir.path().join(SRC), LOGS[1].1.lines().next().unwrap()).unwrap();
    assert!(refusal(dir.path(), &ImportOptions::default()).contains("no clicked recommendation and no search"));
}

#[test]
fn a_data_set_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    let mut imported = import(write_logs(&LOGS).path());
    imported.write(&out, Existing::Refuse).unwrap();
    let read = Dataset::read(&out).unwrap();
    assert_eq!(read.checksum.len(), 64);
    assert_eq!(format!("{:?}", imported.dataset), format!("{read:?}"));
    for user in ["u1", "u2", "u3"] {
        assert_eq!(items(&read, user), items(&imported.dataset, user));
        assert_eq!(searches(&read, user), searches(&imported.dataset, user));
    }
    assert_eq!(attribute(&read, "items", "category"), [0, 1, 2, 1, 0, 3, 0]);

    // Never over something that is there, unless asked to, and then only over a data set.
    let message = imported.write(&out, Existing::Refuse).unwrap_err().to_string();
    assert!(message.contains("--force"), "{message}");
    imported.write(&out, Existing::Replace).unwrap();
    assert_eq!(Dataset::read(&out).unwrap().checksum, read.checksum, "the same logs, the same checksum");
    let other = dir.path().join("photos");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("cat.jpg"), "").unwrap();
    assert!(imported.write(&other, Existing::Replace).is_err() && other.join("cat.jpg").exists());
    let left: HashSet<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, HashSet::from(["data".into(), "photos".into()]), "no temporary directory is left");

    let message = Dataset::read(&other).unwrap_err().to_string();
    assert!(message.contains("is no data set") && message.contains("sesrec import"), "{message}");
    for file in ["searches.parquet", "items.parquet", "catalogue.json"] {
        let good = fs::read(out.join(file)).unwrap();
        let mut bytes = good.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(out.join(file), bytes).unwrap();
        let message = Dataset::read(&out).unwrap_err().to_string();
        assert!(message.contains(file) && message.contains("checksum"), "{message}");
        fs::write(out.join(file), good).unwrap();
    }
    let manifest = fs::read_to_string(out.join("dataset.json")).unwrap();
    fs::write(out.join("dataset.json"), manifest.replace("\"format_version\": 1", "\"format_version\": 9")).unwrap();
    let message = Dataset::read(&out).unwrap_err().to_string();
    assert!(message.contains("dataset.json") && message.contains("version 9"), "{message}");
}

#[test]
fn the_last_is_test_and_the_one_before_is_validation() {
    let dataset = import(write_logs(&LOGS).path()).dataset;
    let u1 = dataset.catalogue.users.row("u1").unwrap();
    let target = |position| Target { user: u1, position };
    assert_eq!(dataset.targets(Split::Train), [target(1)]);
    assert_eq!(dataset.targets(Split::Validation), [target(2)]);
    assert_eq!(dataset.targets(Split::Test), [target(3)]);
    for split in [Split::Train, Split::Validation, Split::Test] {
        for target in dataset.targets(split) {
            let interactions = dataset.recommendations(target.user).len();
            assert_eq!(Split::of(target.position as usize, interactions), split);
        }
    }
    // A search at the target's own time is not before it.
    assert_eq!(dataset.search_times(u1), [1500, 1900]);
    assert_eq!([1, 2, 3].map(|position| dataset.searches_before(target(position))), [2, 2, 2]);
    let same_time = changed(SRC, |text| text.replace(",1900,", ",2000,"));
    let dataset = import(same_time.path()).dataset;
    assert_eq!([1, 2, 3].map(|position| dataset.searches_before(target(position))), [1, 1, 2]);
}

/// A recommendation of a generated log.
#[derive(Debug, Clone)]
struct RawClick {
    user: u8,
    item: u8,
    time: u16,
    click: bool,
}

/// A search of a generated log, with its results.
#[derive(Debug, Clone)]
struct RawSearch {
    user: u8,
    time: u16,
    keyword: String,
    source: Option<String>,
    results: Vec<(u8, bool)>,
}

fn raw_click() -> impl Strategy<Value = RawClick> {
    // Few users and times, so that there are histories and ties.
    (0u8..4, 0u8..12, 0u16..30, prop::bool::weighted(0.8)).prop_map(|(user, item, time, click)| RawClick {
        user,
        item,
        time,
        click,
    })
}

fn raw_search() -> impl Strategy<Value = RawSearch> {
    let keyword = prop::sample::select(vec!["[1, 2]", "Red SHOES", "", "ǅ İstanbul", "a-b_c d", "[]", "x x x x"]);
    let source = prop::sample::select(vec![None, Some("TYPED"), Some("RELATED"), Some("TRENDING")]);
    (0u8..4, 0u16..30, keyword, source, prop::collection::vec((0u8..14, any::<bool>()), 1..6)).prop_map(
        |(user, time, keyword, source, results)| RawSearch {
            user,
            time,
            keyword: keyword.into(),
            source: source.map(Into::into),
            results,
        },
    )
}

fn raw_logs(clicks: &[RawClick], searches: &[RawSearch]) -> TempDir {
    let mut rec = "user_id,item_id,timestamp,click\n".to_owned();
    for RawClick { user, item, time, click } in clicks {
        rec += &format!("u{user},i{item},{time},{}\n", u8::from(*click));
    }
    let mut src =
        "user_id,search_session_id,search_session_timestamp,keyword,search_source,item_id,click_cnt\n".to_owned();
    for (id, search) in searches.iter().enumerate() {
        for (item, clicked) in &search.results {
            let RawSearch { user, time, keyword, source, .. } = search;
            let source = source.as_deref().unwrap_or_default();
            src += &format!("u{user},{id},{time},\"{keyword}\",{source},i{item},{}\n", u8::from(*clicked));
        }
    }
    let items = "item_id,item_type,first_level_category_id,second_level_category_id\ni1,A,1,1\ni5,B,2,1\n";
    write_logs(&[(REC, &rec), (SRC, &src), (ITEMS, items), (USERS, "user_id\n")])
}

/// What a server would have stored of a user before `time`: built from the raw log, not by the importer.
fn stored(clicks: &[&RawClick], searches: &[RawSearch], user: u8, time: u16, unclicked: UnclickedSearches) -> History {
    let item = |item: &u8| ItemId::new(&format!("i{item}")).unwrap();
    let mut before: Vec<&RawSearch> = searches.iter().filter(|s| s.user == user && s.time < time).collect();
    before.sort_by_key(|search| search.time);
    let searches = before
        .into_iter()
        .filter_map(|search| {
            let mut clicked_item_ids: Vec<ItemId> = vec![];
            for (result, _) in search.results.iter().filter(|(_, clicked)| *clicked) {
                if !clicked_item_ids.contains(&item(result)) {
                    clicked_item_ids.push(item(result));
                }
            }
            if clicked_item_ids.is_empty() {
                match unclicked {
                    UnclickedSearches::FirstShown => clicked_item_ids.push(item(&search.results[0].0)),
                    UnclickedSearches::Keep => {}
                    UnclickedSearches::Drop => return None,
                }
            }
            let source = search.source.as_deref().map(Arc::from);
            Some(HistorySearch { query: Query::Text(search.keyword.as_str().into()), source, clicked_item_ids })
        })
        .collect();
    History { recommendations: clicks.iter().map(|click| item(&click.item)).collect(), searches }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Training and serving are one path: what a data set gives for a target is what the featurizer gives for the raw
    /// history before it, and no search at or after the target's time is in it.
    #[test]
    fn a_target_sees_what_a_server_would_have_seen(
        clicks in prop::collection::vec(raw_click(), 1..40),
        searches in prop::collection::vec(raw_search(), 0..25),
        unclicked in prop::sample::select(
            vec![UnclickedSearches::FirstShown, UnclickedSearches::Keep, UnclickedSearches::Drop]),
        limits in (1usize..6, 1usize..6, 1usize..4, 1usize..4),
    ) {
        prop_assume!(clicks.iter().any(|click| click.click));
        let dir = raw_logs(&clicks, &searches);
        let options = ImportOptions { unclicked_searches: unclicked, ..ImportOptions::default() };
        let mut imported = kuaisar::read(dir.path(), &options).unwrap();
        imported.write(&dir.path().join("data"), Existing::Refuse).unwrap();
        let dataset = Dataset::read(&dir.path().join("data")).unwrap();
        let limits = HistoryLimits {
            recommendations: limits.0, searches: limits.1, words: limits.2, clicks: limits.3,
        };
        let featurizer = Featurizer::new(dataset.catalogue.clone(), limits);
        let mut targets = 0;
        for user in 0..4u8 {
            let mut history: Vec<&RawClick> = clicks.iter().filter(|c| c.user == user && c.click).collect();
            history.sort_by_key(|click| click.time);
            let id = UserId::new(&format!("u{user}")).unwrap();
            for position in 1..history.len() {
                let target = Target { user: dataset.catalogue.users.row(id.as_str()).unwrap(), position: position as u32 };
                let time = history[position].time;
                let stored = stored(&history[..position], &searches, user, time, unclicked);
                prop_assert_eq!(dataset.searches_before(target), stored.searches.len());
                let visible = &dataset.search_times(target.user)[..dataset.searches_before(target)];
                prop_assert!(visible.iter().all(|&search| search < i64::from(time)));
                prop_assert_eq!(dataset.features(target, &featurizer), featurizer.features(&id, &stored).features);
                targets += 1;
            }
        }
        let all: usize = [Split::Train, Split::Validation, Split::Test].map(|s| dataset.targets(s).len()).iter().sum();
        prop_assert_eq!(all, targets);
    }
}

/// `../shared/data/beauty`, or where `SESREC_BEAUTY` says.
fn beauty() -> Option<PathBuf> {
    let dir = std::env::var_os("SESREC_BEAUTY")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/beauty"), PathBuf::from);
    if !dir.is_dir() {
        println!("skipped: {} is not there (set SESREC_BEAUTY)", dir.display());
        return None;
    }
    Some(dir)
}

#[test]
fn amazon_beauty_has_the_size_its_readme_says() {
    let Some(logs) = beauty() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut imported = import(&logs);
    imported.write(&dir.path().join("data"), Existing::Refuse).unwrap();
    let dataset = Dataset::read(&dir.path().join("data")).unwrap();
    let statistics = dataset.statistics;
    assert_eq!((statistics.users, statistics.items), (22_363, 12_101));
    assert_eq!((statistics.actions_recommendation, statistics.actions_search), (198_502, 145_264));
    // Every user has at least five interactions, so that each is tested once.
    assert_eq!(dataset.targets(Split::Test).len(), 22_363);
    assert_eq!(dataset.targets(Split::Validation).len(), 22_363);
    // The release trained on targets 2 ... n - 2 with an earlier search.
    let train = dataset.targets(Split::Train);
    assert_eq!(train.len(), 198_502 - 3 * 22_363);
    let with_search = train.iter().filter(|&&target| dataset.searches_before(target) > 0).count();
    assert_eq!(with_search, 131_413, "the number of training targets in the data's README");
}

fn synthesize(dir: &Path, options: SyntheticOptions) -> synthetic::Summary {
    synthetic::write(&options, dir).unwrap()
}

const SMALL: SyntheticOptions = SyntheticOptions {
    users: 600,
    items: 1_500,
    seed: 3,
    clicks_per_user: 24.0,
    existing: Existing::Refuse,
    progress: sesrec::data::Progress::Hidden,
};

#[test]
fn synthetic_logs_follow_from_their_seed() {
    let dir = tempfile::tempdir().unwrap();
    let files = |name: &str, options| {
        synthesize(&dir.path().join(name), options);
        [REC, SRC, ITEMS, USERS, synthetic::TRUTH_FILE].map(|file| fs::read(dir.path().join(name).join(file)).unwrap())
    };
    let small = SyntheticOptions { users: 50, ..SMALL };
    let (first, second) = (files("a", small), files("b", small));
    assert!(first == second);
    assert!(first != files("c", SyntheticOptions { seed: 4, ..small }));
    let message = synthetic::write(&small, &dir.path().join("a")).unwrap_err().to_string();
    assert!(message.contains("--force"), "{message}");
    synthesize(&dir.path().join("a"), SyntheticOptions { existing: Existing::Replace, ..small });
    for wrong in [
        SyntheticOptions { users: 0, ..small },
        SyntheticOptions { items: 99, ..small },
        SyntheticOptions { clicks_per_user: f64::NAN, ..small },
    ] {
        assert!(synthetic::write(&wrong, &dir.path().join("d")).is_err(), "{wrong:?}");
    }
    // The smallest world still has a topic for every interest.
    synthesize(&dir.path().join("tiny"), SyntheticOptions { items: 100, users: 20, ..small });
    import(&dir.path().join("tiny"));
}

#[test]
fn synthetic_searches_have_the_paper_s_proportions() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    let summary = synthesize(&logs, SyntheticOptions { users: 3_000, ..SMALL });
    let share = |part: u64, whole: u64| part as f64 / whole as f64;
    let near = |value: f64, expected: f64| (value - expected).abs() < 0.02;
    assert!(near(share(summary.spontaneous, summary.searches), 0.57), "{summary:?}");
    assert!(near(share(summary.dissimilar, summary.spontaneous), 0.23), "{summary:?}");
    assert!(near(share(summary.searches, summary.clicks), 0.5), "{summary:?}");

    let imported = import(&logs);
    assert_eq!(imported.report.bad_rows, 0);
    let statistics = imported.dataset.statistics;
    assert_eq!((statistics.users, statistics.items), (3_000, 1_500));
    assert_eq!((statistics.actions_recommendation, statistics.actions_search), (summary.clicks, summary.searches));
    assert_eq!(imported.report.unclicked_recommendations, summary.unclicked);

    // The truth covers every action, and its own words agree with the summary.
    let mut truth = csv::Reader::from_path(logs.join(synthetic::TRUTH_FILE)).unwrap();
    let mut events: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for row in truth.records() {
        let row = row.unwrap();
        *events.entry((row[1].into(), row[5].into(), row[6].into())).or_default() += 1;
    }
    let count = |event: &str, label: &str, origin: &str| {
        let all = |wanted: &str, found: &String| wanted.is_empty() || wanted == found;
        let counts = events.iter().filter(|((e, l, o), _)| all(event, e) && all(label, l) && all(origin, o));
        counts.map(|(_, count)| count).sum::<u64>()
    };
    assert_eq!(count("search", "", ""), summary.searches);
    assert_eq!(count("search", "", "spontaneous"), summary.spontaneous);
    assert_eq!(count("search", "dissimilar", "spontaneous"), summary.dissimilar);
    assert_eq!(count("search", "dissimilar", "passive"), 0, "recommendation set them off");
    assert_eq!(count("recommendation", "", ""), summary.clicks);
    for (label, at_least) in [("similar", 0.5), ("dissimilar", 0.1), ("none", 0.05)] {
        assert!(share(count("recommendation", label, ""), summary.clicks) > at_least, "{label}: {events:?}");
    }
}

/// Mean reciprocal rank of the test items among 99 others, by a score without any learning.
fn reciprocal_rank(dataset: &Dataset, score: impl Fn(Target, u32) -> f64) -> f64 {
    let targets = dataset.targets(Split::Test);
    let items = dataset.catalogue.items.rows() as u32;
    let ranks = targets.iter().map(|&target| {
        let clicked = score(target, dataset.item(target));
        // Spread over the catalogue, other ones for each user; ties count against the clicked item.
        let others = (0..99u32).map(|n| 1 + (n * 15_485_863 + target.user * 7_919) % (items - 1));
        let better = others.filter(|&other| other != dataset.item(target) && score(target, other) >= clicked).count();
        1.0 / (1.0 + better as f64)
    });
    ranks.sum::<f64>() / targets.len() as f64
}

#[test]
fn synthetic_clicks_follow_from_both_histories() {
    let dir = tempfile::tempdir().unwrap();
    synthesize(&dir.path().join("logs"), SMALL);
    let dataset = import(&dir.path().join("logs")).dataset;
    let topics = attribute(&dataset, "items", "category2");
    let topic = |item: u32| topics[item as usize];
    let popularity: Vec<f64> = dataset.popularity().iter().map(|&clicks| (1.0 + f64::from(clicks)).ln()).collect();
    // What a user was last interested in, fading with each event.
    let (mut clicked, mut searched) = (HashMap::new(), HashMap::new());
    for target in dataset.targets(Split::Test) {
        let history = &dataset.recommendations(target.user)[..target.position as usize];
        for (age, &item) in history.iter().rev().enumerate() {
            *clicked.entry((target, topic(item))).or_insert(0.0) += (-(age as f64) / 6.0).exp();
        }
        let searches = &dataset.searches(target.user)[..dataset.searches_before(target)];
        for (age, search) in searches.iter().rev().enumerate() {
            *searched.entry((target, topic(search.clicks[0]))).or_insert(0.0) += (-(age as f64) / 2.0).exp();
        }
    }
    let known =
        |map: &HashMap<(Target, u32), f64>, target, item| map.get(&(target, topic(item))).copied().unwrap_or(0.0);
    let by_popularity = reciprocal_rank(&dataset, |_, item| popularity[item as usize]);
    let by_clicks =
        reciprocal_rank(&dataset, |target, item| 0.3 * popularity[item as usize] + 2.0 * known(&clicked, target, item));
    let by_both = reciprocal_rank(&dataset, |target, item| {
        0.3 * popularity[item as usize] + 2.0 * known(&clicked, target, item) + 2.0 * known(&searched, target, item)
    });
    println!("reciprocal rank: popularity {by_popularity:.3}, clicks {by_clicks:.3}, and searches {by_both:.3}");
    assert!(by_clicks > 1.8 * by_popularity, "{by_clicks} {by_popularity}");
    assert!(by_both > by_clicks + 0.015, "{by_both} {by_clicks}");
}

fn sesrec(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sesrec")).args(args).output().unwrap()
}

#[test]
fn the_commands_tell_what_they_did_and_what_to_do_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (logs, data) = (path("logs"), path("data"));
    let output = sesrec(&["synth", "--users", "30", "--items", "200", "--seed", "5", "--out", &logs]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(&format!("sesrec import kuaisar {logs}")), "{text}");

    let output = sesrec(&["import", "kuaisar", &logs, "--out", &data]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(&format!("sesrec train --data {data}")), "{text}");
    let table: Vec<&str> = text.lines().take(2).collect();
    assert_eq!(table[0].len(), table[1].len(), "columns are aligned: {text}");
    assert!(table[0].contains("queries   actions S   actions R"), "{text}");
    assert!(table[1].trim_start().starts_with("30 "), "{text}");
    assert!(output.stderr.is_empty(), "no progress bar where there is no terminal");

    let again = sesrec(&["import", "kuaisar", &logs, "--out", &data]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--force"));
    assert!(sesrec(&["import", "kuaisar", &logs, "--out", &data, "--force", "--quiet"]).status.success());

    let rec = format!("{logs}/{REC}");
    let text = fs::read_to_string(&rec).unwrap().replacen(",1,0,", ",maybe,0,", 1);
    fs::write(&rec, text).unwrap();
    let bad = sesrec(&["import", "kuaisar", &logs, "--out", &path("other")]);
    let message = String::from_utf8(bad.stderr).unwrap();
    assert!(
        !bad.status.success() && message.contains("column click") && message.contains("--skip-bad-rows"),
        "{message}"
    );
    assert!(!Path::new(&path("other")).exists(), "nothing half-written is left");
    let skipped = sesrec(&["import", "kuaisar", &logs, "--out", &path("other"), "--skip-bad-rows", "1"]);
    let text = String::from_utf8(skipped.stdout).unwrap();
    assert!(
        skipped.status.success() && text.contains("1 bad rows were skipped") && text.contains("column click"),
        "{text}"
    );
}
