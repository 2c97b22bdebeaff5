//! What is refused, and how it is named.

use std::{fs, io::Write};

use flate2::{Compression, write::GzEncoder};
use sesrec::data::kuaisar::{self, ImportOptions};

use crate::fixtures::*;

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

/// However lines end, and whatever blank ones stand between them: as an editor counts them.
#[test]
fn a_row_is_named_by_the_line_that_it_begins_at() {
    let skip = ImportOptions { skip_bad_rows: 1, ..ImportOptions::default() };
    let bad = |text: &str| text.replacen("i3,u1,2,3000,0", "i3,u1,2,3000,yes", 1);
    let spread = |text: &str| text.replacen("u1,1.5,1000", "u1,\"1\n5\",1000", 1);
    for (line_break, first, line, after_two) in
        [("\n", 2, 4, 5), ("\r\n", 2, 4, 5), ("\n\n\n", 4, 10, 13), ("\r\n\r\n", 3, 7, 9)]
    {
        let dir = changed(REC, |text| bad(text).replace('\n', line_break));
        let message = refusal(dir.path(), &ImportOptions::default());
        assert!(message.contains(&format!("{REC}:{line}: column click")), "{line_break:?}: {message}");
        // After a row of two lines.
        let dir = changed(REC, |text| spread(&bad(text)).replace('\n', line_break));
        let message = refusal(dir.path(), &ImportOptions::default());
        assert!(message.contains(&format!("{REC}:{after_two}: column click")), "{line_break:?}: {message}");
        let report = kuaisar::read(dir.path(), &skip).unwrap().report;
        assert_eq!(report.bad_row_examples, [message]);
        assert_eq!(report.spread_rows.longest, Some(format!("{REC}:{first}")), "{line_break:?}");
        // With a quote that nobody closes: to the end of the file, over too many lines, and further than is read.
        for rows in [3, 2_000, 200_000] {
            let dir = changed(REC, |text| {
                let more = (0..rows).map(|n| format!("i2,u2,1.5,{n},1\n")).collect::<String>();
                (text.replacen("i3,u1,2,3000,0", "\"i3,u1,2,3000,0", 1) + &more).replace('\n', line_break)
            });
            let message = refusal(dir.path(), &skip);
            assert!(message.contains(&format!("{REC}: line {line}: ")), "{line_break:?}, {rows}: {message}");
        }
    }
    let dir = changed(REC, |text| format!("\n\r\n{}", text.replacen("playing_time", "item_id", 1)));
    let message = refusal(dir.path(), &ImportOptions::default());
    assert!(message.contains(&format!("{REC}: line 3: has two columns item_id")), "{message}");
}

#[test]
fn what_is_no_text_is_told_what_to_do() {
    let dir = write_logs(&LOGS);
    let refused = |bytes: &[u8]| {
        fs::write(dir.path().join(REC), bytes).unwrap();
        refusal(dir.path(), &ImportOptions::default())
    };
    let text = LOGS.iter().find(|(file, _)| *file == REC).unwrap().1;
    let mut zip = GzEncoder::new(vec![], Compression::fast());
    zip.write_all(text.as_bytes()).unwrap();
    let message = refused(&zip.finish().unwrap());
    assert!(message.ends_with("rec_inter.csv: is gzip: name it rec_inter.csv.gz"), "{message}");
    let utf16 = || std::iter::once(0xfeff).chain(text.encode_utf16());
    for bytes in [utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>(), utf16().flat_map(u16::to_be_bytes).collect()]
    {
        let message = refused(&bytes);
        assert!(message.ends_with("rec_inter.csv: is UTF-16: save it as UTF-8"), "{message}");
    }
    // A terminal would obey it.
    let message = refused(b"user_id,item\x1b[31m,timestamp,click\n");
    assert!(message.contains(r"its columns are: user_id, item\u{1b}[31m, timestamp"), "{message}");
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
    // Of two columns with one name, nobody knows which one is meant.
    let dir = changed(REC, |text| text.replacen("playing_time", "item_id", 1));
    let message = refusal(dir.path(), &ImportOptions::default());
    assert!(message.contains(&format!("{REC}: line 1: has two columns item_id")), "{message}");
    let dir = changed(ITEMS, |text| text.replacen("item_type", "caption", 1));
    let message = refusal(dir.path(), &ImportOptions::default());
    assert!(message.contains(&format!("{ITEMS}: line 1: has two columns caption")), "{message}");
    let message = refusal(&dir.path().join("absent"), &ImportOptions::default());
    assert!(message.ends_with("absent: there is no such directory"), "{message}");
    let message = refusal(&dir.path().join(ITEMS), &ImportOptions::default());
    assert!(message.ends_with("item_features.csv: is not a directory"), "{message}");
    let dir = changed(REC, |text| text.replace(",1\n", ",0\n"));
    fs::write(dir.path().join(SRC), LOGS[1].1.lines().next().unwrap()).unwrap();
    assert!(refusal(dir.path(), &ImportOptions::default()).contains("no clicked recommendation and no search"));
}

/// Two that nobody closes look like the text between them: it is told where, since nobody counts what they have
/// swallowed.
#[test]
fn rows_between_two_open_quotes_are_told() {
    let dir = changed(REC, |text| {
        let more = (0..7).map(|n| format!("i2,u2,1.5,{n},1\n")).collect::<String>();
        text.to_owned() + "i1,u1,\"1,8000,1\n" + &more + "i1,u2,\",9000,1\n"
    });
    let report = kuaisar::read(dir.path(), &ImportOptions::default()).unwrap().report;
    assert_eq!((report.spread_rows.rows, report.spread_rows.further_lines), (1, 8));
    let told = report.to_string();
    assert!(told.contains("1 rows go on over several lines") && told.contains("8 further lines"), "{told}");
    assert!(told.contains("rec_inter.csv:") && told.contains("a quote (\") is open there"), "{told}");
}

#[test]
fn searches_without_a_source_are_counted() {
    let dir = changed(SRC, |text| text.replacen("SHOES,RELATED", "SHOES,", 1));
    let before = kuaisar::read(changed(SRC, str::to_owned).path(), &ImportOptions::default()).unwrap().report;
    let report = kuaisar::read(dir.path(), &ImportOptions::default()).unwrap().report;
    assert_eq!(report.searches_without_source, before.searches_without_source + 1);
    assert!(report.to_string().contains("searches have no search_source"), "{report}");
}

/// A quote that nobody closes takes the rest of the file with it: that is not one bad row.
#[test]
fn a_row_that_swallows_others_is_never_skipped() {
    let skip = ImportOptions { skip_bad_rows: 1_000, ..ImportOptions::default() };
    let opened = |rows: usize| {
        changed(REC, |text| {
            let more = (0..rows).map(|n| format!("i2,u2,1.5,{n},1\n"));
            text.replacen("i3,u1,2,3000,0", "\"i3,u1,2,3000,0", 1) + &more.collect::<String>()
        })
    };
    // To the end of a short file, over 100 lines, over 64 KiB, and more than is held in memory for one row.
    for rows in [3, 2_000, 20_000, 200_000] {
        let dir = opened(rows);
        let message = refusal(dir.path(), &skip);
        assert!(message.contains("rec_inter.csv: line 4: ") && message.contains("close the quote"), "{message}");
        assert!(message.len() < 1_000, "the row itself is not repeated: {message}");
    }
    // Not to the end, but over so many lines that it is no row either, whether its columns are right or not.
    let dir = changed(REC, |text| text.replacen("u1,1.5,1000", &format!("u1,\"{}\",1000", "1\n".repeat(100)), 1));
    assert!(refusal(dir.path(), &skip).contains("rec_inter.csv: line 2: "));
    // Nor is one that is far too long, though no quote is open in it.
    let dir = changed(REC, |text| text.replacen("u1,1.5,1000", &format!("u1,{},1000", "1".repeat(4 << 20)), 1));
    let message = refusal(dir.path(), &skip);
    assert!(message.contains("rec_inter.csv: line 2: ") && message.contains("or else shorten the row"), "{message}");
    // Text of several lines is fine where nothing is wrong with it.
    let dir = changed(REC, |text| text.replacen("u1,1.5,1000", "u1,\"1\n2\r\n3\",1000", 1));
    let report = kuaisar::read(dir.path(), &skip).unwrap().report;
    assert_eq!((report.bad_rows, report.spread_rows.rows, report.spread_rows.further_lines), (0, 1, 2));
    let dir = changed(REC, |text| text.replace('\n', "\n\n\n"));
    assert_eq!(kuaisar::read(dir.path(), &skip).unwrap().report.bad_rows, 0, "nor are blank lines");
}
