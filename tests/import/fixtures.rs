//! Small logs, and data sets by name instead of row.

use std::{fs, path::Path};

use sesrec::data::{
    Dataset,
    kuaisar::{self, ImportOptions, Imported},
};
use tempfile::TempDir;

pub const REC: &str = "rec_inter.csv";
pub const SRC: &str = "src_inter.csv";
pub const ITEMS: &str = "item_features.csv";
pub const USERS: &str = "user_features.csv";

/// Columns in an order of their own, with one that nobody reads: they are found by name.
pub const LOGS: [(&str, &str); 4] = [
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

pub fn write_logs(logs: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in logs {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// The logs with one file changed.
pub fn changed(file: &str, change: impl Fn(&str) -> String) -> TempDir {
    let dir = write_logs(&LOGS);
    let text = LOGS.iter().find(|(name, _)| *name == file).unwrap().1;
    fs::write(dir.path().join(file), change(text)).unwrap();
    dir
}

pub fn import(dir: &Path) -> Imported {
    kuaisar::read(dir, &ImportOptions::default()).unwrap()
}

pub fn refusal(dir: &Path, options: &ImportOptions) -> String {
    kuaisar::read(dir, options).expect_err("must be refused").to_string()
}

/// A user's items by name.
pub fn items(dataset: &Dataset, user: &str) -> Vec<String> {
    let user = dataset.catalogue.users.row(user).unwrap();
    dataset.recommendations(user).iter().map(|&row| dataset.catalogue.items.id(row).unwrap().to_owned()).collect()
}

/// A user's searches: query, source, clicks.
pub fn searches(dataset: &Dataset, user: &str) -> Vec<(String, String, Vec<String>)> {
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

pub fn attribute(dataset: &Dataset, table: &str, name: &str) -> Vec<u32> {
    let table = if table == "items" { &dataset.catalogue.items } else { &dataset.catalogue.users };
    table.attribute(name).unwrap().values.clone()
}

pub fn search(query: &str, source: &str, clicks: &[&str]) -> (String, String, Vec<String>) {
    (query.into(), source.into(), clicks.iter().map(|&click| click.to_owned()).collect())
}
