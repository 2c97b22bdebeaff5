//! Who the demo is about: a user, candidates, and searches for something the user never showed an interest in.

use anyhow::Context;

use crate::data::{Dataset, EntityTable};

/// Everything the story needs, as ids.
pub(super) struct Cast {
    /// The user.
    pub(super) user_row: u32,
    /// The user's id.
    pub(super) user: String,
    /// What there is to rank: popular items of the user's categories and of the new one.
    pub(super) candidates: Vec<String>,
    /// The category that is new to the user, as the catalogue numbers it.
    pub(super) new_category: u32,
    /// Searches in the new category: query text, source, a clicked item.
    pub(super) searches: Vec<(String, String, String)>,
}

const CATEGORY: &str = "category";
const PER_CATEGORY: usize = 5;
const SEARCHES: usize = 4;

impl Cast {
    /// Picks by fixed rules: the first user with a history worth showing and the most searched category new to them.
    pub(super) fn pick(data: &Dataset) -> anyhow::Result<Self> {
        let categories =
            &data.catalogue.items.attribute(CATEGORY).context("the data set's items have no category")?.values;
        let category = |item: u32| categories[item as usize];
        let searched = searched_categories(data, categories);
        let user_row = (0..data.users() as u32)
            .find(|&user| data.recommendations(user).len() >= 12 && data.search_times(user).len() >= 4)
            .context("no user has 12 recommendations and 4 searches: make a larger set of logs")?;

        let mut touched: Vec<u32> = data.recommendations(user_row).iter().map(|&item| category(item)).collect();
        touched.extend(data.searches(user_row).iter().flat_map(|search| search.clicks).map(|&item| category(item)));
        let new_category = searched
            .iter()
            .map(|&(category, _)| category)
            .find(|category| !touched.contains(category))
            .context("this user has an interest in every category: make logs with more items")?;

        let popularity = data.popularity();
        let mut shown = favourites(&touched);
        shown.truncate(3);
        shown.push(new_category);
        let popular: Vec<Vec<u32>> =
            shown.iter().map(|&category| most_popular(&popularity, categories, category)).collect();
        let candidates = popular
            .iter()
            .flat_map(|items| items.iter().take(PER_CATEGORY))
            .map(|&item| id(&data.catalogue.items, item));
        let candidates: Vec<String> = candidates.collect();
        let searches = searches_in(data, categories, new_category, &candidates);
        anyhow::ensure!(!searches.is_empty(), "nobody searched in category {new_category}: make a larger set of logs");
        Ok(Self { user_row, user: id(&data.catalogue.users, user_row), candidates, new_category, searches })
    }
}

/// Categories by number of search clicks, most first; 0 stands for "unknown" and is left out.
fn searched_categories(data: &Dataset, categories: &[u32]) -> Vec<(u32, usize)> {
    let mut clicks = vec![0; categories.iter().max().map_or(0, |&highest| highest as usize + 1)];
    for user in 0..data.users() as u32 {
        for search in data.searches(user) {
            search.clicks.iter().for_each(|&item| clicks[categories[item as usize] as usize] += 1);
        }
    }
    let mut counted: Vec<(u32, usize)> =
        (0u32..).zip(clicks).filter(|&(category, count)| category > 0 && count > 0).collect();
    counted.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    counted
}

/// Distinct values, most frequent first.
fn favourites(values: &[u32]) -> Vec<u32> {
    let mut distinct = values.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.sort_by_key(|value| std::cmp::Reverse(values.iter().filter(|other| *other == value).count()));
    distinct
}

fn most_popular(popularity: &[u32], categories: &[u32], category: u32) -> Vec<u32> {
    let mut items: Vec<u32> =
        (1..popularity.len() as u32).filter(|&item| categories[item as usize] == category).collect();
    items.sort_by_key(|&item| std::cmp::Reverse(popularity[item as usize]));
    items
}

/// Other users' searches that ended in the category, distinct by query; their clicked items are not candidates, so that
/// a candidate that rises does so by what it has in common with the clicked one.
fn searches_in(
    data: &Dataset,
    categories: &[u32],
    category: u32,
    candidates: &[String],
) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = vec![];
    for user in 0..data.users() as u32 {
        for search in data.searches(user) {
            let click = search.clicks.iter().find(|&&item| categories[item as usize] == category);
            let (Some(&click), Some(query)) = (click, data.catalogue.queries.id(search.query)) else { continue };
            let item = id(&data.catalogue.items, click);
            if !candidates.contains(&item) && found.iter().all(|(other, _, _)| other != query) {
                found.push((query.to_owned(), id(&data.catalogue.sources, search.source), item));
            }
            if found.len() == SEARCHES {
                return found;
            }
        }
    }
    found
}

fn id(table: &EntityTable, row: u32) -> String {
    table.id(row).unwrap_or_default().to_owned()
}
