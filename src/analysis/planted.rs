//! Whether co-attention finds the interests that `sesrec synth` planted: events of an interest that search and
//! recommendation share should weigh more than events of an interest that one side has for itself.

use indicatif::HumanCount;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{AnalysisError, Categories, WeighedEvents, WeighedUsers, measures::mean, roc_auc};
use crate::{
    data::{
        Dataset,
        synthetic::{Truth, TruthLabel},
    },
    domain::EventWeight,
    table::Table,
};

/// Both sides' agreement with the truth.
#[derive(Debug, Clone, PartialEq)]
pub struct PlantedAgreement {
    /// Recommendation clicks.
    pub recommendations: SideAgreement,
    /// Searches.
    pub searches: SideAgreement,
}

/// One side's agreement with the truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SideAgreement {
    /// Events that are labelled similar.
    pub similar: u64,
    /// Events that are labelled dissimilar.
    pub dissimilar: u64,
    /// Events of noise, which have no label, and are left out.
    pub unlabelled: u64,
    /// The area under the ROC curve over all events; a weight counts relative to the user's mean weight, which is what
    /// the model's threshold does.
    pub auc: Option<f64>,
    /// The mean of the areas of each user who has both labels.
    pub auc_within_users: Option<f64>,
    /// The first by the logs themselves instead of the model: an event's score is how often its category occurs on the
    /// other side of the history that the model reads. What can be found at all.
    pub overlap: Option<f64>,
    /// The first with all labels of the side exchanged at random: one half, or the measure is wrong.
    pub shuffled: Option<f64>,
}

/// A labelled event.
#[derive(Debug, Clone, Copy)]
struct Scored {
    /// In mean weights of its user's side.
    weight: f64,
    /// How often its category occurs on the other side.
    overlap: f64,
    similar: bool,
}

impl PlantedAgreement {
    /// Of all users of synthetic logs. The exchange of labels follows from `seed`.
    ///
    /// # Errors
    /// If the model fails, or the truth is not about this data set.
    pub fn of(
        users: &WeighedUsers<'_>,
        dataset: &Dataset,
        truth: &Truth,
        categories: Categories<'_>,
        seed: u64,
    ) -> Result<Self, AnalysisError> {
        let scored = users.map(|events| {
            let history = VisibleCategories::of(events, dataset, categories);
            Some((history.recommendations(events, dataset, truth)?, history.searches(events, dataset, truth)?))
        })?;
        let known = scored.iter().filter(|user| user.is_some()).count();
        if known < scored.len() {
            let message = format!(
                "the truth lacks events of {} of {} users: it is not that of the logs which the data set was imported from",
                scored.len() - known,
                scored.len()
            );
            return Err(AnalysisError::Nothing(message));
        }
        let (recommendations, searches): (Vec<SideScores>, Vec<SideScores>) = scored.into_iter().flatten().unzip();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Ok(Self {
            recommendations: SideAgreement::of(&recommendations, &mut random),
            searches: SideAgreement::of(&searches, &mut random),
        })
    }

    /// A row per side.
    pub fn table(&self) -> Table {
        let columns = [
            "side",
            "similar",
            "dissimilar",
            "unlabelled",
            "AUC",
            "AUC within users",
            "AUC of category overlap",
            "AUC, labels shuffled",
        ];
        let mut table = Table::new(columns);
        for (name, side) in [("recommendations", &self.recommendations), ("searches", &self.searches)] {
            let counts = [side.similar, side.dissimilar, side.unlabelled].map(|count| HumanCount(count).to_string());
            let areas = [side.auc, side.auc_within_users, side.overlap, side.shuffled];
            let areas = areas.map(|area| area.map_or("–".into(), |area| format!("{area:.4}")));
            table.push(std::iter::once(name.to_owned()).chain(counts).chain(areas));
        }
        table
    }
}

/// One user's events of one side.
#[derive(Debug, Clone, Default)]
struct SideScores {
    labelled: Vec<Scored>,
    unlabelled: u64,
}

impl SideScores {
    /// `None` if the truth lacks an event.
    fn of(
        weights: &[EventWeight],
        overlaps: impl Iterator<Item = f64>,
        labels: impl Iterator<Item = Option<TruthLabel>>,
    ) -> Option<Self> {
        let mut scores = Self::default();
        for ((event, overlap), label) in weights.iter().zip(overlaps).zip(labels) {
            let label = label?;
            if label == TruthLabel::None {
                scores.unlabelled += 1;
            } else {
                let weight = f64::from(event.coattention) * weights.len() as f64;
                scores.labelled.push(Scored { weight, overlap, similar: label == TruthLabel::Similar });
            }
        }
        Some(scores)
    }
}

/// The categories of the events that the model reads of a user: of each recommended item, of each search's items.
struct VisibleCategories {
    recommended: Vec<Option<u32>>,
    searched: Vec<Vec<u32>>,
}

impl VisibleCategories {
    fn of(events: &WeighedEvents, dataset: &Dataset, categories: Categories<'_>) -> Self {
        let items = &dataset.recommendations(events.user)[events.recommendations.clone()];
        let searches = &dataset.searches(events.user)[events.searches.clone()];
        let of_clicks = |clicks: &[u32]| clicks.iter().filter_map(|&item| categories.of(item)).collect();
        Self {
            recommended: items.iter().map(|&item| categories.of(item)).collect(),
            searched: searches.iter().map(|search| of_clicks(search.clicks)).collect(),
        }
    }

    fn recommendations(&self, events: &WeighedEvents, dataset: &Dataset, truth: &Truth) -> Option<SideScores> {
        let (items, times) = (dataset.recommendations(events.user), dataset.recommendation_times(events.user));
        let labels = events.recommendations.clone().map(|n| truth.recommendation(events.user, items[n], times[n]));
        let overlaps = self.recommended.iter().map(|category| {
            let alike = |search: &&Vec<u32>| category.is_some_and(|category| search.contains(&category));
            self.searched.iter().filter(alike).count() as f64
        });
        SideScores::of(&events.weights.recommendations, overlaps, labels)
    }

    fn searches(&self, events: &WeighedEvents, dataset: &Dataset, truth: &Truth) -> Option<SideScores> {
        let times = dataset.search_times(events.user);
        let labels = events.searches.clone().map(|n| truth.search(events.user, times[n]));
        let overlaps = self.searched.iter().map(|search| {
            let alike = |category: &&Option<u32>| category.is_some_and(|category| search.contains(&category));
            self.recommended.iter().filter(alike).count() as f64
        });
        SideScores::of(&events.weights.searches, overlaps, labels)
    }
}

impl SideAgreement {
    fn of(users: &[SideScores], random: &mut ChaCha8Rng) -> Self {
        let all: Vec<Scored> = users.iter().flat_map(|user| user.labelled.iter().copied()).collect();
        let mut labels: Vec<bool> = all.iter().map(|event| event.similar).collect();
        let similar = labels.iter().filter(|&&similar| similar).count() as u64;
        labels.shuffle(random);
        let by_weight = |events: &[Scored]| roc_auc(events.iter().map(|event| (event.weight, event.similar)));
        let within: Vec<f64> = users.iter().filter_map(|user| by_weight(&user.labelled)).collect();
        Self {
            similar,
            dissimilar: labels.len() as u64 - similar,
            unlabelled: users.iter().map(|user| user.unlabelled).sum(),
            auc: by_weight(&all),
            auc_within_users: (!within.is_empty()).then(|| mean(within.iter().copied())),
            overlap: roc_auc(all.iter().map(|event| (event.overlap, event.similar))),
            shuffled: roc_auc(all.iter().zip(labels).map(|(event, label)| (event.weight, label))),
        }
    }
}
