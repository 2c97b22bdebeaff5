//! An imported data set in memory: every user's clicked recommendations and searches in catalogue rows, by time.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Catalogue, Featurizer, RowHistory, RowSearch, UserFeatures, UserRow};

/// Why a data set can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file can't be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {message}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong and, where it helps, what to do.
        message: String,
    },
    /// A row of a log that can't be used.
    #[error("{path}:{line}: column {column}: {message}")]
    Row {
        /// Which file.
        path: PathBuf,
        /// The line that the row begins at; the header is line 1.
        line: u64,
        /// Which column, by its name in the header.
        column: String,
        /// What is wrong with its value.
        message: String,
    },
    /// A directory that would have to be replaced.
    #[error("{path}: {message}")]
    Exists {
        /// Which directory.
        path: PathBuf,
        /// What to do about it.
        message: String,
    },
}

/// The paper's Table 1 row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// Users with at least one action.
    pub users: u64,
    /// Items of the catalogue: every row of `item_features.csv`, acted upon or not, and clicked items that it lacks.
    /// How many were acted upon is in the import's report.
    pub items: u64,
    /// Distinct queries.
    pub queries: u64,
    /// Searches (sessions).
    pub actions_search: u64,
    /// Clicked recommendations.
    pub actions_recommendation: u64,
}

/// Which part of the leave-one-out split: a user's last interaction is test, the one before validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Everything before the two.
    Train,
    /// The last but one.
    Validation,
    /// The last.
    Test,
}

impl Split {
    /// The part that a user's `position`-th of `interactions` belongs to: with fewer than three all are training.
    pub fn of(position: usize, interactions: usize) -> Self {
        match interactions.saturating_sub(position) {
            1 if interactions >= 3 => Self::Test,
            2 if interactions >= 3 => Self::Validation,
            _ => Self::Train,
        }
    }

    /// How many of a user's `interactions` are training: all but the last two, or all of fewer than three.
    pub fn training(interactions: usize) -> usize {
        if interactions >= 3 { interactions - 2 } else { interactions }
    }

    /// As in `recommendations.parquet`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// An interaction to predict: the `position`-th recommendation of a user, from what lies before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// User row.
    pub user: u32,
    /// Index into [`Dataset::recommendations`].
    pub position: u32,
}

/// A click on a result of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchClick {
    /// User row.
    pub user: u32,
    /// Which of the user's searches, the oldest first.
    pub search: u32,
    /// When it was asked, in milliseconds since 1970.
    pub time: i64,
    /// Query row.
    pub query: u32,
    /// Item row.
    pub item: u32,
}

/// Interactions by user, oldest first, in compressed sparse rows: 12 bytes per recommendation and about 30 per search.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Items, users, queries, words, sources.
    pub catalogue: Arc<Catalogue>,
    /// Table 1.
    pub statistics: Statistics,
    /// Checksum over the directory's files: recorded with every model trained on it.
    pub checksum: String,
    /// A data set that shows them otherwise has the same ones.
    pub(super) columns: Arc<Columns>,
    /// See [`Self::with_validation_learned`].
    pub(super) validation_learned: bool,
}

/// All users' interactions, one user after another; `_ends` say where each's, or each search's, end.
#[derive(Debug, Clone, Default)]
pub(super) struct Columns {
    pub(super) rec_ends: Vec<u64>,
    pub(super) rec_items: Vec<u32>,
    pub(super) rec_times: Vec<i64>,
    pub(super) src_ends: Vec<u64>,
    pub(super) src_times: Vec<i64>,
    pub(super) src_queries: Vec<u32>,
    pub(super) src_sources: Vec<u32>,
    pub(super) click_ends: Vec<u64>,
    pub(super) clicks: Vec<u32>,
}

impl Dataset {
    /// The same data set, where `learned` with the validation interactions in the training part and none left to
    /// validate on: for learning once more from all that lies before the test, when validation has said how, and for
    /// whatever is compared with what did.
    pub fn with_validation_learned(&self, learned: bool) -> Self {
        Self { validation_learned: learned, ..self.clone() }
    }

    /// How many of a user's interactions are the training part, the oldest ones.
    pub fn learned(&self, user: u32) -> usize {
        let interactions = self.recommendations(user).len();
        let validation = usize::from(self.validation_learned && interactions >= 3);
        Split::training(interactions) + validation
    }

    /// User rows.
    pub fn users(&self) -> usize {
        self.columns.rec_ends.len()
    }

    /// Item rows of a user's clicked recommendations, oldest first.
    pub fn recommendations(&self, user: u32) -> &[u32] {
        &self.columns.rec_items[range(&self.columns.rec_ends, user as usize)]
    }

    /// Milliseconds since 1970, parallel to [`Self::recommendations`].
    pub fn recommendation_times(&self, user: u32) -> &[i64] {
        &self.columns.rec_times[range(&self.columns.rec_ends, user as usize)]
    }

    /// Milliseconds since 1970 of a user's searches, oldest first.
    pub fn search_times(&self, user: u32) -> &[i64] {
        &self.columns.src_times[range(&self.columns.src_ends, user as usize)]
    }

    /// A user's searches, oldest first, parallel to [`Self::search_times`].
    pub fn searches(&self, user: u32) -> Vec<RowSearch<'_>> {
        self.search_rows(user, range(&self.columns.src_ends, user as usize))
    }

    /// The item to predict.
    pub fn item(&self, target: Target) -> u32 {
        self.recommendations(target.user)[target.position as usize]
    }

    /// When it happened, in milliseconds since 1970.
    pub fn time(&self, target: Target) -> i64 {
        self.recommendation_times(target.user)[target.position as usize]
    }

    /// How many of the user's searches lie strictly before the target: no other is ever visible to it.
    pub fn searches_before(&self, target: Target) -> usize {
        let time = self.time(target);
        self.search_times(target.user).partition_point(|&search| search < time)
    }

    /// How many of a user's searches are training: those that lie strictly before the first interaction that is not, or
    /// all where there is none.
    pub fn training_searches(&self, user: u32) -> usize {
        let times = self.recommendation_times(user);
        let end = times.get(self.learned(user)).copied().unwrap_or(i64::MAX);
        self.search_times(user).partition_point(|&time| time < end)
    }

    /// The clicks of all users' training searches that have a query.
    pub fn training_search_clicks(&self) -> impl Iterator<Item = SearchClick> {
        let of_user = move |user: u32| {
            let first = range(&self.columns.src_ends, user as usize).start;
            let searches = (0..self.training_searches(user)).map(move |n| (n, first + n));
            let with_query = searches.filter(|&(_, at)| self.columns.src_queries[at] != 0);
            with_query.flat_map(move |(n, at)| {
                let (search, time, query) = (n as u32, self.columns.src_times[at], self.columns.src_queries[at]);
                self.clicked(at).iter().map(move |&item| SearchClick { user, search, time, query, item })
            })
        };
        (0..self.users() as u32).flat_map(of_user)
    }

    /// What the model sees when it predicts the target.
    pub fn features(&self, target: Target, featurizer: &Featurizer) -> UserFeatures {
        let sources = range(&self.columns.src_ends, target.user as usize);
        let end = sources.start + self.searches_before(target);
        let start = end.saturating_sub(featurizer.limits().searches).max(sources.start);
        let searches = self.search_rows(target.user, start..end);
        let recommendations = &self.recommendations(target.user)[..target.position as usize];
        let history = RowHistory { recommendations, searches: &searches };
        featurizer.from_rows(UserRow::Known(target.user), history).as_of(self.time(target))
    }

    /// What the model sees of a user's `search`-th search: all that lies strictly before it.
    pub fn features_at_search(&self, user: u32, search: usize, featurizer: &Featurizer) -> UserFeatures {
        let (times, sources) = (self.search_times(user), range(&self.columns.src_ends, user as usize));
        let earlier = times.partition_point(|&time| time < times[search]);
        let first = earlier.saturating_sub(featurizer.limits().searches);
        let searches = self.search_rows(user, sources.start + first..sources.start + earlier);
        let visible = self.recommendation_times(user).partition_point(|&time| time < times[search]);
        let history = RowHistory { recommendations: &self.recommendations(user)[..visible], searches: &searches };
        featurizer.from_rows(UserRow::Known(user), history).as_of(times[search])
    }

    /// What the model would see of the user after everything in the data set.
    pub fn whole_history(&self, user: u32, featurizer: &Featurizer) -> UserFeatures {
        let searches = self.searches(user);
        let history = RowHistory { recommendations: self.recommendations(user), searches: &searches };
        featurizer.from_rows(UserRow::Known(user), history)
    }

    /// The targets of one part of the split, by user, then time. Users with fewer than three interactions are all
    /// training. A user's first interaction is never a target: there is no history to predict it from.
    pub fn targets(&self, split: Split) -> Vec<Target> {
        let mut targets = vec![];
        for user in 0..self.users() as u32 {
            let (n, learned) = (self.recommendations(user).len() as u32, self.learned(user) as u32);
            let positions = match (split, n >= 3) {
                (Split::Train, _) => 1..learned.max(1),
                (Split::Validation, true) => learned..n - 1,
                (Split::Test, true) => n - 1..n,
                (_, false) => 0..0,
            };
            targets.extend(positions.map(|position| Target { user, position }));
        }
        targets
    }

    /// Training clicks per item row: interactions that are not of the training part are not counted.
    pub fn popularity(&self) -> Vec<u32> {
        let mut clicks = vec![0; self.catalogue.items.rows()];
        for user in 0..self.users() as u32 {
            let learned = &self.recommendations(user)[..self.learned(user)];
            learned.iter().for_each(|&item| clicks[item as usize] += 1);
        }
        clicks
    }

    fn search_rows(&self, user: u32, range: std::ops::Range<usize>) -> Vec<RowSearch<'_>> {
        let times = self.recommendation_times(user);
        range
            .map(|n| RowSearch {
                query: self.columns.src_queries[n],
                words: self.catalogue.words_of(self.columns.src_queries[n]),
                source: self.columns.src_sources[n],
                clicks: self.clicked(n),
                place: times.partition_point(|&recommendation| recommendation <= self.columns.src_times[n]),
            })
            .collect()
    }

    /// The clicked items of the `search`-th search of a user.
    pub fn clicks_of_search(&self, user: u32, search: u32) -> &[u32] {
        self.clicked(range(&self.columns.src_ends, user as usize).start + search as usize)
    }

    /// The clicked items of the `search`-th search of all.
    pub(super) fn clicked(&self, search: usize) -> &[u32] {
        &self.columns.clicks[range(&self.columns.click_ends, search)]
    }
}

fn range(ends: &[u64], n: usize) -> std::ops::Range<usize> {
    let start = if n == 0 { 0 } else { ends[n - 1] as usize };
    start..ends[n] as usize
}
