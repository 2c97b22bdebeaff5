//! What an import read, kept and left out.

use std::{fmt, fs, path::Path};

use indicatif::{HumanCount, HumanFloatCount};
use serde::{Deserialize, Serialize};

use super::{UnclickedSearches, log::SpreadRows};
use crate::data::{DATASET_MANIFEST, Statistics};

/// Counts of an import. Shown as the paper's Table 1 row and a list of what was left out; recorded in `dataset.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Table 1.
    pub statistics: Statistics,
    /// Items with at least one action: clicked as a recommendation, or clicked in a search (`--unclicked-searches
    /// first-shown` counts the first shown result as clicked). The others are in the catalogue and can be ranked.
    pub items_acted_upon: u64,
    /// The first and the last click's time, in milliseconds since 1970.
    pub recommendation_times: Option<(i64, i64)>,
    /// The first and the last search's.
    pub search_times: Option<(i64, i64)>,
    /// Rows of `rec_inter.csv`.
    pub recommendation_rows: u64,
    /// Those with `click` = 0: left out.
    pub unclicked_recommendations: u64,
    /// Clicked ones that were there already, by user, item and time: left out.
    pub repeated_clicks: u64,
    /// Rows of `src_inter.csv`: shown results.
    pub search_rows: u64,
    /// Those with `click_cnt` = 0: not among their search's clicks.
    pub unclicked_results: u64,
    /// Rows whose keyword or time differs from their search's first row, which counts.
    pub disagreeing_search_rows: u64,
    /// Searches without any click.
    pub unclicked_searches: u64,
    /// What they count as (`--unclicked-searches`).
    pub unclicked_searches_as: UnclickedSearches,
    /// Those of them that were left out.
    pub dropped_searches: u64,
    /// Clicked items that `item_features.csv` doesn't have: their attributes are unknown.
    pub items_without_features: u64,
    /// Users that `user_features.csv` doesn't have: their attributes are unknown.
    pub users_without_features: u64,
    /// Rows of `user_features.csv` whose users have no action: left out.
    pub users_without_actions: u64,
    /// Searches without a `search_source`: they count as the most frequent one, as in the service.
    pub searches_without_source: u64,
    /// Searches whose keyword has no letter and no digit: their query says nothing.
    pub searches_without_words: u64,
    /// Rows on more than one line: where nobody writes text of several lines, an open quote has swallowed rows.
    pub spread_rows: SpreadRows,
    /// Rows that could not be used.
    pub bad_rows: u64,
    /// The first of them: file, line, column and what is wrong.
    pub bad_row_examples: Vec<String>,
    /// How long reading took.
    pub seconds: f64,
}

/// How many searches of a data set had no click and count by their first shown result. Nothing where none do, or where
/// the report in its `dataset.json` doesn't say: those of earlier versions had no [`Report::unclicked_searches_as`].
pub fn searches_by_first_shown(dir: &Path) -> Option<u64> {
    #[derive(Deserialize)]
    struct Manifest {
        import: Import,
    }
    #[derive(Deserialize)]
    struct Import {
        unclicked_searches: u64,
        #[serde(default)]
        unclicked_searches_as: Option<UnclickedSearches>,
    }
    let json = fs::read(dir.join(DATASET_MANIFEST)).ok()?;
    let Manifest { import } = serde_json::from_slice(&json).ok()?;
    let counted = import.unclicked_searches_as == Some(UnclickedSearches::FirstShown);
    Some(import.unclicked_searches).filter(|&searches| counted && searches > 0)
}

impl Report {
    /// What is read without a fault and is hardly meant.
    pub fn doubts(&self) -> Vec<String> {
        // March 1973, or a time of today in seconds.
        const FIRST_PLAUSIBLE: i64 = 100_000_000_000;
        let mut doubts = vec![];
        for (file, times) in [("rec_inter.csv", self.recommendation_times), ("src_inter.csv", self.search_times)] {
            if let Some((first, _)) = times.filter(|&(first, _)| first < FIRST_PLAUSIBLE) {
                doubts.push(format!(
                    "{file}: times begin with {first}, which is in 1973 or before: are they seconds? Milliseconds are meant"
                ));
            }
        }
        if let (Some(clicks), Some(searches)) = (self.recommendation_times, self.search_times)
            && (clicks.1 < searches.0 || searches.1 < clicks.0)
        {
            doubts
                .push("no search was made while recommendations were clicked: are both files of the same time?".into());
        }
        doubts
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Statistics { users, items, queries, actions_search, actions_recommendation } = self.statistics;
        let table = [
            ("users", users),
            ("items", items),
            ("queries", queries),
            ("actions S", actions_search),
            ("actions R", actions_recommendation),
        ]
        .map(|(name, count)| (name, HumanCount(count).to_string()));
        let width = |(name, count): &(&str, String)| name.len().max(count.len());
        let line = |f: &mut fmt::Formatter<'_>, cell: &dyn Fn(&(&'static str, String)) -> String| {
            let cells: Vec<String> = table.iter().map(|entry| format!("{:>1$}", cell(entry), width(entry))).collect();
            writeln!(f, "  {}", cells.join("   "))
        };
        line(f, &|(name, _)| (*name).to_owned())?;
        line(f, &|(_, count)| count.clone())?;
        let acted_upon = HumanCount(self.items_acted_upon);
        writeln!(f, "  {acted_upon} of the {} items in the catalogue were acted upon", HumanCount(items))?;
        writeln!(f)?;
        let rows = self.recommendation_rows + self.search_rows;
        let rate = HumanFloatCount((rows as f64 / self.seconds.max(1e-3)).round());
        writeln!(f, "{} log rows in {:.1} s ({rate} rows/s)", HumanCount(rows), self.seconds)?;
        let day = |millis: i64| jiff::Timestamp::from_millisecond(millis).map(|time| time.strftime("%F").to_string());
        for (what, times) in [("clicks", self.recommendation_times), ("searches", self.search_times)] {
            if let Some((Ok(first), Ok(last))) = times.map(|(first, last)| (day(first), day(last))) {
                writeln!(f, "{what} from {first} to {last}")?;
            }
        }
        let left_out = [
            (self.unclicked_recommendations, "recommendations were shown and not clicked: left out"),
            (self.repeated_clicks, "clicks were there twice (user, item and time): left out once"),
            (self.unclicked_results, "search results were shown and not clicked: not among their search's clicks"),
            (self.unclicked_searches, "searches had no click (see --unclicked-searches)"),
            (self.dropped_searches, "of them were left out"),
            (self.disagreeing_search_rows, "search rows disagree with their session's first row on keyword or time"),
            (self.searches_without_source, "searches have no search_source: they count as the most frequent one"),
            (self.searches_without_words, "searches have no word in their keyword, no letter and no digit"),
            (self.items_without_features, "clicked items are not in item_features.csv: attributes unknown"),
            (self.users_without_features, "users are not in user_features.csv: attributes unknown"),
            (self.users_without_actions, "rows of user_features.csv belong to users without any action: left out"),
            (self.spread_rows.rows, "rows go on over several lines"),
            (self.bad_rows, "bad rows were skipped"),
        ]
        .map(|(count, what)| (count, HumanCount(count).to_string(), what));
        let width = left_out.iter().map(|(_, text, _)| text.len()).max().unwrap_or(0);
        for (_, count, what) in left_out.iter().filter(|(count, ..)| *count > 0) {
            writeln!(f, "  {count:>width$} {what}")?;
        }
        if let Some(longest) = &self.spread_rows.longest {
            let lines = HumanCount(self.spread_rows.further_lines);
            writeln!(
                f,
                "    {lines} further lines in all, most of one row at {longest}: if they are rows of their own, a quote \
                 (\") is open there"
            )?;
        }
        for example in &self.bad_row_examples {
            writeln!(f, "    {example}")?;
        }
        let untold = self.bad_rows - self.bad_row_examples.len() as u64;
        if untold > 0 {
            writeln!(f, "    and {untold} more")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_says_how_searches_without_a_click_count() {
        let dir = tempfile::tempdir().unwrap();
        let said = |import: serde_json::Value| {
            let manifest = serde_json::json!({ "format_version": 1, "import": import });
            fs::write(dir.path().join(DATASET_MANIFEST), manifest.to_string()).unwrap();
            searches_by_first_shown(dir.path())
        };
        let report = |unclicked_searches, unclicked_searches_as| {
            serde_json::to_value(Report { unclicked_searches, unclicked_searches_as, ..Report::default() }).unwrap()
        };
        assert_eq!(said(report(7, UnclickedSearches::FirstShown)), Some(7));
        assert_eq!(said(report(0, UnclickedSearches::FirstShown)), None);
        assert_eq!(said(report(7, UnclickedSearches::Keep)), None);
        assert_eq!(said(report(7, UnclickedSearches::Drop)), None);
        // Of an earlier version, and of another import.
        assert_eq!(said(serde_json::json!({ "unclicked_searches": 7 })), None);
        assert_eq!(said(serde_json::json!({ "unclicked_searches_as": "first-shown" })), None);
        assert_eq!(searches_by_first_shown(&dir.path().join("absent")), None);
    }
}
