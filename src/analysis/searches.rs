//! Fig. 1b: how searches begin, and whether they are about what recommendation shows.
//!
//! A search is *passive* where its source says that something shown set it off, else *spontaneous*. It is *similar*
//! when a category of the items clicked in it occurs among the user's recommendation clicks of the seven days before
//! (the estimate of the paper's FAQ), *dissimilar* when none does, and *unknown* when no clicked item has a category.

use std::{collections::BTreeMap, time::Duration};

use hashbrown::HashMap;
use indicatif::HumanCount;

use super::Categories;
use crate::{
    data::Dataset,
    plot::{Axis, BarSegment, Bars, Figure},
    table::Table,
};

/// How far back recommendation clicks count.
const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);

/// Searches counted by what they are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SearchGroup {
    /// Of a category that recommendation clicks of the week before have.
    pub similar: u64,
    /// Of another.
    pub dissimilar: u64,
    /// Without a clicked item whose category is known.
    pub unknown: u64,
    /// Those of the dissimilar ones that no recommendation click came before within the week.
    pub without_recommendation: u64,
}

/// A data set's searches by how they began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchShares {
    /// By source, in the catalogue's order.
    pub sources: Vec<(String, SearchGroup)>,
    /// Those of passive sources; `None` where no source is passive: then the logs don't tell.
    pub passive: Option<SearchGroup>,
    /// All others; likewise.
    pub spontaneous: Option<SearchGroup>,
    /// All.
    pub all: SearchGroup,
}

impl SearchGroup {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.similar + self.dissimilar + self.unknown
    }

    fn add(&mut self, other: Self) {
        self.similar += other.similar;
        self.dissimilar += other.dissimilar;
        self.unknown += other.unknown;
        self.without_recommendation += other.without_recommendation;
    }

    /// The share of the dissimilar ones among those that are known.
    pub fn dissimilar_share(&self) -> Option<f64> {
        share(self.dissimilar, self.similar + self.dissimilar)
    }
}

impl SearchShares {
    /// Counts the searches of a data set.
    pub fn of(dataset: &Dataset, categories: Categories<'_>, passive_sources: &[String]) -> Self {
        let names = &dataset.catalogue.sources;
        let mut by_source = vec![SearchGroup::default(); names.rows()];
        let window = WINDOW.as_millis() as i64;
        for user in 0..dataset.users() as u32 {
            let (items, times) = (dataset.recommendations(user), dataset.recommendation_times(user));
            // How often each category occurs in the window, which moves along with the searches.
            let (mut recent, mut start, mut end) = (HashMap::<u32, u32>::new(), 0, 0);
            for (search, &time) in dataset.searches(user).iter().zip(dataset.search_times(user)) {
                while end < items.len() && times[end] <= time {
                    categories
                        .of(items[end])
                        .into_iter()
                        .for_each(|category| *recent.entry(category).or_default() += 1);
                    end += 1;
                }
                while start < end && times[start] < time - window {
                    if let Some(count) = categories.of(items[start]).and_then(|category| recent.get_mut(&category)) {
                        *count -= 1;
                    }
                    start += 1;
                }
                let mut clicked = search.clicks.iter().filter_map(|&item| categories.of(item)).peekable();
                let group = &mut by_source[search.source as usize];
                if clicked.peek().is_none() {
                    group.unknown += 1;
                } else if clicked.any(|category| recent.get(&category).is_some_and(|&count| count > 0)) {
                    group.similar += 1;
                } else {
                    group.dissimilar += 1;
                    group.without_recommendation += u64::from(start == end);
                }
            }
        }
        let sources: Vec<(String, SearchGroup)> =
            names.ids.iter().map(str::to_owned).zip(by_source).filter(|(_, group)| group.total() > 0).collect();
        let sum = |wanted: &dyn Fn(&str) -> bool| {
            sources.iter().filter(|(name, _)| wanted(name)).fold(SearchGroup::default(), |mut sum, (_, group)| {
                sum.add(*group);
                sum
            })
        };
        let is_passive = |name: &str| passive_sources.iter().any(|passive| passive == name);
        let told = sources.iter().any(|(name, _)| is_passive(name));
        Self {
            passive: told.then(|| sum(&is_passive)),
            spontaneous: told.then(|| sum(&|name| !is_passive(name))),
            all: sum(&|_| true),
            sources,
        }
    }

    /// One row for all searches, those that began alike, and each source.
    pub fn table(&self) -> Table {
        let columns = ["searches", "number", "of all", "similar", "dissimilar", "unknown", "dissimilar of known"];
        let mut table = Table::new(columns);
        let mut row = |name: &str, group: &SearchGroup| {
            let counts = [group.similar, group.dissimilar, group.unknown].map(|count| HumanCount(count).to_string());
            let shares = [percent(share(group.total(), self.all.total())), percent(group.dissimilar_share())];
            let [similar, dissimilar, unknown] = counts;
            let [of_all, of_known] = shares;
            let number = HumanCount(group.total()).to_string();
            table.push([name.to_owned(), number, of_all, similar, dissimilar, unknown, of_known]);
        };
        row("all", &self.all);
        for (name, group) in [("spontaneous", &self.spontaneous), ("passive", &self.passive)] {
            if let Some(group) = group {
                row(name, group);
            }
        }
        self.sources.iter().for_each(|(name, group)| row(&format!("source {name}"), group));
        table
    }

    /// Shares of all searches, stacked by what they are about.
    pub fn figure(&self) -> Figure {
        let told = [("spontaneous", &self.spontaneous), ("passive", &self.passive)];
        let mut groups: BTreeMap<usize, (&str, SearchGroup)> =
            told.iter().filter_map(|(name, group)| Some((*name, (**group)?))).enumerate().collect();
        if groups.is_empty() {
            groups.insert(0, ("all", self.all));
        }
        let percent_of_all = |count: u64| 100.0 * share(count, self.all.total()).unwrap_or(0.0);
        let segment = |name: &str, count: fn(&SearchGroup) -> u64| BarSegment {
            name: name.into(),
            heights: groups.values().map(|(_, group)| percent_of_all(count(group))).collect(),
        };
        let mut segments =
            vec![segment("similar", |group| group.similar), segment("dissimilar", |group| group.dissimilar)];
        if self.all.unknown > 0 {
            segments.push(segment("unknown", |group| group.unknown));
        }
        Figure::Bars(Bars {
            x: "searches".into(),
            y: Axis::of("share of all searches in %"),
            bars: groups.values().map(|(name, _)| (*name).to_owned()).collect(),
            segments,
        })
    }

    /// What one should know to read the table.
    pub fn note(&self, categories: Categories<'_>, passive_sources: &[String]) -> String {
        let mut note = format!(
            "An item's category is its {:?} ({} values). A search is similar when a category of the items clicked in it \
             occurs among the user's recommendation clicks of the seven days before; unknown when none of them has a \
             category. {} of the dissimilar searches had no recommendation click in these seven days.",
            categories.name(),
            categories.count,
            HumanCount(self.all.without_recommendation),
        );
        let passive = passive_sources.join(", ");
        if self.passive.is_some() {
            note += &format!(" Passive are those with the source {passive}; all others count as spontaneous.");
        } else {
            note += &format!(
                " The logs don't tell which searches were passive: none has a source {passive} (--passive-sources)."
            );
        }
        note
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".into(), |share| format!("{:.1} %", 100.0 * share))
}
