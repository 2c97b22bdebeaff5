//! Whether the scores that are served still look as they did when the model went live.

/// Scores of a window. With ten bins, chance alone moves the index by about 0.002.
const WINDOW: usize = 10_000;
const BINS: usize = 10;
/// An empty bin counts as this share: the index stays finite.
const LEAST_SHARE: f64 = 1e-4;

/// Compares window after window of scores with the first one, by the population stability index: Σ (q - p) ln(q / p)
/// over bins that held a tenth each of the first window.
#[derive(Debug, Default)]
pub(super) struct ScoreDrift {
    /// The first window, until it is full.
    first: Vec<f32>,
    reference: Option<Reference>,
    counts: [usize; BINS],
}

#[derive(Debug)]
struct Reference {
    /// Upper bounds of all bins but the last.
    bounds: [f32; BINS - 1],
    shares: [f64; BINS],
}

impl ScoreDrift {
    /// Takes a score in; the index at the end of each window but the first.
    pub(super) fn observe(&mut self, score: f32) -> Option<f64> {
        let Some(reference) = &self.reference else {
            self.first.push(score);
            if self.first.len() == WINDOW {
                self.reference = Some(Reference::of(std::mem::take(&mut self.first)));
            }
            return None;
        };
        self.counts[reference.bin(score)] += 1;
        if self.counts.iter().sum::<usize>() < WINDOW {
            return None;
        }
        let shares = shares(&std::mem::take(&mut self.counts));
        Some(reference.shares.iter().zip(shares).map(|(p, q)| (q - p) * (q / p).ln()).sum())
    }
}

impl Reference {
    fn of(mut scores: Vec<f32>) -> Self {
        scores.sort_by(f32::total_cmp);
        let bounds = std::array::from_fn(|n| scores[(n + 1) * scores.len() / BINS]);
        let mut reference = Self { bounds, shares: [0.0; BINS] };
        // Not a tenth each where many scores are equal.
        let mut counts = [0; BINS];
        scores.iter().for_each(|&score| counts[reference.bin(score)] += 1);
        reference.shares = shares(&counts);
        reference
    }

    fn bin(&self, score: f32) -> usize {
        self.bounds.partition_point(|&bound| bound <= score)
    }
}

fn shares(counts: &[usize; BINS]) -> [f64; BINS] {
    let all: usize = counts.iter().sum();
    counts.map(|count| (count as f64 / all as f64).max(LEAST_SHARE))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn the_index_tells_chance_from_change() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let mut drift = ScoreDrift::default();
        let mut window = |drift: &mut ScoreDrift, power: i32| {
            let scores = (0..WINDOW).map(|_| random.random::<f32>().powi(power));
            scores.filter_map(|score| drift.observe(score)).last()
        };
        assert_eq!(window(&mut drift, 2), None, "the reference");
        for _ in 0..5 {
            let same = window(&mut drift, 2).expect("a full window");
            assert!(same < 0.01, "{same}");
        }
        let moved = window(&mut drift, 3).expect("a full window");
        assert!((0.05..0.5).contains(&moved), "{moved}");
        let other = window(&mut drift, 12).expect("a full window");
        assert!(other > 0.5, "{other}");
        assert!(window(&mut drift, 2).expect("a full window") < 0.01, "it forgets");
    }

    #[test]
    fn equal_scores_are_no_drift() {
        let mut drift = ScoreDrift::default();
        let indices: Vec<f64> = (0..3 * WINDOW).filter_map(|_| drift.observe(0.5)).collect();
        assert_eq!(indices, [0.0, 0.0]);
    }
}
