//! Words that a candidate's caption shares with what a user clicked and asked for.
//!
//! With `idf(t) = ln(n / items with t) / ln(n)` over the catalogue's n items, candidate c has from each side of a
//! history
//!
//!   Σ_{t ∈ words(c)} (3 idf(t))² · share(t)
//!
//! for each γ of [`DECAYS`]; share(t) is the share of the events that have t, weighted by γ^(events after it); a
//! query that says a word twice counts twice.

use std::sync::Arc;

use hashbrown::HashMap;

use super::decay::{DECAYS, by_age, weighted};
use crate::{
    data::{Catalogue, UserFeatures},
    model::{ModelError, ParameterList, Weights},
};

/// Sums per candidate: those of the recommendation side, then of the search side.
const SUMS: usize = 2 * DECAYS.len();

/// `[SUMS]`: what they weigh.
pub(super) const WEIGHTS: &str = "shared_words.weight";

/// Rarities of words, and what the sums weigh.
#[derive(Debug, Clone)]
pub(super) struct SharedWords {
    catalogue: Arc<Catalogue>,
    /// (3 idf)² by word row; 0 for words of no item.
    rarity: Arc<[f32]>,
    pub(super) weights: [f32; SUMS],
}

/// What a candidate's logit gets for each word of a history that it has.
#[derive(Debug, Clone, Default)]
pub(super) struct WordLogits(HashMap<u32, f32>);

impl SharedWords {
    pub(super) fn parameters(list: &mut ParameterList) {
        list.fitted(WEIGHTS.into(), &[SUMS]);
    }

    pub(super) fn new(catalogue: Arc<Catalogue>, weights: &Weights<'_>) -> std::result::Result<Self, ModelError> {
        let weights = weights.get(WEIGHTS)?.to_vec1::<f32>()?;
        Ok(Self::with_weights(catalogue, std::array::from_fn(|sum| weights[sum])))
    }

    fn with_weights(catalogue: Arc<Catalogue>, weights: [f32; SUMS]) -> Self {
        Self { rarity: rarities(&catalogue), catalogue, weights }
    }

    fn words_of(&self, item: u32) -> &[u32] {
        self.catalogue.items.words.get(item).unwrap_or_default()
    }

    /// What a user's words add to candidates that have them.
    pub(super) fn of_user(&self, user: &UserFeatures) -> WordLogits {
        let mut words: HashMap<u32, f32> = HashMap::new();
        let (clicked, asked) = self.weights.split_at(DECAYS.len());
        let mut add = |weights: &[f32], word: u32, counts: [f32; DECAYS.len()]| {
            let rarity = self.rarity.get(word as usize).copied().unwrap_or(0.0);
            if rarity > 0.0 {
                *words.entry(word).or_default() += rarity * weighted(counts, weights);
            }
        };
        let items = user.recommendations.iter().map(|&item| self.words_of(item));
        each_word(items, |word, counts| add(clicked, word, counts));
        each_word(user.searches.iter().map(|search| &search.words[..]), |word, counts| add(asked, word, counts));
        WordLogits(words)
    }

    /// Added to candidates' logits.
    pub(super) fn add(&self, user: &WordLogits, items: &[u32], logits: &mut [f32]) {
        if user.0.is_empty() {
            return;
        }
        for (&item, logit) in items.iter().zip(logits) {
            *logit += self.words_of(item).iter().filter_map(|word| user.0.get(word)).sum::<f32>();
        }
    }
}

/// Every word of a side's events, oldest first, with how much it counts at the event's age by each of [`DECAYS`]. Word
/// 0 is none.
fn each_word<'a>(
    events: impl DoubleEndedIterator<Item = &'a [u32]> + ExactSizeIterator,
    mut with: impl FnMut(u32, [f32; DECAYS.len()]),
) {
    let counts = by_age(events.len());
    for (words, counts) in events.rev().zip(counts) {
        words.iter().filter(|&&word| word != 0).for_each(|&word| with(word, counts));
    }
}

impl WordLogits {
    /// Memory it occupies.
    pub(super) fn bytes(&self) -> usize {
        self.0.allocation_size()
    }
}

/// (3 idf)² by word row: of a size at which weights are below one, as the prior of [`super::stacking`] has it.
fn rarities(catalogue: &Catalogue) -> Arc<[f32]> {
    let words = &catalogue.items.words;
    let mut items_with = vec![0_u32; words.all().iter().max().map_or(0, |&max| max as usize + 1)];
    let mut distinct = vec![];
    for row in 0..words.rows() as u32 {
        distinct.clear();
        distinct.extend_from_slice(words.get(row).unwrap_or_default());
        distinct.sort_unstable();
        distinct.dedup();
        distinct.iter().for_each(|&word| items_with[word as usize] += 1);
    }
    let items = catalogue.items.ids.len().max(2) as f32;
    let idf = |count: u32| if count == 0 { 0.0 } else { (items / count as f32).ln() / items.ln() };
    items_with.into_iter().map(|count| (3.0 * idf(count)).powi(2)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{EntityTable, SearchFeatures, UserRow};

    /// Four items: word 1 is in two of them, word 2 in three, word 3 in one, word 4 in none.
    fn catalogue() -> Arc<Catalogue> {
        let words = [vec![1, 2], vec![2], vec![2, 3, 1], vec![]].into_iter().collect();
        let ids = ["a", "b", "c", "d"].into_iter().collect();
        Arc::new(Catalogue { items: EntityTable { ids, words, ..EntityTable::padded() }, ..Catalogue::default() })
    }

    fn shared(weights: [f32; SUMS]) -> SharedWords {
        SharedWords::with_weights(catalogue(), weights)
    }

    fn user(recommendations: &[u32], queries: &[&[u32]]) -> UserFeatures {
        let search =
            |words: &&[u32]| SearchFeatures { query: 0, words: words.to_vec(), source: 0, clicks: vec![], place: 0 };
        UserFeatures {
            user: UserRow::Mean,
            recommendations: recommendations.to_vec(),
            searches: queries.iter().map(search).collect(),
            as_of: None,
        }
    }

    fn rarity(items_with: f32) -> f32 {
        9.0 * ((4.0 / items_with).ln() / 4_f32.ln()).powi(2)
    }

    fn added(shared: &SharedWords, user: &UserFeatures, items: &[u32]) -> Vec<f32> {
        let mut logits = vec![1.0; items.len()];
        shared.add(&shared.of_user(user), items, &mut logits);
        logits.into_iter().map(|logit| logit - 1.0).collect()
    }

    #[test]
    fn each_sum_is_what_it_says() {
        // Clicked "a", then "b"; asked for word 3, then for words 1 and 4.
        let user = user(&[1, 2], &[&[3], &[1, 4]]);
        let without_searches = UserFeatures { searches: vec![], ..user.clone() };
        let expected = [
            // Candidate "c" has words 1, 2 and 3.
            (rarity(2.0) + rarity(3.0) * 2.0) / 2.0,
            (rarity(2.0) * 0.5 + rarity(3.0) * 1.5) / 1.5,
            (rarity(1.0) + rarity(2.0)) / 2.0,
            (rarity(1.0) * 0.5 + rarity(2.0)) / 1.5,
        ];
        for (sum, expected) in expected.into_iter().enumerate() {
            let shared = shared(std::array::from_fn(|n| if n == sum { 1.0 } else { 0.0 }));
            let logits = added(&shared, &user, &[3, 4, 0]);
            assert!((logits[0] - expected).abs() < 1e-6, "{sum}: {logits:?}, not {expected}");
            assert_eq!(logits[1..], [0.0, 0.0], "the one has no words, the other is padding");
            let expected = if sum < DECAYS.len() { logits[0] } else { 0.0 };
            assert_eq!(added(&shared, &without_searches, &[3]), [expected]);
        }
    }

    #[test]
    fn only_words_of_items_are_kept() {
        let user = user(&[1], &[&[4, 3]]);
        let words = shared([1.0; SUMS]).of_user(&user);
        assert!(words.bytes() > 0);
        let mut kept: Vec<u32> = words.0.into_keys().collect();
        kept.sort_unstable();
        assert_eq!(kept, [1, 2, 3], "no item has word 4");
        assert_eq!(WordLogits::default().bytes(), 0);
    }

    #[test]
    fn a_catalogue_without_captions_adds_nothing() {
        let items = EntityTable { ids: ["a"].into_iter().collect(), ..EntityTable::padded() };
        let catalogue = Arc::new(Catalogue { items, ..Catalogue::default() });
        let shared = SharedWords::with_weights(catalogue, [1.0; SUMS]);
        assert_eq!(added(&shared, &user(&[1], &[&[1]]), &[1]), [0.0]);
    }
}
