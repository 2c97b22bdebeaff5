//! What is kept, how it is grouped and split, and that it is read as it was written.

use std::{collections::HashSet, fs, io::Write};

use flate2::{Compression, write::GzEncoder};
use sesrec::data::{
    Dataset, Existing, Split, Target,
    kuaisar::{self, ImportOptions, ItemColumn, UnclickedSearches},
};

use crate::fixtures::*;

/// Where files were joined that overlap, the newest click would be in the history before itself.
#[test]
fn a_click_that_is_there_twice_counts_once() {
    let whole = import(write_logs(&LOGS).path());
    let doubled = changed(REC, |text| {
        text.to_owned() + &text.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>()
    });
    let imported = import(doubled.path());
    let clicks = whole.dataset.statistics.actions_recommendation;
    assert_eq!(imported.dataset.statistics, whole.dataset.statistics);
    assert_eq!((imported.report.repeated_clicks, whole.report.repeated_clicks), (clicks, 0));
    assert_eq!(items(&imported.dataset, "u1"), items(&whole.dataset, "u1"));
    assert!(imported.report.to_string().contains("clicks were there twice"), "{}", imported.report);
}

#[test]
fn times_that_are_hardly_meant_are_doubted() {
    // The fixtures' are of the year 1970.
    let now = |text: &str, scale: i64| {
        let mut lines = text.lines();
        let header = lines.next().unwrap().to_owned();
        let lines = lines.enumerate().map(|(n, line)| {
            let mut fields: Vec<String> = line.split(',').map(Into::into).collect();
            fields[3] = ((1_700_000_000_000 + 1000 * n as i64) / scale).to_string();
            fields.join(",") + "\n"
        });
        header + "\n" + &lines.collect::<String>()
    };
    let doubts = |clicks: i64| {
        let dir = changed(REC, |text| now(text, clicks));
        let text = fs::read_to_string(dir.path().join(SRC)).unwrap();
        fs::write(
            dir.path().join(SRC),
            text.replace(",1900,", ",1700000001900,")
                .replace(",1000,", ",1700000001000,")
                .replace(",1500,", ",1700000001500,")
                .replace(",1200,", ",1700000001200,"),
        )
        .unwrap();
        import(dir.path()).report.doubts()
    };
    assert_eq!(doubts(1), Vec::<String>::new());
    let seconds = doubts(1000);
    assert!(
        seconds.len() == 2 && seconds[0].contains("rec_inter.csv") && seconds[0].contains("seconds"),
        "{seconds:?}"
    );
}

/// A column that a log has beside KuaiSAR's is an attribute of items where it is named, once and by a name of its own.
#[test]
fn further_columns_become_attributes() {
    let item_columns = |named: &[&str]| ImportOptions {
        item_columns: named.iter().map(|column| column.parse().unwrap()).collect(),
        ..ImportOptions::default()
    };
    let mut lines = LOGS.iter().find(|(file, _)| *file == ITEMS).unwrap().1.lines();
    let mut text = format!("{},author_id\n", lines.next().unwrap());
    lines.zip(["a7", "a8", "", "a7", "a9"]).for_each(|(line, author)| text += &format!("{line},{author}\n"));
    let dir = write_logs(&LOGS);
    fs::write(dir.path().join(ITEMS), text).unwrap();
    let dataset = kuaisar::read(dir.path(), &item_columns(&["author=author_id"])).unwrap().dataset;
    // Row 0 is padding; i3 has no author, i9 no row.
    assert_eq!(attribute(&dataset, "items", "author"), [0, 1, 2, 0, 1, 3, 0]);
    assert_eq!(attribute(&dataset, "items", "type"), attribute(&import(dir.path()).dataset, "items", "type"));
    assert!(import(dir.path()).dataset.catalogue.items.attribute("author").is_none(), "only what is named");

    let message = refusal(dir.path(), &item_columns(&["author=autor"]));
    assert!(message.contains(ITEMS) && message.contains("no column autor"), "{message}");
    let message = refusal(dir.path(), &item_columns(&["author=author_id", "author=item_type"]));
    assert!(message.contains("two columns for one attribute, author"), "{message}");
    for wrong in ["author", "=author_id", "author=", "category=author_id", "id=author_id", "words=author_id"] {
        assert!(wrong.parse::<ItemColumn>().is_err(), "{wrong}");
    }
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

    let values: Vec<(&str, &str, Vec<&str>)> = imported
        .names
        .attributes
        .iter()
        .map(|values| (values.table, values.attribute.as_str(), values.values.iter().collect()))
        .collect();
    assert_eq!(values[0], ("items", "type", vec!["NORMAL", "AD"]));
    assert_eq!(values[4], ("users", "onehot_feat1", vec!["3"]), "of users with actions");

    let statistics = dataset.statistics;
    assert_eq!((statistics.users, statistics.items, statistics.queries), (3, 6, 4));
    assert_eq!((statistics.actions_search, statistics.actions_recommendation), (4, 5));
    assert_eq!((report.unclicked_recommendations, report.unclicked_results, report.unclicked_searches), (1, 3, 1));
    assert_eq!((report.items_without_features, report.users_without_features), (1, 1));
    assert_eq!((report.items_acted_upon, report.statistics.items), (5, 6), "nobody touched i5");
    assert!(report.to_string().contains("5 of the 6 items"), "{report}");
    assert_eq!((report.users_without_actions, report.bad_rows, report.disagreeing_search_rows), (1, 0, 0));
    assert_eq!(report.searches_without_words, 1, "u3's, of []");
    assert!(report.to_string().contains("1 searches have no word in their keyword"), "{report}");
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
    assert_eq!(dropped.report.searches_without_words, 0);

    // The data set says which it was.
    for (unclicked, name, by_first_shown) in [
        (UnclickedSearches::FirstShown, "first-shown", Some(1)),
        (UnclickedSearches::Keep, "keep", None),
        (UnclickedSearches::Drop, "drop", None),
    ] {
        let out = dir.path().join(name);
        with(unclicked).write(&out, Existing::Refuse).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(out.join("dataset.json")).unwrap()).unwrap();
        assert_eq!(manifest["import"]["unclicked_searches_as"], name);
        assert_eq!(kuaisar::searches_by_first_shown(&out), by_first_shown, "{name}");
    }
}

#[test]
fn words_of_captions_join_those_of_queries() {
    let long = (100..130).map(|word| word.to_string()).collect::<Vec<_>>().join(" ");
    let dir = changed(ITEMS, |text| {
        text.replace("\"[1, 2]\"", "\"[10, 2, 10]\"").replace("i5,,", &format!("i5,Red {long},"))
    });
    let Dataset { catalogue, .. } = import(dir.path()).dataset;
    let words = |item: &str| -> Vec<&str> {
        let rows = catalogue.items.words.get(catalogue.items.row(item).unwrap()).unwrap();
        rows.iter().map(|&row| catalogue.words.id(row).unwrap()).collect()
    };
    assert_eq!(words("i1"), ["10", "2"], "each word once");
    assert_eq!(words("i2"), [""; 0]);
    assert_eq!(words("i9"), [""; 0], "an item without a row of features");
    assert_eq!((words("i5")[0], words("i5").len()), ("red", 16), "the first sixteen");
    assert_eq!(catalogue.items.words.get(0), Some(&[][..]), "padding");
    let of_query = |query: &str| catalogue.words_of(catalogue.queries.row(query).unwrap()).to_vec();
    let row = |word: &str| catalogue.words.row(word).unwrap();
    assert_eq!(of_query("10 20"), [row("10"), row("20")], "one table for both");

    let without = changed(ITEMS, |text| text.replace("caption", "title"));
    assert_eq!(import(without.path()).dataset.catalogue.items.words.rows(), 0, "logs without captions");
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
