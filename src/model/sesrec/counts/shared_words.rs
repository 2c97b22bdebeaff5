//! Words that a candidate's caption shares with what a user clicked and asked for.
//!
//! With `idf(t) = ln(n / items with t) / ln(n)` over the catalogue's n items, candidate c has from each side of a history
//!
//!   Σ_{t ∈ words(c)} (3 idf(t))² · share(t)
//!
//! for each γ of [`DECAYS`]; share(t) is the share of the events that have t, weighted by γ^(events after it).

use std::sync::Arc;

use candle_core::{Result, Tensor};
use hashbrown::HashMap;

use super::{DECAYS, by_age, weighted};
use crate::{
    data::{Catalogue, HistoryBatch, UserFeatures},
    model::{ModelError, ParameterList, Weights},
    nn::{Initial, project},
};

/// Sums per candidate: those of the recommendation side, then of the search side.
const SUMS: usize = 2 * DECAYS.len();

/// `[SUMS]`: what they weigh.
const WEIGHTS: &str = "shared_words.weight";

/// Rarities of words, and what the sums weigh.
#[derive(Debug, Clone)]
pub(super) struct SharedWords {
    catalogue: Arc<Catalogue>,
    /// (3 idf)² by word row; 0 for words of no item.
    rarity: Arc<[f32]>,
    /// `[SUMS]`.
    weights: Tensor,
}

/// Each word of a history with its share of every sum, rarity not counted.
#[derive(Debug, Clone, Default)]
pub(super) struct HistoryWords(HashMap<u32, [f32; SUMS]>);

/// What a candidate's logit gets for each word of a history that it has: all that scoring needs.
#[derive(Debug, Clone, Default)]
pub(super) struct WordLogits(HashMap<u32, f32>);

impl SharedWords {
    pub(super) fn parameters(list: &mut ParameterList) {
        list.add(WEIGHTS.into(), &[SUMS], Initial::Constant(0.0));
    }

    pub(super) fn new(catalogue: Arc<Catalogue>, weights: &Weights<'_>) -> std::result::Result<Self, ModelError> {
        Ok(Self::with_weights(catalogue, weights.get(WEIGHTS)?))
    }

    fn with_weights(catalogue: Arc<Catalogue>, weights: Tensor) -> Self {
        Self { rarity: rarities(&catalogue), catalogue, weights }
    }

    /// Of a user of a batch, whose clicked items these are.
    pub(super) fn of_batch(&self, batch: &HistoryBatch, user: usize, items: &[u32]) -> HistoryWords {
        let words = &batch.src_words[user * batch.src_len * batch.word_len..];
        let words = &words[..batch.src_lengths[user] * batch.word_len];
        self.history(items, words.chunks_exact(batch.word_len.max(1)))
    }

    /// Both sides oldest first; word 0 is none.
    fn history<'a>(
        &self,
        items: &[u32],
        queries: impl DoubleEndedIterator<Item = &'a [u32]> + ExactSizeIterator,
    ) -> HistoryWords {
        let mut words: HashMap<u32, [f32; SUMS]> = HashMap::new();
        let mut add = |first: usize, word: u32, counts: [f32; DECAYS.len()]| {
            let shares = words.entry(word).or_default();
            shares[first..].iter_mut().zip(counts).for_each(|(share, count)| *share += count);
        };
        each_word(items.iter().map(|&item| self.words_of(item)), |word, counts| add(0, word, counts));
        each_word(queries, |word, counts| add(DECAYS.len(), word, counts));
        HistoryWords(words)
    }

    fn words_of(&self, item: u32) -> &[u32] {
        self.catalogue.items.words.get(item).unwrap_or_default()
    }

    fn rarity_of(&self, word: u32) -> f32 {
        self.rarity.get(word as usize).copied().unwrap_or(0.0)
    }

    /// What candidates `[B · C]` get for the words they share with their users, `[B, C]`; nothing for users left out.
    pub(super) fn logits<'a>(
        &self,
        histories: impl ExactSizeIterator<Item = Option<&'a HistoryWords>>,
        candidates: &[u32],
    ) -> Result<Tensor> {
        let users = histories.len();
        let per_user = candidates.len().checked_div(users).unwrap_or(0);
        let mut sums = vec![[0.0_f32; SUMS]; candidates.len()];
        let by_user = candidates.chunks(per_user.max(1)).zip(sums.chunks_mut(per_user.max(1)));
        for (history, (items, sums)) in histories.zip(by_user) {
            let Some(HistoryWords(history)) = history else { continue };
            for (&item, sums) in items.iter().zip(sums) {
                for &word in self.words_of(item) {
                    let Some(shares) = history.get(&word) else { continue };
                    let rarity = self.rarity_of(word);
                    sums.iter_mut().zip(shares).for_each(|(sum, share)| *sum += rarity * share);
                }
            }
        }
        let sums = Tensor::from_vec(sums.into_flattened(), (users, per_user, SUMS), self.weights.device())?;
        project(&sums, &self.weights.unsqueeze(0)?)?.squeeze(2)
    }

    /// What scoring needs of the weights.
    pub(super) fn on_host(&self) -> Result<HostSharedWords> {
        let weights = self.weights.to_vec1::<f32>()?;
        let weights = std::array::from_fn(|sum| weights[sum]);
        Ok(HostSharedWords { words: self.clone(), weights })
    }
}

/// The same for scoring, in host memory whatever the model's device.
#[derive(Debug, Clone)]
pub(super) struct HostSharedWords {
    words: SharedWords,
    weights: [f32; SUMS],
}

impl HostSharedWords {
    /// What a user's words add to candidates that have them.
    pub(super) fn of_user(&self, user: &UserFeatures) -> WordLogits {
        let mut words: HashMap<u32, f32> = HashMap::new();
        let (clicked, asked) = self.weights.split_at(DECAYS.len());
        let mut add = |weights: &[f32], word: u32, counts: [f32; DECAYS.len()]| {
            let rarity = self.words.rarity_of(word);
            if rarity > 0.0 {
                *words.entry(word).or_default() += rarity * weighted(counts, weights);
            }
        };
        let items = user.recommendations.iter().map(|&item| self.words.words_of(item));
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
            *logit += self.words.words_of(item).iter().filter_map(|word| user.0.get(word)).sum::<f32>();
        }
    }
}

/// Every word of a side's events, oldest first, with how much it counts at the event's age by each of [`DECAYS`]. Word 0 is
/// none.
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

/// (3 idf)² by word row: of a size at which weights of about a half make the most of the sums, as learning doesn't go far.
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
    use candle_core::Device;

    use super::*;
    use crate::data::{EntityTable, HistoryLimits, SearchFeatures, UserRow};

    const LIMITS: HistoryLimits = HistoryLimits { recommendations: 5, searches: 4, words: 3, clicks: 1 };

    /// Four items: word 1 is in two of them, word 2 in three, word 3 in one, word 4 in none.
    fn catalogue() -> Arc<Catalogue> {
        let words = [vec![1, 2], vec![2], vec![2, 3, 1], vec![]].into_iter().collect();
        let ids = ["a", "b", "c", "d"].into_iter().collect();
        Arc::new(Catalogue { items: EntityTable { ids, words, ..EntityTable::padded() }, ..Catalogue::default() })
    }

    fn shared(weights: [f32; SUMS]) -> SharedWords {
        SharedWords::with_weights(catalogue(), Tensor::new(&weights, &Device::Cpu).unwrap())
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

    #[test]
    fn each_sum_is_what_it_says() {
        // Clicked "a", then "b"; asked for word 3, then for words 1 and 4.
        let user = user(&[1, 2], &[&[3], &[1, 4]]);
        let expected = [
            // Candidate "c" has words 1, 2 and 3.
            (rarity(2.0) + rarity(3.0) * 2.0) / 2.0,
            (rarity(2.0) * 0.5 + rarity(3.0) * 1.5) / 1.5,
            (rarity(1.0) + rarity(2.0)) / 2.0,
            (rarity(1.0) * 0.5 + rarity(2.0)) / 1.5,
        ];
        for (sum, expected) in expected.into_iter().enumerate() {
            let weights = std::array::from_fn(|n| if n == sum { 1.0 } else { 0.0 });
            let shared = shared(weights);
            let batch =
                HistoryBatch::padded_to_limits([&user, &UserFeatures { searches: vec![], ..user.clone() }], LIMITS);
            let words = [shared.of_batch(&batch, 0, &[1, 2]), shared.of_batch(&batch, 1, &[1, 2])];
            let logits = shared.logits(words.iter().map(Some), &[3, 4, 3, 0]).unwrap().to_vec2::<f32>().unwrap();
            assert!((logits[0][0] - expected).abs() < 1e-6, "{sum}: {logits:?}, not {expected}");
            assert_eq!(logits[0][1], 0.0, "it has no words");
            assert_eq!(logits[1][0], if sum < DECAYS.len() { logits[0][0] } else { 0.0 }, "its user has not searched");
            assert_eq!(logits[1][1], 0.0, "padding has no words");
            let host = shared.on_host().unwrap();
            let mut added = [1.0, 1.0];
            host.add(&host.of_user(&user), &[3, 4], &mut added);
            assert!((added[0] - 1.0 - expected).abs() < 1e-6 && added[1] == 1.0, "{added:?}");
        }
    }

    #[test]
    fn users_who_are_left_out_get_nothing() {
        let shared = shared([1.0; SUMS]);
        let batch = HistoryBatch::padded_to_longest(&[user(&[1], &[&[3]])], LIMITS);
        let words = shared.of_batch(&batch, 0, &[1]);
        let users = [Some(&words), None, Some(&words)].into_iter();
        let logits = shared.logits(users, &[3, 2, 3, 2, 3, 2]).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!((&logits[1], &logits[2]), (&vec![0.0; 2], &logits[0]));
        assert!(logits[0].iter().all(|&logit| logit > 0.0));
    }

    #[test]
    fn only_words_of_items_are_kept() {
        let user = user(&[1], &[&[4, 3]]);
        let host = shared([1.0; SUMS]).on_host().unwrap();
        let mut kept: Vec<u32> = host.of_user(&user).0.into_keys().collect();
        kept.sort_unstable();
        assert_eq!(kept, [1, 2, 3], "no item has word 4");
        assert!(host.of_user(&user).bytes() > 0);
        assert_eq!(WordLogits::default().bytes(), 0);
    }

    #[test]
    fn a_catalogue_without_captions_adds_nothing() {
        let items = EntityTable { ids: ["a"].into_iter().collect(), ..EntityTable::padded() };
        let catalogue = Arc::new(Catalogue { items, ..Catalogue::default() });
        let host =
            SharedWords::with_weights(catalogue, Tensor::new(&[1_f32; SUMS], &Device::Cpu).unwrap()).on_host().unwrap();
        let mut logits = [0.5];
        host.add(&host.of_user(&user(&[1], &[&[1]])), &[1], &mut logits);
        assert_eq!(logits, [0.5]);
    }
}
