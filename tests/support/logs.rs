//! Small logs in KuaiSAR's layout.

use std::{fmt::Write, fs, path::Path};

use sesrec::data::{
    Existing,
    kuaisar::{self, ImportOptions},
};
use tempfile::TempDir;

/// A directory with the logs, and in `data` the data set that they make.
pub fn workplace() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_logs(directory.path());
    let imported = kuaisar::read(directory.path(), &ImportOptions::default());
    imported.unwrap().write(&directory.path().join("data"), Existing::Refuse).unwrap();
    directory
}

/// 48 users of four tastes, who search for what they like, 60 items.
pub fn write_logs(directory: &Path) {
    let (mut rec, mut src) = (
        "user_id,item_id,timestamp,click\n".to_owned(),
        "user_id,search_session_id,search_session_timestamp,keyword,search_source,item_id,click_cnt\n".to_owned(),
    );
    for user in 0..48u32 {
        for n in 0..9u32 {
            let item = 1 + (user % 4) + 4 * ((user * 5 + n * 7) % 15);
            let time = 1_000_000 + n * 1000 + user;
            writeln!(rec, "{user},{item},{time},1").unwrap();
            if (user + n) % 2 == 0 {
                let source = if n % 4 < 2 { "USER_INPUT" } else { "HOT_SEARCH" };
                let words = format!("\"[{}, {}]\"", 100 + user % 4, 200 + item % 7);
                writeln!(src, "{user},{n},{},{words},{source},{item},1", time + 500).unwrap();
            }
        }
    }
    let mut items = "item_id,item_type,first_level_category_id,second_level_category_id\n".to_owned();
    (1..=60).for_each(|item| writeln!(items, "{item},NORMAL,{},{}", item % 4, item % 8).unwrap());
    let mut users = "user_id,search_active_level\n".to_owned();
    (0..48).for_each(|user| writeln!(users, "{user},{}", user % 3).unwrap());
    for (name, text) in
        [("rec_inter.csv", rec), ("src_inter.csv", src), ("item_features.csv", items), ("user_features.csv", users)]
    {
        fs::write(directory.join(name), text).unwrap();
    }
}
