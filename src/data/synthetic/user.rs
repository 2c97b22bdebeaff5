//! One user's life: interests that come and go, searches and clicks that follow from them.

use std::collections::HashSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    SyntheticOptions,
    world::{Leaning, World},
};

/// 2023-05-22, midnight in Beijing: where KuaiSAR's month begins. Milliseconds since 1970.
const FIRST_DAY: i64 = 1_684_684_800_000;
const SECOND: f64 = 1_000.0;
const HOUR: f64 = 3_600.0 * SECOND;

/// Searches per clicked recommendation.
const SEARCHES_PER_CLICK: f64 = 0.5;
/// The paper's Fig. 1b.
const SPONTANEOUS: f64 = 0.57;
const DISSIMILAR: f64 = 0.23;
/// Chance per step that an interest gives way to another.
const DRIFT: f64 = 0.06;
/// How fast the charm of novelty fades, in steps.
const NOVELTY: f64 = 12.0;
/// Chance that a click is on a topic just searched for, while that is hot.
const HOT: f64 = 0.8;
/// Chance that a click stays with the topic of the one before.
const STICKY: f64 = 0.25;
const NOISE_CLICK: f64 = 0.10;
/// KuaiSAR has about one unclicked recommendation per clicked one.
const UNCLICKED: f64 = 0.95;
const SEARCH_WITHOUT_CLICK: f64 = 0.12;

/// Which side an interest shows on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Shared,
    Recommendation,
    Search,
}

struct Interest {
    side: Side,
    topic: u32,
    strength: f64,
    since: u32,
    /// A shared interest shows in recommendation only after its first search.
    searched: bool,
}

/// What an event was, by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Of an interest that search and recommendation share.
    Similar,
    /// Of an interest of one side only.
    Dissimilar,
    /// Of no interest.
    None,
}

impl Label {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Similar, Self::Dissimilar, Self::None];

    /// As in `truth.csv`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Similar => "similar",
            Self::Dissimilar => "dissimilar",
            Self::None => "none",
        }
    }
}

/// Where an event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A click on an interest, by habit.
    Habit,
    /// A click on a topic that was searched for shortly before.
    SearchLed,
    /// A click out of the blue.
    Noise,
    /// A search of the user's own accord.
    Spontaneous,
    /// A search set off by the recommendation just clicked.
    Passive,
}

impl Origin {
    pub fn name(self) -> &'static str {
        match self {
            Self::Habit => "habit",
            Self::SearchLed => "search_led",
            Self::Noise => "noise",
            Self::Spontaneous => "spontaneous",
            Self::Passive => "passive",
        }
    }
}

/// The truth of an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Truth {
    pub label: Label,
    pub origin: Origin,
    pub topic: u32,
}

/// A recommendation that was shown; clicked ones have a truth.
pub(super) struct Shown {
    pub time: i64,
    pub item: u32,
    pub clicked: Option<Truth>,
    /// A search followed from it.
    pub search: bool,
    pub duration: u32,
    pub played: u32,
}

/// A search with the results it showed, and whether each was clicked.
pub(super) struct Searched {
    pub time: i64,
    pub query: String,
    pub source: &'static str,
    pub results: Vec<(u32, bool)>,
    pub truth: Truth,
}

/// All of a user.
pub(super) struct User {
    pub number: u32,
    pub shown: Vec<Shown>,
    pub searches: Vec<Searched>,
    /// search_active_level, rec_active_level, onehot_feat1, onehot_feat2.
    pub features: [u32; 4],
}

/// A user in the making.
pub(super) struct Simulation<'a> {
    world: &'a World,
    random: ChaCha8Rng,
    user: User,
    clicks_to_go: u32,
    interests: Vec<Interest>,
    clicked: HashSet<u32>,
    step: u32,
    time: i64,
    last_topic: Option<u32>,
    /// A topic just searched for, and how many clicks it stays hot.
    hot: Option<(u32, u32)>,
}

impl<'a> Simulation<'a> {
    /// The user's interests at the beginning. Each user has a random stream of its own.
    pub fn new(world: &'a World, options: &SyntheticOptions, number: u32) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(u64::from(number) + 1);
        // Log-normal with the mean asked for: few users do much.
        let spread = 0.6;
        let clicks = options.clicks_per_user * (spread * normal(&mut random) - spread * spread / 2.0).exp();
        let clicks = clicks.round().clamp(5.0, options.clicks_per_user * 20.0) as u32;
        let activity = clicks as f64 / options.clicks_per_user;
        let recommendation_level = [0.5, 0.9, 1.4].iter().filter(|&&bound| activity > bound).count() as u32;
        let search_level = random.random_range(0..4);
        let time = FIRST_DAY + (random.random::<f64>() * 240.0 * HOUR) as i64;
        let mut simulation = Self {
            world,
            random,
            user: User {
                number,
                shown: vec![],
                searches: vec![],
                features: [search_level, recommendation_level, 0, 0],
            },
            clicks_to_go: clicks,
            interests: vec![],
            clicked: HashSet::new(),
            step: 0,
            time,
            last_topic: None,
            hot: None,
        };
        let many = world.topics() >= 32;
        let counts = if many {
            [(Side::Shared, 3), (Side::Recommendation, 2), (Side::Search, 2)]
        } else {
            [(Side::Shared, 2), (Side::Recommendation, 1), (Side::Search, 1)]
        };
        for (side, count) in counts {
            for _ in 0..count {
                let interest = simulation.new_interest(side);
                simulation.interests.push(Interest { searched: true, ..interest });
            }
        }
        // A feature that says something of the user, half of the time.
        let category = world.category_of(simulation.interests[0].topic);
        let noise = simulation.random.random_range(0..8);
        simulation.user.features[2] = if simulation.random.random_bool(0.5) { category % 8 } else { noise };
        simulation.user.features[3] = simulation.random.random_range(0..16);
        simulation
    }

    /// Lives until the clicks are used up.
    pub fn run(mut self) -> User {
        let passive_per_click = SEARCHES_PER_CLICK * (1.0 - SPONTANEOUS);
        let spontaneous_per_click = SEARCHES_PER_CLICK * SPONTANEOUS;
        let per_click = 1.0 + spontaneous_per_click;
        while self.clicks_to_go > 0 {
            self.pass_time();
            let draw = self.random.random::<f64>() * per_click;
            if draw < spontaneous_per_click {
                self.spontaneous_search();
            } else if draw < spontaneous_per_click + passive_per_click {
                self.click_and_search();
            } else {
                self.click();
            }
            self.step += 1;
            if self.random.random_bool(DRIFT) {
                let gone = self.random.random_range(0..self.interests.len());
                let interest = self.new_interest(self.interests[gone].side);
                self.interests[gone] = interest;
            }
        }
        self.user
    }

    /// Visits of some minutes, hours or days apart.
    fn pass_time(&mut self) {
        let pause = if self.random.random_bool(0.2) { 18.0 * HOUR } else { 90.0 * SECOND };
        self.time += 2_000 + (-pause * (1.0 - self.random.random::<f64>()).ln()) as i64;
    }

    fn spontaneous_search(&mut self) {
        let side = if self.random.random_bool(DISSIMILAR) { Side::Search } else { Side::Shared };
        // What is new is searched for first.
        let unsearched = self.interests.iter().position(|interest| interest.side == side && !interest.searched);
        let Some(chosen) = unsearched.or_else(|| self.choose(|interest| interest.side == side)) else { return };
        self.interests[chosen].searched = true;
        let topic = self.interests[chosen].topic;
        let label = if side == Side::Shared { Label::Similar } else { Label::Dissimilar };
        if side == Side::Shared {
            self.hot = Some((topic, self.random.random_range(3..=5)));
        }
        let source = ["USER_INPUT", "USER_INPUT", "USER_INPUT", "QUERY_SUGGEST", "TRENDING"];
        let source = source[self.random.random_range(0..source.len())];
        self.search(source, Truth { label, origin: Origin::Spontaneous, topic });
    }

    /// A recommendation of a shared interest is clicked, and a search about it follows.
    fn click_and_search(&mut self) {
        // A shared interest that has not been searched for yet can't be what recommendation shows.
        match self.choose(|interest| interest.side == Side::Shared && interest.searched) {
            None => self.click(),
            Some(chosen) => {
                let topic = self.interests[chosen].topic;
                self.show(Truth { label: Label::Similar, origin: Origin::Habit, topic });
                if let Some(shown) = self.user.shown.last_mut() {
                    shown.search = true;
                }
                self.time += self.random.random_range(5_000..40_000);
                self.hot = Some((topic, 3));
                self.search("RELATED_SEARCH", Truth { label: Label::Similar, origin: Origin::Passive, topic });
            }
        }
    }

    fn click(&mut self) {
        let truth = self.next_click();
        self.show(truth);
    }

    fn next_click(&mut self) -> Truth {
        let known = |interest: &Interest| interest.side != Side::Search && interest.searched;
        if self.random.random_bool(NOISE_CLICK) {
            let topic = self.world.any_topic(&mut self.random);
            return Truth { label: Label::None, origin: Origin::Noise, topic };
        }
        if let Some((topic, clicks)) = self.hot {
            self.hot = (clicks > 1).then_some((topic, clicks - 1));
            if self.random.random_bool(HOT) {
                return Truth { label: Label::Similar, origin: Origin::SearchLed, topic };
            }
        }
        let stay = self.last_topic.filter(|_| self.random.random_bool(STICKY));
        let stay = stay.and_then(|topic| self.interests.iter().position(|i| known(i) && i.topic == topic));
        match stay.or_else(|| self.choose(known)) {
            Some(chosen) => {
                let Interest { side, topic, .. } = self.interests[chosen];
                let label = if side == Side::Shared { Label::Similar } else { Label::Dissimilar };
                Truth { label, origin: Origin::Habit, topic }
            }
            None => {
                let topic = self.world.any_topic(&mut self.random);
                Truth { label: Label::None, origin: Origin::Noise, topic }
            }
        }
    }

    /// A clicked recommendation, and often one beside it that is not.
    fn show(&mut self, truth: Truth) {
        if self.random.random_bool(UNCLICKED) {
            let topic = if self.random.random_bool(0.3) {
                self.interests[self.random.random_range(0..self.interests.len())].topic
            } else {
                self.world.any_topic(&mut self.random)
            };
            let item = self.world.item(topic, &mut self.random);
            let time = self.time - self.random.random_range(0..1_500);
            self.push_shown(time, item, None);
        }
        // People rarely click what they know; a small topic may leave no choice.
        let mut item = self.world.item(truth.topic, &mut self.random);
        for _ in 0..12 {
            if !self.clicked.contains(&item) {
                break;
            }
            item = self.world.item(truth.topic, &mut self.random);
        }
        self.clicked.insert(item);
        self.push_shown(self.time, item, Some(truth));
        self.last_topic = Some(truth.topic);
        self.clicks_to_go -= 1;
    }

    fn push_shown(&mut self, time: i64, item: u32, clicked: Option<Truth>) {
        let duration = self.random.random_range(6_000..90_000);
        let share =
            if clicked.is_some() { 0.3 + self.random.random::<f64>() } else { self.random.random::<f64>() * 0.1 };
        let played = (f64::from(duration) * share) as u32;
        self.user.shown.push(Shown { time, item, clicked, search: false, duration, played });
    }

    fn search(&mut self, source: &'static str, truth: Truth) {
        let query = self.world.query(truth.topic, &mut self.random);
        let shown = self.random.random_range(3..=8);
        let mut results: Vec<(u32, bool)> = vec![];
        for place in 0..shown {
            // The first result is the most relevant one.
            let off_topic = place > 0 && self.random.random_bool(0.1);
            let topic = if off_topic { self.world.any_topic(&mut self.random) } else { truth.topic };
            let item = self.world.item(topic, &mut self.random);
            if results.iter().all(|&(other, _)| other != item) {
                results.push((item, false));
            }
        }
        if !self.random.random_bool(SEARCH_WITHOUT_CLICK) {
            for _ in 0..[1, 1, 1, 1, 1, 1, 1, 2, 2, 3][self.random.random_range(0..10)] {
                let place = self.random.random_range(0..results.len());
                // Nobody clicks what has nothing to do with the query.
                let place = if self.world.topic_of(results[place].0) == truth.topic { place } else { 0 };
                results[place].1 = true;
            }
        }
        self.user.searches.push(Searched { time: self.time, query, source, results, truth });
    }

    /// One of the interests that fit, by strength and novelty.
    fn choose(&mut self, fits: impl Fn(&Interest) -> bool) -> Option<usize> {
        let weights: Vec<f64> = self
            .interests
            .iter()
            .map(|interest| {
                let age = f64::from(self.step - interest.since);
                if fits(interest) { interest.strength * (0.3 + (-age / NOVELTY).exp()) } else { 0.0 }
            })
            .collect();
        let total: f64 = weights.iter().sum();
        let mut draw = self.random.random::<f64>() * total;
        weights.iter().position(|weight| {
            draw -= weight;
            *weight > 0.0 && draw < 0.0
        })
    }

    /// A topic that the user isn't interested in yet.
    fn new_interest(&mut self, side: Side) -> Interest {
        let looked_up = self.random.random_bool(if side == Side::Search { 0.85 } else { 0.05 });
        let leaning = if looked_up { Leaning::LookedUp } else { Leaning::Browsed };
        let mut topic = self.world.any_topic(&mut self.random);
        for _ in 0..64 {
            if self.interests.iter().all(|interest| interest.topic != topic) && self.world.leaning(topic) == leaning {
                break;
            }
            topic = self.world.any_topic(&mut self.random);
        }
        // A tiny world may have no other topic of that leaning: any that is free, then. There are more topics than
        // interests.
        if self.interests.iter().any(|interest| interest.topic == topic) {
            let free = |topic: &u32| self.interests.iter().all(|interest| interest.topic != *topic);
            topic = (0..self.world.topics()).find(free).unwrap_or(topic);
        }
        // Search lends shared interests clicks; without a counterweight those of recommendation alone would hardly
        // show.
        let weight = if side == Side::Recommendation { 2.0 } else { 1.0 };
        let strength = weight * (0.5 + self.random.random::<f64>());
        Interest { side, topic, strength, since: self.step, searched: side == Side::Recommendation }
    }
}

/// A draw from the standard normal distribution (Box and Muller).
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
