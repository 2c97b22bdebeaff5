//! What all users share: topics with their items, queries and popularity.

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Items per topic, as far as the number of topics allows.
const ITEMS_PER_TOPIC: u32 = 40;
/// Queries that many users type the same way.
const COMMON_QUERIES: usize = 16;
/// Flatness of popularity: 0 is uniform, 1 is Zipf's law proper.
const TOPIC_SKEW: f64 = 0.5;
const ITEM_SKEW: f64 = 0.7;
const QUERY_SKEW: f64 = 0.8;
const WORD_SKEW: f64 = 0.8;

/// Four names a category, so that logs can be read.
const NAMES: [&str; 64] = [
    "camping",
    "hiking",
    "climbing",
    "kayaking", // outdoors
    "espresso",
    "baking",
    "grilling",
    "ramen", // kitchen
    "guitar",
    "piano",
    "drums",
    "vinyl", // music
    "passport",
    "weather",
    "taxes",
    "recipes", // things one looks up
    "cycling",
    "running",
    "yoga",
    "swimming", // sport
    "gardening",
    "carpentry",
    "pottery",
    "knitting", // making
    "chess",
    "poker",
    "puzzles",
    "lego", // games
    "visa",
    "hospital",
    "train",
    "translate", // things one looks up
    "makeup",
    "perfume",
    "skincare",
    "nails", // beauty
    "puppies",
    "kittens",
    "aquarium",
    "horses", // pets
    "drones",
    "cameras",
    "laptops",
    "headphones", // devices
    "plumber",
    "locksmith",
    "insurance",
    "mortgage", // things one looks up
    "anime",
    "comedy",
    "thriller",
    "western", // films
    "skiing",
    "surfing",
    "sailing",
    "diving", // adventure
    "sneakers",
    "handbags",
    "watches",
    "denim", // fashion
    "calories",
    "dentist",
    "allergy",
    "password", // things one looks up
];

/// Each topic's words: its name, and its name with each of these.
const SUFFIXES: [&str; 11] = ["kit", "tips", "set", "guide", "class", "case", "stand", "mix", "shop", "fan", "plus"];
/// Words that say nothing of the topic.
const GENERAL: [&str; 6] = ["best", "new", "cheap", "how", "top", "easy"];

/// Topics and items.
pub(super) struct World {
    pub items: u32,
    topics: u32,
    topics_per_category: u32,
    /// Topics from the most popular to the least.
    popular_topics: Vec<u32>,
    /// Items of each topic from the most popular to the least.
    popular_items: Vec<Vec<u32>>,
    common_queries: Vec<Vec<String>>,
}

/// Which topics an interest is drawn from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaning {
    /// Things that one looks up once and isn't entertained by: search-only interests are mostly of this kind.
    LookedUp,
    /// Everything else.
    Browsed,
}

impl World {
    pub fn new(items: u32, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let topics = (items / ITEMS_PER_TOPIC).clamp(8, 1024);
        let topics_per_category = if topics < 32 { 2 } else { 4 };
        let mut popular_topics: Vec<u32> = (0..topics).collect();
        popular_topics.shuffle(&mut random);
        let mut popular_items = vec![vec![]; topics as usize];
        for item in 0..items {
            popular_items[(item % topics) as usize].push(item);
        }
        popular_items.iter_mut().for_each(|items| items.shuffle(&mut random));
        let mut world =
            Self { items, topics, topics_per_category, popular_topics, popular_items, common_queries: vec![] };
        world.common_queries = (0..topics)
            .map(|topic| (0..COMMON_QUERIES).map(|_| world.new_query(topic, &mut random)).collect())
            .collect();
        world
    }

    pub fn topics(&self) -> u32 {
        self.topics
    }

    pub fn topic_of(&self, item: u32) -> u32 {
        item % self.topics
    }

    pub fn category_of(&self, topic: u32) -> u32 {
        topic / self.topics_per_category
    }

    pub fn leaning(&self, topic: u32) -> Leaning {
        if self.category_of(topic) % 4 == 3 { Leaning::LookedUp } else { Leaning::Browsed }
    }

    pub fn topic_name(&self, topic: u32) -> String {
        // With two topics a category, every other name of the list: its categories stay together.
        let names = NAMES.len() as u32;
        let place = topic * (4 / self.topics_per_category);
        let name = NAMES[(place % names) as usize];
        if place < names { name.to_owned() } else { format!("{name}{}", place / names + 1) }
    }

    pub fn item_name(&self, item: u32) -> String {
        format!("{}-{}", self.topic_name(self.topic_of(item)), item / self.topics + 1)
    }

    /// Any topic, popular ones more often.
    pub fn any_topic(&self, random: &mut ChaCha8Rng) -> u32 {
        self.popular_topics[zipf(self.popular_topics.len(), TOPIC_SKEW, random)]
    }

    /// An item of a topic, popular ones more often.
    pub fn item(&self, topic: u32, random: &mut ChaCha8Rng) -> u32 {
        let items = &self.popular_items[topic as usize];
        items[zipf(items.len(), ITEM_SKEW, random)]
    }

    /// What someone types who is interested in a topic.
    pub fn query(&self, topic: u32, random: &mut ChaCha8Rng) -> String {
        if random.random_bool(0.8) {
            let queries = &self.common_queries[topic as usize];
            queries[zipf(queries.len(), QUERY_SKEW, random)].clone()
        } else {
            self.new_query(topic, random)
        }
    }

    /// A word list as KuaiSAR writes them, `[a, b]`.
    fn new_query(&self, topic: u32, random: &mut ChaCha8Rng) -> String {
        let mut words: Vec<String> = vec![];
        for _ in 0..random.random_range(1..=3) {
            let word = self.word(topic, random);
            if !words.contains(&word) {
                words.push(word);
            }
        }
        if random.random_bool(0.3) {
            words.insert(0, GENERAL[random.random_range(0..GENERAL.len())].to_owned());
        }
        if random.random_bool(0.05) {
            let foreign = self.any_topic(random);
            words.push(self.word(foreign, random));
        }
        format!("[{}]", words.join(", "))
    }

    /// The words of an item's caption.
    pub fn caption(&self, item: u32) -> String {
        let name = self.topic_name(self.topic_of(item));
        let nth = (item / self.topics) as usize;
        format!("[{name}, {name}{}, {name}{}]", SUFFIXES[nth % 11], SUFFIXES[(nth + 1 + nth / 11 % 10) % 11])
    }

    fn word(&self, topic: u32, random: &mut ChaCha8Rng) -> String {
        let name = self.topic_name(topic);
        match zipf(SUFFIXES.len() + 1, WORD_SKEW, random) {
            0 => name,
            n => name + SUFFIXES[n - 1],
        }
    }
}

/// A rank below `count`, rank r with a probability that falls like 1 / (r + 1)^skew; by inverting the integral, so that
/// a draw costs the same for any count. `skew` is not 1.
pub(super) fn zipf(count: usize, skew: f64, random: &mut ChaCha8Rng) -> usize {
    let power = 1.0 - skew;
    let area = (count as f64 + 1.0).powf(power) - 1.0;
    let rank = (random.random::<f64>() * area + 1.0).powf(1.0 / power).floor() as usize;
    (rank.max(1) - 1).min(count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_popularity_is_skewed() {
        for items in [100, 1_500, 100_000] {
            let world = World::new(items, 7);
            let names: std::collections::HashSet<_> = (0..items).map(|item| world.item_name(item)).collect();
            assert_eq!(names.len(), items as usize);
            assert!((0..world.topics()).any(|topic| world.leaning(topic) == Leaning::LookedUp));
        }
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0; 40];
        (0..40_000).for_each(|_| counts[zipf(40, ITEM_SKEW, &mut random)] += 1);
        assert!(counts[0] > 4 * counts[20] && counts[39] > 200, "{counts:?}");
    }
}
