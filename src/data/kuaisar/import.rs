//! The import itself: read the four files, keep what counts, sort it by user and time.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Report,
    attributes::{ItemColumn, ItemFeatures, UserFeatures, read_items, read_users},
    interactions::{Click, NO_SOURCE, Names, Recommendations, Searches, read_recommendations, read_searches, used},
    log::BadRows,
};
use crate::data::{
    Catalogue, Dataset, DatasetError, EntityTable, Existing, LogNames, Progress, StagedDirectory, Tokenizer,
    Vocabulary, WordLists,
    dataset_io::{AttributeValues, DATASET_MANIFEST, UserRows},
};

/// What a search that led to no click counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum UnclickedSearches {
    /// As a search whose first shown, most relevant result was clicked: so it is in the SESRec release's data, whose
    /// figures this reproduces. The service gives such a search no click: a model that you serve on live events learns
    /// from what it will see with `keep`.
    #[default]
    FirstShown,
    /// As a search without clicks, as in the service: its query is all there is.
    Keep,
    /// As nothing: it is left out.
    Drop,
}

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Rows that may be unusable, over all files; one more is an error.
    pub skip_bad_rows: u64,
    /// What to do with searches that led to no click.
    pub unclicked_searches: UnclickedSearches,
    /// Columns of `item_features.csv` that become attributes of items, besides type and both categories.
    pub item_columns: Vec<ItemColumn>,
    /// How query text is split.
    pub tokenizer: Tokenizer,
    /// Whether to show how far it is.
    pub progress: Progress,
}

/// Logs in memory, ready to be written.
#[derive(Debug)]
pub struct Imported {
    /// The data set; without a checksum until it is written.
    pub dataset: Dataset,
    /// How the logs call what it only numbers.
    pub names: LogNames,
    /// What was read, kept and left out.
    pub report: Report,
}

impl Imported {
    /// Whether `out` can be written: to be asked before the import, which may take a while.
    pub fn check_target(out: &Path, existing: Existing) -> Result<(), DatasetError> {
        StagedDirectory::check(out, DATASET_MANIFEST, existing)
    }

    /// Writes the data set directory, whole or not at all; the report is recorded in its `dataset.json`.
    pub fn write(&mut self, out: &Path, existing: Existing) -> Result<(), DatasetError> {
        self.dataset.write(out, existing, &self.names, &self.report)
    }
}

/// Reads the logs in `dir`.
///
/// # Errors
/// Names the file, and for a row its line and column.
pub fn read(dir: &Path, options: &ImportOptions) -> Result<Imported, DatasetError> {
    let started = Instant::now();
    let ImportOptions { tokenizer, progress, .. } = *options;
    let mut bad = BadRows::new(options.skip_bad_rows);
    let mut names = Names::default();
    let item_features = read_items(dir, &mut names.items, &options.item_columns, tokenizer, &mut bad, progress)?;
    let items_with_features = names.items.len();
    let recommendations = read_recommendations(dir, &mut names, &mut bad, progress)?;
    let searches = read_searches(dir, &mut names, tokenizer, &mut bad, progress)?;
    let user_features = read_users(dir, &names.users, &mut bad, progress)?;

    let mut report = Report {
        recommendation_times: span(recommendations.clicks.iter().map(|click| click.time)),
        search_times: span(searches.searches.iter().map(|search| search.time)),
        recommendation_rows: recommendations.rows,
        unclicked_recommendations: recommendations.unclicked,
        search_rows: searches.rows,
        unclicked_results: searches.unclicked,
        disagreeing_search_rows: searches.disagreeing,
        unclicked_searches_as: options.unclicked_searches,
        users_without_actions: user_features.other_users,
        bad_rows: bad.count,
        bad_row_examples: bad.examples,
        spread_rows: bad.spread,
        ..Report::default()
    };
    let searches = Kept::new(searches, options.unclicked_searches, &mut report);
    if recommendations.clicks.is_empty() && searches.order.is_empty() {
        let message = "has no clicked recommendation and no search: is rec_inter.csv's click column right?";
        return Err(DatasetError::format(dir, message));
    }
    let (dataset, names) = Assembly { names, items_with_features, item_features, user_features, tokenizer }
        .build(recommendations, searches, &mut report)
        .map_err(|message| DatasetError::format(dir, message))?;
    report.statistics = dataset.statistics;
    report.seconds = started.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    Ok(Imported { dataset, names, report })
}

/// The first and the last.
fn span(times: impl Iterator<Item = i64> + Clone) -> Option<(i64, i64)> {
    Some((times.clone().min()?, times.max()?))
}

/// The searches that count, with their clicks.
struct Kept {
    found: Searches,
    /// Numbers of kept searches by user as first mentioned, then time, then file order.
    order: Vec<u32>,
    /// Distinct clicked items by search number.
    click_ends: Vec<u64>,
    clicks: Vec<u32>,
}

impl Kept {
    fn new(mut found: Searches, unclicked: UnclickedSearches, report: &mut Report) -> Self {
        let mut raw = std::mem::take(&mut found.clicks);
        // Stable: within a search, clicks stay in file order.
        raw.sort_by_key(|&(search, _)| search);
        let (mut click_ends, mut clicks) = (Vec::with_capacity(found.searches.len()), Vec::with_capacity(raw.len()));
        let mut order = Vec::with_capacity(found.searches.len());
        let mut raw = raw.into_iter().peekable();
        let mut seen = hashbrown::HashSet::new();
        for (number, search) in (0u32..).zip(&found.searches) {
            let start = clicks.len();
            seen.clear();
            while let Some((_, item)) = raw.next_if(|&(search, _)| search == number) {
                if seen.insert(item) {
                    clicks.push(item);
                }
            }
            let clicked = clicks.len() > start;
            report.unclicked_searches += u64::from(!clicked);
            match unclicked {
                UnclickedSearches::FirstShown if !clicked => clicks.push(search.first_shown),
                _ => {}
            }
            if clicked || unclicked != UnclickedSearches::Drop {
                order.push(number);
            } else {
                report.dropped_searches += 1;
            }
            click_ends.push(clicks.len() as u64);
        }
        order.sort_unstable_by_key(|&number| {
            let search = &found.searches[number as usize];
            (search.user, search.time, number)
        });
        Self { found, order, click_ends, clicks }
    }

    /// How many of them ask a query.
    fn asking(&self, query: u32) -> u64 {
        let asks = |&&number: &&u32| self.found.searches[number as usize].query == query;
        self.order.iter().filter(asks).count() as u64
    }

    fn clicks(&self, number: u32) -> &[u32] {
        let number = number as usize;
        let start = if number == 0 { 0 } else { self.click_ends[number - 1] as usize };
        &self.clicks[start..self.click_ends[number] as usize]
    }
}

/// Everything besides the interactions.
struct Assembly {
    names: Names,
    items_with_features: usize,
    item_features: ItemFeatures,
    user_features: UserFeatures,
    tokenizer: Tokenizer,
}

impl Assembly {
    /// Numbers everything that is used, in the order of mention, and lays the interactions out by user and time.
    fn build(
        self,
        mut recommendations: Recommendations,
        kept: Kept,
        report: &mut Report,
    ) -> Result<(Dataset, LogNames), String> {
        let clicks = &mut recommendations.clicks;
        // Stable: clicks of one time stay in file order.
        clicks.sort_by_key(|click| (click.user, click.time));
        report.repeated_clicks = drop_repeated(clicks);
        let mut marks = Marks::of(&self.names, clicks, &kept);
        report.searches_without_source = kept.order.len() as u64 - marks.source_counts.iter().sum::<u64>();
        // Queries are known by their words, joined.
        report.searches_without_words = self.names.queries.get("").map_or(0, |wordless| kept.asking(wordless));
        report.items_acted_upon = count(&marks.items);
        // The others can be ranked, too: every item with features is in the catalogue.
        marks.items[..self.items_with_features].fill(true);
        report.items_without_features = count(&marks.items[self.items_with_features..]);
        let without_row = marks.users.iter().zip(&self.user_features.known).filter(|&(&used, &known)| used && !known);
        report.users_without_features = without_row.count() as u64;
        self.number(&marks)?.lay_out(clicks, &kept)
    }

    /// The catalogue of what is marked.
    fn number(self, marks: &Marks) -> Result<Numbered, String> {
        let Names { users, items, queries, sources, search_ids } = self.names;
        let mut item_table = EntityTable::padded();
        let mut user_table = EntityTable::default();
        let mut attributes = vec![];
        for column in self.item_features.attributes {
            let (attribute, values) = column.finish("items", &marks.items, item_table.first_row);
            item_table.attributes.push(attribute);
            attributes.push(values);
        }
        for column in self.user_features.attributes {
            let (attribute, values) = column.finish("users", &marks.users, user_table.first_row);
            user_table.attributes.push(attribute);
            attributes.push(values);
        }
        let (user_ids, users) = numbered(users, &marks.users, 0);
        let (item_ids, items) = numbered(items, &marks.items, 1);
        let (query_ids, queries) = numbered(queries, &marks.queries, 1);
        let (mut source_ids, sources) = numbered(sources, &marks.sources, 0);
        (user_table.ids, item_table.ids) = (user_ids, item_ids);
        // The most frequent source stands for one that is not named, here and in the service.
        let counts = &marks.source_counts;
        let default_source = (0..counts.len())
            .filter(|&source| counts[source] > 0)
            .max_by_key(|&source| (counts[source], std::cmp::Reverse(source)))
            .map_or(0, |source| sources[source]);
        if source_ids.is_empty() {
            source_ids.insert("unknown");
        }
        let (mut words, query_words) = words(&query_ids);
        let query_table = EntityTable { ids: query_ids, words: query_words, ..EntityTable::padded() };
        item_table.words = self.item_features.captions.finish(&marks.items, &mut words)?;
        let catalogue = Catalogue {
            items: item_table,
            users: user_table,
            queries: query_table,
            words,
            sources: EntityTable { ids: source_ids, ..EntityTable::default() },
            default_source,
            tokenizer: self.tokenizer,
        };
        Ok(Numbered { catalogue, users, items, queries, sources, search_ids, attributes })
    }
}

/// A catalogue, and in which of its rows is what the logs mention, by the number that reading gave it.
struct Numbered {
    catalogue: Catalogue,
    users: Vec<u32>,
    items: Vec<u32>,
    queries: Vec<u32>,
    sources: Vec<u32>,
    search_ids: Vocabulary,
    attributes: Vec<AttributeValues>,
}

impl Numbered {
    /// Interactions, which are sorted, in columns.
    fn lay_out(self, clicks: &[Click], kept: &Kept) -> Result<(Dataset, LogNames), String> {
        let Self { catalogue, users, items, queries, sources, search_ids, attributes } = self;
        let (user_count, default_source) = (catalogue.users.ids.len(), catalogue.default_source);
        let mut dataset = Dataset::empty(Arc::new(catalogue));
        let columns = Arc::make_mut(&mut dataset.columns);
        let mut rows = UserRows::new(user_count);
        for click in clicks {
            rows.push(users[click.user as usize], click.time)?;
            columns.rec_items.push(items[click.item as usize]);
            columns.rec_times.push(click.time);
        }
        columns.rec_ends = rows.finish();
        let mut rows = UserRows::new(user_count);
        let mut names = LogNames { search_ids, by_search: Vec::with_capacity(kept.order.len()), attributes };
        for &number in &kept.order {
            let search = &kept.found.searches[number as usize];
            rows.push(users[search.user as usize], search.time)?;
            columns.src_times.push(search.time);
            columns.src_queries.push(queries[search.query as usize]);
            let named = (search.source != NO_SOURCE).then(|| sources[search.source as usize]);
            columns.src_sources.push(named.unwrap_or(default_source));
            columns.clicks.extend(kept.clicks(number).iter().map(|&item| items[item as usize]));
            columns.click_ends.push(columns.clicks.len() as u64);
            names.by_search.push(search.id);
        }
        columns.src_ends = rows.finish();
        dataset.count();
        Ok((dataset, names))
    }
}

/// What kept actions mention.
struct Marks {
    users: Vec<bool>,
    items: Vec<bool>,
    queries: Vec<bool>,
    sources: Vec<bool>,
    /// Searches by source.
    source_counts: Vec<u64>,
}

impl Marks {
    fn of(names: &Names, clicks: &[Click], kept: &Kept) -> Self {
        let none = |names: &Vocabulary| vec![false; names.len()];
        let mut marks = Self {
            users: none(&names.users),
            items: none(&names.items),
            queries: none(&names.queries),
            sources: none(&names.sources),
            source_counts: vec![0; names.sources.len()],
        };
        for click in clicks {
            used(&mut marks.users, click.user);
            used(&mut marks.items, click.item);
        }
        for &number in &kept.order {
            let search = &kept.found.searches[number as usize];
            used(&mut marks.users, search.user);
            used(&mut marks.queries, search.query);
            if search.source != NO_SOURCE {
                used(&mut marks.sources, search.source);
                marks.source_counts[search.source as usize] += 1;
            }
            for &item in kept.clicks(number) {
                used(&mut marks.items, item);
            }
        }
        marks
    }
}

/// Leaves out rows that are there twice, as where files were joined that overlap: the newest click would be in the
/// history before itself. How many those were. `clicks` are sorted by user and time.
fn drop_repeated(clicks: &mut Vec<Click>) -> u64 {
    let before = clicks.len();
    // Items of the user and time that the loop is at.
    let (mut at, mut items) = (None, vec![]);
    clicks.retain(|click| {
        if at.replace((click.user, click.time)) != Some((click.user, click.time)) {
            items.clear();
        }
        let new = !items.contains(&click.item);
        if new {
            items.push(click.item);
        }
        new
    });
    (before - clicks.len()) as u64
}

/// The ids that are used, and from numbers in the logs' order of mention to their rows of the catalogue.
fn numbered(names: Vocabulary, used: &[bool], first_row: u32) -> (Vocabulary, Vec<u32>) {
    let mut next = first_row;
    let rows = used
        .iter()
        .map(|&used| {
            let row = next;
            next += u32::from(used);
            row
        })
        .collect();
    let ids = if used.iter().all(|&used| used) {
        names
    } else {
        names.iter().zip(used).filter(|&(_, &used)| used).map(|(name, _)| name).collect()
    };
    (ids, rows)
}

/// The words of all queries, which are canonical text: words joined by a blank.
fn words(queries: &Vocabulary) -> (EntityTable, WordLists) {
    let mut words = EntityTable::padded();
    let lists = queries.iter().map(|query| {
        let rows = query.split(' ').filter(|word| !word.is_empty());
        rows.map(|word| words.ids.insert(word) + words.first_row).collect::<Vec<u32>>()
    });
    let lists = lists.collect();
    (words, lists)
}

fn count(marks: &[bool]) -> u64 {
    marks.iter().filter(|&&mark| mark).count() as u64
}
