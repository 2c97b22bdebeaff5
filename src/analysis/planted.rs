//! Whether co-attention finds the interests that `sesrec synth` planted: events of an interest that search and
//! recommendation share should weigh more than events of an interest that one side has for itself.

use indicatif::HumanCount;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{AnalysisError, WeighedEvents, WeighedUsers, measures::mean, roc_auc};
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
    /// The first with all labels of the side exchanged at random: one half, or the measure is wrong.
    pub shuffled: Option<f64>,
}

/// A labelled event: its weight in mean weights of its user, and whether it is similar.
type Scored = (f64, bool);

impl PlantedAgreement {
    /// Of all users of synthetic logs. The exchange of labels follows from `seed`.
    ///
    /// # Errors
    /// If the model fails, or the truth is not about this data set.
    pub fn of(users: &WeighedUsers<'_>, dataset: &Dataset, truth: &Truth, seed: u64) -> Result<Self, AnalysisError> {
        let scored =
            users.map(|events| Some((recommendations(events, dataset, truth)?, searches(events, dataset, truth)?)))?;
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
        let columns =
            ["side", "similar", "dissimilar", "unlabelled", "AUC", "AUC within users", "AUC, labels shuffled"];
        let mut table = Table::new(columns);
        for (name, side) in [("recommendations", &self.recommendations), ("searches", &self.searches)] {
            let counts = [side.similar, side.dissimilar, side.unlabelled].map(|count| HumanCount(count).to_string());
            let areas = [side.auc, side.auc_within_users, side.shuffled];
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
    fn of(weights: &[EventWeight], labels: impl Iterator<Item = Option<TruthLabel>>) -> Option<Self> {
        let mut scores = Self::default();
        for (event, label) in weights.iter().zip(labels) {
            let relative = f64::from(event.coattention) * weights.len() as f64;
            match label? {
                TruthLabel::Similar => scores.labelled.push((relative, true)),
                TruthLabel::Dissimilar => scores.labelled.push((relative, false)),
                TruthLabel::None => scores.unlabelled += 1,
            }
        }
        Some(scores)
    }
}

fn recommendations(events: &WeighedEvents, dataset: &Dataset, truth: &Truth) -> Option<SideScores> {
    let (items, times) = (dataset.recommendations(events.user), dataset.recommendation_times(events.user));
    let labels = events.recommendations.clone().map(|n| truth.recommendation(events.user, items[n], times[n]));
    SideScores::of(&events.weights.recommendations, labels)
}

fn searches(events: &WeighedEvents, dataset: &Dataset, truth: &Truth) -> Option<SideScores> {
    let times = dataset.search_times(events.user);
    let labels = events.searches.clone().map(|n| truth.search(events.user, times[n]));
    SideScores::of(&events.weights.searches, labels)
}

impl SideAgreement {
    fn of(users: &[SideScores], random: &mut ChaCha8Rng) -> Self {
        let all: Vec<Scored> = users.iter().flat_map(|user| user.labelled.iter().copied()).collect();
        let mut labels: Vec<bool> = all.iter().map(|&(_, similar)| similar).collect();
        let similar = labels.iter().filter(|&&similar| similar).count() as u64;
        labels.shuffle(random);
        let within: Vec<f64> = users.iter().filter_map(|user| roc_auc(user.labelled.iter().copied())).collect();
        Self {
            similar,
            dissimilar: labels.len() as u64 - similar,
            unlabelled: users.iter().map(|user| user.unlabelled).sum(),
            auc: roc_auc(all.iter().copied()),
            auc_within_users: (!within.is_empty()).then(|| mean(within.iter().copied())),
            shuffled: roc_auc(all.iter().zip(labels).map(|(&(weight, _), label)| (weight, label))),
        }
    }
}
