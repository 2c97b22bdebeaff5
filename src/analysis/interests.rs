//! Fig. 3: whether the items of search and of recommendation agree on categories where the model says that interests
//! are similar, and disagree where it says that they are not.

use hashbrown::HashMap;
use indicatif::HumanCount;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    AnalysisError, Categories, WeighedEvents, WeighedUsers, jensen_shannon,
    measures::{mean, quantile},
};
use crate::{
    data::Dataset,
    domain::EventWeight,
    plot::{Axis, Figure, Histogram, HistogramSeries},
    table::Table,
};

/// Bins of the histogram from 0 to 1.
const BINS: usize = 20;

/// How far search and recommendation lie apart for one user, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Divergences {
    /// Between the similar events of both sides; `None` where one side has none of a known category.
    pub similar: Option<f64>,
    /// Between the dissimilar ones.
    pub dissimilar: Option<f64>,
}

/// The divergences of all users whose histories the model divides.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InterestDivergences {
    /// As the model divides events.
    pub model: Vec<Divergences>,
    /// The same where each side is divided at random into parts of the same sizes: what would come of no knowledge.
    pub random: Vec<Divergences>,
    /// Users left out, since all events of a side are in both sets or there are none.
    pub undivided: u64,
}

impl InterestDivergences {
    /// Of all users of a data set. The random division follows from `seed`.
    ///
    /// # Errors
    /// If the model fails, or no user can be shown.
    pub fn of(
        users: &WeighedUsers<'_>,
        dataset: &Dataset,
        categories: Categories<'_>,
        seed: u64,
    ) -> Result<Self, AnalysisError> {
        let measured = users.map(|events| {
            let sides = [&events.weights.recommendations, &events.weights.searches];
            if sides.iter().any(|side| !is_divided(side)) {
                return None;
            }
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(events.user.into());
            let [recommendations, searches] = sides.map(|side| side.iter().map(|event| event.similar).collect());
            let (mut shuffled_recommendations, mut shuffled_searches): (Vec<bool>, Vec<bool>) =
                (recommendations, searches);
            let model = divergences(dataset, categories, events, &shuffled_recommendations, &shuffled_searches);
            shuffled_recommendations.shuffle(&mut random);
            shuffled_searches.shuffle(&mut random);
            Some((model, divergences(dataset, categories, events, &shuffled_recommendations, &shuffled_searches)))
        })?;
        let undivided = measured.iter().filter(|user| user.is_none()).count() as u64;
        let (model, random) = measured.into_iter().flatten().unzip();
        let divergences = Self { model, random, undivided };
        if divergences.model.iter().all(|user| user.similar.is_none() && user.dissimilar.is_none()) {
            let message = "no user has events that the model divides on both sides, with items of a known category";
            return Err(AnalysisError::Nothing(message.into()));
        }
        Ok(divergences)
    }

    /// Means and quartiles of each set, and how often similar interests diverge less.
    pub fn table(&self) -> Table {
        let mut table =
            Table::new(["division", "interests", "users", "mean", "lower quartile", "median", "upper quartile"]);
        for (division, users) in [("model", &self.model), ("at random", &self.random)] {
            for (interests, mut values) in [
                ("similar", users.iter().filter_map(|user| user.similar).collect::<Vec<f64>>()),
                ("dissimilar", users.iter().filter_map(|user| user.dissimilar).collect()),
            ] {
                values.sort_by(f64::total_cmp);
                let number = |value: f64| if values.is_empty() { "–".into() } else { format!("{value:.4}") };
                let quartile = |q| if values.is_empty() { 0.0 } else { quantile(&values, q) };
                table.push([
                    division.to_owned(),
                    interests.to_owned(),
                    HumanCount(values.len() as u64).to_string(),
                    number(mean(values.iter().copied())),
                    number(quartile(0.25)),
                    number(quartile(0.5)),
                    number(quartile(0.75)),
                ]);
            }
        }
        table
    }

    /// The share of users in each bin.
    pub fn bins(&self) -> Table {
        let mut table = Table::new(["from", "to", "similar", "dissimilar"]);
        let [similar, dissimilar] = self.heights();
        for (bin, (similar, dissimilar)) in similar.iter().zip(&dissimilar).enumerate() {
            let edges = [edge(bin), edge(bin + 1)].map(|edge| format!("{edge:.2}"));
            table.push(edges.into_iter().chain([similar, dissimilar].map(|height| format!("{height:.6}"))));
        }
        table
    }

    /// The paper's Fig. 3.
    pub fn figure(&self) -> Figure {
        let series = |name: &str, heights| HistogramSeries { name: name.into(), heights };
        let [similar, dissimilar] = self.heights();
        Figure::Histogram(Histogram {
            x: Axis::of("Jensen–Shannon divergence of S and R"),
            y: Axis::of("share of users"),
            edges: (0..=BINS).map(edge).collect(),
            series: vec![series("similar interests", similar), series("dissimilar interests", dissimilar)],
        })
    }

    /// What one should know to read the table.
    pub fn note(&self, categories: Categories<'_>) -> String {
        let mut note = format!(
            "Jensen–Shannon divergence in bits (0: the same, 1: nothing in common) between the categories ({:?}, {} \
             values) of the items clicked in searches and of the recommended items clicked, per user, over each user's \
             newest events as far as the model reads. \"At random\": each side divided into sets of the same sizes at \
             random. {} users are left out: the model puts all events of a side into one set, or there are none.",
            categories.name(),
            categories.count,
            HumanCount(self.undivided),
        );
        if let Some(share) = self.less_for_similar() {
            note += &format!(" Similar interests diverge less for {:.1} % of the users with both.", 100.0 * share);
        }
        note
    }

    /// Among users with both, and without a tie (but for roundings): how many have the smaller divergence between
    /// similar interests.
    pub fn less_for_similar(&self) -> Option<f64> {
        let both = self.model.iter().filter_map(|user| Some((user.similar?, user.dissimilar?)));
        let decided: Vec<bool> =
            both.filter(|(a, b)| (a - b).abs() > 1e-9).map(|(similar, dissimilar)| similar < dissimilar).collect();
        (!decided.is_empty()).then(|| mean(decided.iter().map(|&less| f64::from(u8::from(less)))))
    }

    fn heights(&self) -> [Vec<f64>; 2] {
        let heights = |values: Vec<f64>| {
            let mut heights = [0.0; BINS];
            // The last bin has both of its borders.
            values.iter().for_each(|value| heights[((value * BINS as f64) as usize).min(BINS - 1)] += 1.0);
            heights.iter().map(|count| count / values.len().max(1) as f64).collect()
        };
        [
            heights(self.model.iter().filter_map(|user| user.similar).collect()),
            heights(self.model.iter().filter_map(|user| user.dissimilar).collect()),
        ]
    }
}

fn edge(n: usize) -> f64 {
    n as f64 / BINS as f64
}

/// Whether the sets partition the events: where one would be empty, it falls back to all.
fn is_divided(side: &[EventWeight]) -> bool {
    !side.is_empty() && side.iter().all(|event| event.similar != event.dissimilar)
}

/// With each event's set given: similar or not.
fn divergences(
    dataset: &Dataset,
    categories: Categories<'_>,
    events: &WeighedEvents,
    recommendations: &[bool],
    searches: &[bool],
) -> Divergences {
    let items = &dataset.recommendations(events.user)[events.recommendations.clone()];
    let searched = dataset.searches(events.user);
    let between = |set: bool| {
        let recommended =
            items.iter().zip(recommendations).filter(|(_, similar)| **similar == set).map(|(&item, _)| item);
        let found = searched[events.searches.clone()].iter().zip(searches).filter(|(_, similar)| **similar == set);
        let found = found.flat_map(|(search, _)| search.clicks.iter().copied());
        jensen_shannon(&counts(found, categories), &counts(recommended, categories))
    };
    Divergences { similar: between(true), dissimilar: between(false) }
}

fn counts(items: impl Iterator<Item = u32>, categories: Categories<'_>) -> HashMap<u32, f64> {
    let mut counts = HashMap::new();
    items.filter_map(|item| categories.of(item)).for_each(|category| *counts.entry(category).or_default() += 1.0);
    counts
}
