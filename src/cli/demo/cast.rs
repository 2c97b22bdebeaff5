//! Who the demo is about: a user, candidates, and searches for something the user never showed an interest in.

use anyhow::Context;

use crate::data::{Dataset, EntityTable};

/// Everything the story needs, as ids.
pub(super) struct Cast {
    /// The user.
    pub(super) user_row: u32,
    /// The user's id.
    pub(super) user: String,
    /// What there is to rank: popular items of two topics the user likes, of topics the user never touched, of the new
    /// one.
    pub(super) candidates: Vec<String>,
    /// The topic that is new to the user, as the catalogue numbers it.
    pub(super) new_topic: u32,
    /// Searches in the new topic: query text, source, a clicked item.
    pub(super) searches: Vec<(String, String, String)>,
}

/// The attribute that stands for a topic: fine enough that every user has topics that are new to them.
pub(super) const TOPIC: &str = "category2";
const PER_GROUP: usize = 5;
const SEARCHES: usize = 4;

impl Cast {
    /// Users with a history worth showing, in order.
    pub(super) fn users(data: &Dataset) -> impl Iterator<Item = u32> {
        let shows = |&user: &u32| data.recommendations(user).len() >= 12 && data.search_times(user).len() >= 4;
        (0..data.users() as u32).filter(shows)
    }

    /// Candidates and searches for a user, by fixed rules: the topic is the most searched one that is new to them.
    pub(super) fn pick(data: &Dataset, user_row: u32) -> anyhow::Result<Self> {
        let topics = &data.catalogue.items.attribute(TOPIC).context("the data set's items have no topics")?.values;
        let topic = |item: u32| topics[item as usize];
        let searched = searched_topics(data, topics);
        let mut touched: Vec<u32> = data.recommendations(user_row).iter().map(|&item| topic(item)).collect();
        touched.extend(data.searches(user_row).iter().flat_map(|search| search.clicks).map(|&item| topic(item)));
        let new_topic = searched
            .iter()
            .map(|&(topic, _)| topic)
            .find(|topic| !touched.contains(topic))
            .context("this user has an interest in every topic: make logs with more items")?;

        let popularity = data.popularity();
        let favourites = favourites(&touched);
        let popular = |topic: &dyn Fn(u32) -> bool| most_popular(&popularity, |item| topic(topics[item as usize]));
        let mut rows = vec![];
        for &favourite in favourites.iter().take(2) {
            rows.extend(popular(&|topic| topic == favourite));
        }
        rows.extend(popular(&|topic| topic != new_topic && !touched.contains(&topic)));
        rows.extend(popular(&|topic| topic == new_topic));
        let candidates: Vec<String> = rows.into_iter().map(|item| id(&data.catalogue.items, item)).collect();
        let searches = searches_in(data, topics, new_topic, &candidates);
        anyhow::ensure!(!searches.is_empty(), "nobody searched in topic {new_topic}: make a larger set of logs");
        Ok(Self { user_row, user: id(&data.catalogue.users, user_row), candidates, new_topic, searches })
    }
}

/// Categories by number of search clicks, most first; 0 stands for "unknown" and is left out.
fn searched_topics(data: &Dataset, topics: &[u32]) -> Vec<(u32, usize)> {
    let mut clicks = vec![0; topics.iter().max().map_or(0, |&highest| highest as usize + 1)];
    for user in 0..data.users() as u32 {
        for search in data.searches(user) {
            search.clicks.iter().for_each(|&item| clicks[topics[item as usize] as usize] += 1);
        }
    }
    let mut counted: Vec<(u32, usize)> =
        (0u32..).zip(clicks).filter(|&(topic, count)| topic > 0 && count > 0).collect();
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

/// The few most clicked items among those that `belongs` accepts.
fn most_popular(popularity: &[u32], belongs: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut items: Vec<u32> = (1..popularity.len() as u32).filter(|&item| belongs(item)).collect();
    items.sort_by_key(|&item| std::cmp::Reverse(popularity[item as usize]));
    items.truncate(PER_GROUP);
    items
}

/// Other users' searches that ended in the topic, distinct by query; their clicked items are not candidates, so that
/// a candidate that rises does so by what it has in common with the clicked one.
fn searches_in(data: &Dataset, topics: &[u32], topic: u32, candidates: &[String]) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = vec![];
    for user in 0..data.users() as u32 {
        for search in data.searches(user) {
            let click = search.clicks.iter().find(|&&item| topics[item as usize] == topic);
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
