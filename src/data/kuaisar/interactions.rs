//! Clicks and searches in compact columns: numbers of vocabularies, no text.

use std::{hash::BuildHasher, path::Path};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::log::{BadRows, Fault, Log, Row};
use crate::data::{DatasetError, Progress, Tokenizer, Vocabulary};

/// The source of a search that names none.
pub(super) const NO_SOURCE: u32 = u32::MAX;

/// Names of whatever the logs mention, numbered in the order of first mention.
#[derive(Default)]
pub(super) struct Names {
    pub users: Vocabulary,
    pub items: Vocabulary,
    pub queries: Vocabulary,
    pub sources: Vocabulary,
    pub search_ids: Vocabulary,
}

/// A clicked recommendation.
#[derive(Clone, Copy)]
pub(super) struct Click {
    pub time: i64,
    pub user: u32,
    pub item: u32,
}

/// What `rec_inter.csv` holds.
pub(super) struct Recommendations {
    pub clicks: Vec<Click>,
    pub rows: u64,
    pub unclicked: u64,
}

/// A search session, from its first row.
#[derive(Clone, Copy)]
pub(super) struct Search {
    pub time: i64,
    pub user: u32,
    pub id: u32,
    pub query: u32,
    /// [`NO_SOURCE`] where none is named.
    pub source: u32,
    /// The item of its first row: the result that was shown first.
    pub first_shown: u32,
    /// Hash of the keyword, to tell rows that disagree.
    keyword: u32,
}

/// What `src_inter.csv` holds.
#[derive(Default)]
pub(super) struct Searches {
    /// In the order of their first rows.
    pub searches: Vec<Search>,
    /// (search, item), in file order; an item may be clicked twice.
    pub clicks: Vec<(u32, u32)>,
    pub rows: u64,
    pub unclicked: u64,
    /// Rows whose keyword or time is not that of their search's first row.
    pub disagreeing: u64,
}

/// Reads `rec_inter.csv`.
pub(super) fn read_recommendations(
    dir: &Path,
    names: &mut Names,
    bad: &mut BadRows,
    progress: Progress,
) -> Result<Recommendations, DatasetError> {
    let log = Log::open(dir, "rec_inter.csv", progress)?;
    let (user, item) = (log.column("user_id")?, log.column("item_id")?);
    let (time, click) = (log.column("timestamp")?, log.column("click")?);
    let (mut clicks, mut unclicked) = (vec![], 0);
    let rows = log.each_row(bad, |row| {
        // All of a row is read before any of it is kept.
        let (user_id, item_id, milliseconds) = (row.id(user)?, row.id(item)?, row.milliseconds(time)?);
        if !row.flag(click)? {
            unclicked += 1;
            return Ok(());
        }
        clicks.push(Click {
            time: milliseconds,
            user: intern(&mut names.users, user_id).map_err(|message| row.fault(user, message))?,
            item: intern(&mut names.items, item_id).map_err(|message| row.fault(item, message))?,
        });
        Ok(())
    })?;
    Ok(Recommendations { clicks, rows, unclicked })
}

/// Reads `src_inter.csv`.
pub(super) fn read_searches(
    dir: &Path,
    names: &mut Names,
    tokenizer: Tokenizer,
    bad: &mut BadRows,
    progress: Progress,
) -> Result<Searches, DatasetError> {
    let log = Log::open(dir, "src_inter.csv", progress)?;
    let columns = SearchColumns {
        user: log.column("user_id")?,
        id: log.column("search_session_id")?,
        time: log.column("search_session_timestamp")?,
        keyword: log.column("keyword")?,
        source: log.column("search_source")?,
        item: log.column("item_id")?,
        clicks: log.column("click_cnt")?,
    };
    let mut found = Searches::default();
    let mut sessions = Sessions::default();
    let rows = log.each_row(bad, |row| {
        let result = columns.read(row)?;
        let too_many = |column| move |message: String| row.fault(column, message);
        let user = intern(&mut names.users, result.user).map_err(too_many(columns.user))?;
        let id = intern(&mut names.search_ids, result.id).map_err(too_many(columns.id))?;
        let item = intern(&mut names.items, result.item).map_err(too_many(columns.item))?;
        let keyword = sessions.hasher.hash_one(result.keyword) as u32;
        let number = match sessions.find(user, id, &found.searches) {
            Some(number) => {
                let search = &found.searches[number as usize];
                found.disagreeing += u64::from(search.keyword != keyword || search.time != result.time);
                number
            }
            None => {
                let query = intern(&mut names.queries, &tokenizer.canonical(result.keyword));
                let query = query.map_err(too_many(columns.keyword))?;
                let source = match result.source {
                    "" => NO_SOURCE,
                    source => intern(&mut names.sources, source).map_err(too_many(columns.source))?,
                };
                let search = Search { time: result.time, user, id, query, source, first_shown: item, keyword };
                sessions.insert(search, &mut found.searches).map_err(too_many(columns.id))?
            }
        };
        if result.clicked {
            found.clicks.push((number, item));
        } else {
            found.unclicked += 1;
        }
        Ok(())
    })?;
    found.rows = rows;
    Ok(found)
}

struct SearchColumns {
    user: usize,
    id: usize,
    time: usize,
    keyword: usize,
    source: usize,
    item: usize,
    clicks: usize,
}

/// A row of `src_inter.csv`: one result of a search.
struct SearchResult<'a> {
    user: &'a str,
    id: &'a str,
    time: i64,
    keyword: &'a str,
    source: &'a str,
    item: &'a str,
    clicked: bool,
}

impl SearchColumns {
    fn read<'a>(&self, row: Row<'a>) -> Result<SearchResult<'a>, Fault> {
        let source = row.text(self.source)?;
        Ok(SearchResult {
            user: row.id(self.user)?,
            id: row.id(self.id)?,
            time: row.milliseconds(self.time)?,
            keyword: row.text(self.keyword)?,
            source: if source.is_empty() { "" } else { row.id(self.source)? },
            item: row.id(self.item)?,
            clicked: row.positive(self.clicks)?,
        })
    }
}

/// From (user, session id) to the number of a search: session ids may repeat between users.
#[derive(Default)]
struct Sessions {
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Sessions {
    fn find(&self, user: u32, id: u32, searches: &[Search]) -> Option<u32> {
        let same = |&number: &u32| {
            let search = &searches[number as usize];
            (search.user, search.id) == (user, id)
        };
        self.numbers.find(self.hasher.hash_one((user, id)), same).copied()
    }

    fn insert(&mut self, search: Search, searches: &mut Vec<Search>) -> Result<u32, String> {
        let number =
            u32::try_from(searches.len()).map_err(|_| "more than 2^32 searches are not supported".to_owned())?;
        let hash = self.hasher.hash_one((search.user, search.id));
        searches.push(search);
        let (searches, hasher) = (&*searches, &self.hasher);
        self.numbers.insert_unique(hash, number, |&n| {
            let search = &searches[n as usize];
            hasher.hash_one((search.user, search.id))
        });
        Ok(number)
    }
}

/// The number of a name; an error where the catalogue's rows would no longer be countable in 32 bits.
pub(super) fn intern(vocabulary: &mut Vocabulary, name: &str) -> Result<u32, String> {
    // Two less than the maximum: one for a padding row, one for the count itself.
    if vocabulary.len() >= u32::MAX as usize - 2 && vocabulary.get(name).is_none() {
        return Err("more than 2^32 - 3 distinct values are not supported".to_owned());
    }
    Ok(vocabulary.insert(name))
}

/// Marks an entry; whether it was not marked before.
pub(super) fn used(marks: &mut [bool], number: u32) -> bool {
    !std::mem::replace(&mut marks[number as usize], true)
}
