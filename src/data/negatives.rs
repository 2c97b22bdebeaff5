//! Items that a user did not click: sampled for training, fixed for evaluation.

use std::{
    borrow::Cow,
    collections::HashSet,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Catalogue, Dataset};

/// Draws that are rejected before a sampler takes another way: with half of the clicks excluded, one in 10^19 samples.
const MAX_REJECTIONS: usize = 64;

/// Why there are no negatives.
#[derive(Debug, thiserror::Error)]
pub enum NegativesError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line that can't be used.
    #[error("{path}, line {line}: {message}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A user whom the file doesn't have.
    #[error("{path} has no negatives for user {user:?}: add a line for every user who is evaluated")]
    MissingUser {
        /// Which file.
        path: PathBuf,
        /// Whose line is missing.
        user: String,
    },
    /// Nothing to draw from.
    #[error("{0}")]
    TooFewItems(String),
}

/// Draws items in proportion to their training clicks, as the release draws its training negatives from the list of
/// interactions. Walker's alias method: two random numbers per draw, whatever the size of the catalogue.
#[derive(Debug, Clone)]
pub struct PopularitySampler {
    /// For each row: the share (of 2^32) of its slot that is its own, and whose the rest is.
    slots: Vec<(u32, u32)>,
    first_item: u32,
}

impl PopularitySampler {
    /// `clicks` by item row ([`Dataset::popularity`]), `first_item` the first row that is an item.
    ///
    /// # Errors
    /// If there are fewer than two items: then no item is a negative of another. Without any click, all items are
    /// equally likely.
    pub fn new(clicks: &[u32], first_item: u32) -> Result<Self, NegativesError> {
        let items = clicks.len().saturating_sub(first_item as usize);
        if items < 2 {
            let message = format!("the catalogue has {items} items: sampling negatives takes at least two");
            return Err(NegativesError::TooFewItems(message));
        }
        let clicks = &clicks[first_item as usize..];
        let total: u64 = clicks.iter().map(|&count| u64::from(count)).sum();
        // Vose's construction in integers: exact, and so the same on every machine.
        let full = u128::from(total.max(1));
        let mut shares: Vec<u128> = match total {
            0 => vec![1; items],
            _ => clicks.iter().map(|&count| u128::from(count) * items as u128).collect(),
        };
        let mut slots: Vec<(u32, u32)> = (0..items as u32).map(|n| (u32::MAX, n)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..items).partition(|&n| shares[n] < full);
        while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
            small.pop();
            slots[poor] = (((shares[poor] << 32) / full) as u32, rich as u32);
            shares[rich] -= full - shares[poor];
            if shares[rich] < full {
                large.pop();
                small.push(rich);
            }
        }
        Ok(Self { slots, first_item })
    }

    /// One item row.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> u32 {
        let slot = rng.random_range(0..self.slots.len() as u32);
        let (own, alias) = self.slots[slot as usize];
        // u32::MAX is a full slot, not one short of it.
        let item = if own == u32::MAX || rng.random::<u32>() < own { slot } else { alias };
        item + self.first_item
    }

    /// `count` item rows, distinct and none of `excluded`, appended to `negatives`. Where a user has clicked nearly
    /// everything popular, the rest is drawn uniformly from what is left; where less than `count` is left, items repeat,
    /// and a user who has clicked everything gets any items but `excluded`'s last, which is the target.
    pub fn sample(&self, excluded: &[u32], count: usize, rng: &mut ChaCha8Rng, negatives: &mut Vec<u32>) {
        let start = negatives.len();
        for _ in 0..count {
            let taken = &negatives[start..];
            let free = |item: &u32| !taken.contains(item) && !excluded.contains(item);
            let drawn = (0..MAX_REJECTIONS).map(|_| self.draw(rng)).find(free);
            let item = drawn.unwrap_or_else(|| self.uniform(excluded, taken, rng));
            negatives.push(item);
        }
    }

    /// The slow way, for the rare user whom rejection fails.
    fn uniform(&self, excluded: &[u32], taken: &[u32], rng: &mut ChaCha8Rng) -> u32 {
        let rows = self.first_item..self.first_item + self.slots.len() as u32;
        let clicked: HashSet<u32> = excluded.iter().copied().collect();
        let mut left: Vec<u32> = rows.clone().filter(|row| !clicked.contains(row) && !taken.contains(row)).collect();
        if left.is_empty() {
            left = rows.clone().filter(|row| !clicked.contains(row)).collect();
        }
        if left.is_empty() {
            left = rows.filter(|row| Some(row) != excluded.last()).collect();
        }
        left[rng.random_range(0..left.len() as u32) as usize]
    }
}

/// The items among which each user's clicked item is ranked. Validation and test use the same.
#[derive(Debug, Clone)]
pub struct EvaluationNegatives {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// By user row, in compressed sparse rows; an empty row is a user whom the file doesn't have.
    File {
        path: PathBuf,
        ends: Vec<usize>,
        items: Vec<u32>,
    },
    Sampled {
        count: usize,
        seed: u64,
    },
}

impl EvaluationNegatives {
    /// `count` items per user, uniform among those outside the user's whole sequence. Drawn when they are asked for, from
    /// the seed and the user: the same whoever else is evaluated.
    pub fn sampled(count: usize, seed: u64) -> Self {
        Self { source: Source::Sampled { count, seed } }
    }

    /// A text file, plain or .gz: a line per user, `user_id` and then item ids, separated by white space.
    ///
    /// # Errors
    /// For a file that can't be read, and for a line with an unknown user or item, with an item twice, without items, or
    /// with a user who had a line before.
    pub fn read(path: &Path, catalogue: &Catalogue) -> Result<Self, NegativesError> {
        let io_error = |source| NegativesError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io_error)?;
        let reader: Box<dyn Read> = match path.extension() {
            Some(extension) if extension == "gz" => Box::new(flate2::read::MultiGzDecoder::new(file)),
            _ => Box::new(file),
        };
        let mut lists: Vec<Vec<u32>> = vec![vec![]; catalogue.users.rows()];
        for (n, line) in BufReader::new(reader).lines().enumerate() {
            let line = line.map_err(io_error)?;
            let Some((user, items)) = parse(&line, catalogue).map_err(|message| NegativesError::Line {
                path: path.to_owned(),
                line: n + 1,
                message,
            })?
            else {
                continue;
            };
            let list = &mut lists[user as usize];
            if !list.is_empty() {
                let message = format!("user {:?} has a line already", catalogue.users.id(user).unwrap_or_default());
                return Err(NegativesError::Line { path: path.to_owned(), line: n + 1, message });
            }
            *list = items;
        }
        let ends = lists
            .iter()
            .scan(0, |end, list| {
                *end += list.len();
                Some(*end)
            })
            .collect();
        Ok(Self { source: Source::File { path: path.to_owned(), ends, items: lists.concat() } })
    }

    /// The negatives of a user row.
    ///
    /// # Errors
    /// If the file has none for the user, or the user's sequence leaves fewer items than are to be sampled.
    pub fn of(&self, user: u32, dataset: &Dataset) -> Result<Cow<'_, [u32]>, NegativesError> {
        match &self.source {
            Source::File { path, ends, items } => {
                let start = if user == 0 { 0 } else { ends[user as usize - 1] };
                match &items[start..ends[user as usize]] {
                    [] => Err(NegativesError::MissingUser { path: path.clone(), user: user_id(dataset, user) }),
                    items => Ok(Cow::Borrowed(items)),
                }
            }
            Source::Sampled { count, seed } => sample(user, dataset, *count, *seed).map(Cow::Owned),
        }
    }
}

fn sample(user: u32, dataset: &Dataset, count: usize, seed: u64) -> Result<Vec<u32>, NegativesError> {
    let items = &dataset.catalogue.items;
    let (first, end) = (items.first_row, items.rows() as u32);
    let mut out: HashSet<u32> = dataset.recommendations(user).iter().copied().collect();
    let left = (end - first) as usize - out.len();
    if left < count {
        let message = format!(
            "only {left} items are outside the sequence of user {:?}, and {count} negatives are to be sampled: \
             sample fewer, or give a file of negatives",
            user_id(dataset, user)
        );
        return Err(NegativesError::TooFewItems(message));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // A stream of its own per user: independent of who else is evaluated, and in which order.
    rng.set_stream(u64::from(user));
    if left < 2 * count {
        // Rejection would find the last items slowly: shuffle what is left.
        let mut rows: Vec<u32> = (first..end).filter(|row| !out.contains(row)).collect();
        rand::seq::SliceRandom::shuffle(&mut rows[..], &mut rng);
        rows.truncate(count);
        return Ok(rows);
    }
    let mut rows = Vec::with_capacity(count);
    while rows.len() < count {
        let row = rng.random_range(first..end);
        if out.insert(row) {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A line's user row and item rows; nothing for an empty line.
fn parse(line: &str, catalogue: &Catalogue) -> Result<Option<(u32, Vec<u32>)>, String> {
    let mut ids = line.split_whitespace();
    let Some(user) = ids.next() else { return Ok(None) };
    let user_row = catalogue.users.row(user).ok_or_else(|| format!("user {user:?} is not in the data set"))?;
    let mut seen = HashSet::new();
    let items = ids
        .map(|id| {
            let row = catalogue.items.row(id).ok_or_else(|| format!("item {id:?} is not in the data set"))?;
            if seen.insert(row) { Ok(row) } else { Err(format!("item {id:?} stands twice")) }
        })
        .collect::<Result<Vec<_>, _>>()?;
    if items.is_empty() { Err(format!("user {user:?} has no items")) } else { Ok(Some((user_row, items))) }
}

fn user_id(dataset: &Dataset, user: u32) -> String {
    dataset.catalogue.users.id(user).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::data::fixture;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    /// Items "i1".. in rows 1.., users "u0"..; each user's recommendations as given.
    fn dataset(items: usize, users: &[&[u32]]) -> Dataset {
        fixture::dataset(items, 0, users.iter().map(|items| fixture::User::clicking(items)))
    }

    #[test]
    fn draws_in_proportion_to_clicks() {
        let clicks = [0, 1, 0, 6, 3, 10];
        let sampler = PopularitySampler::new(&clicks, 1).unwrap();
        let (mut counts, mut rng, draws) = ([0u32; 6], rng(1), 200_000);
        (0..draws).for_each(|_| counts[sampler.draw(&mut rng) as usize] += 1);
        assert_eq!((counts[0], counts[2]), (0, 0), "padding and items without clicks are never drawn");
        for (row, &clicks) in clicks.iter().enumerate() {
            let expected = f64::from(draws) * f64::from(clicks) / 20.0;
            let deviation = (f64::from(counts[row]) - expected).abs();
            // Five standard deviations of a binomial count.
            assert!(deviation <= 5.0 * expected.sqrt(), "row {row}: {} instead of {expected}", counts[row]);
        }
    }

    #[test]
    fn without_clicks_all_items_are_equally_likely() {
        let sampler = PopularitySampler::new(&[0; 5], 1).unwrap();
        let (mut counts, mut rng) = ([0u32; 5], rng(2));
        (0..40_000).for_each(|_| counts[sampler.draw(&mut rng) as usize] += 1);
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|&count| count.abs_diff(10_000) < 500), "{counts:?}");
    }

    #[test]
    fn samples_are_distinct_outside_the_history_and_repeatable() {
        let clicks: Vec<u32> = (0..50).map(|n| n * n).collect();
        let sampler = PopularitySampler::new(&clicks, 1).unwrap();
        let excluded: Vec<u32> = (30..50).collect();
        for seed in 0..500 {
            let (mut first, mut second) = (vec![], vec![]);
            sampler.sample(&excluded, 4, &mut rng(seed), &mut first);
            sampler.sample(&excluded, 4, &mut rng(seed), &mut second);
            assert_eq!(first, second);
            assert_eq!(first.iter().collect::<HashSet<_>>().len(), 4);
            assert!(first.iter().all(|item| (1..30).contains(item)), "{first:?}");
        }
    }

    #[test]
    fn a_user_who_has_nearly_everything_still_gets_negatives() {
        // Everything that was ever clicked is excluded: only the uniform way finds items 4 and 5.
        let sampler = PopularitySampler::new(&[0, 9, 9, 9, 0, 0], 1).unwrap();
        let mut negatives = vec![];
        sampler.sample(&[1, 2, 3], 2, &mut rng(3), &mut negatives);
        negatives.sort_unstable();
        assert_eq!(negatives, [4, 5]);
        // Fewer items than asked for: they repeat.
        negatives.clear();
        sampler.sample(&[1, 2, 3, 4], 3, &mut rng(4), &mut negatives);
        assert_eq!(negatives, [5, 5, 5]);
        // Nothing is left: anything but the target.
        negatives.clear();
        sampler.sample(&[1, 2, 3, 4, 5], 20, &mut rng(5), &mut negatives);
        assert!(negatives.iter().all(|item| (1..5).contains(item)), "{negatives:?}");
        assert!(PopularitySampler::new(&[0, 3], 1).is_err());
    }

    #[test]
    fn evaluation_samples_lie_outside_the_whole_sequence() {
        let dataset = dataset(120, &[&[1, 2, 3, 4], &[7, 7, 9], &(1..=115).collect::<Vec<_>>()]);
        let negatives = EvaluationNegatives::sampled(99, 7);
        for user in 0..2 {
            let items = negatives.of(user, &dataset).unwrap();
            assert_eq!(items.iter().collect::<HashSet<_>>().len(), 99);
            assert!(items.iter().all(|item| (1..=120).contains(item)));
            assert!(items.iter().all(|item| !dataset.recommendations(user).contains(item)));
            assert_eq!(items, negatives.of(user, &dataset).unwrap(), "the same on every call");
        }
        assert_ne!(negatives.of(0, &dataset).unwrap(), negatives.of(1, &dataset).unwrap());
        let error = negatives.of(2, &dataset).unwrap_err().to_string();
        assert!(error.contains("only 5 items are outside the sequence of user \"u2\""), "{error}");
    }

    #[test]
    fn reads_plain_and_compressed_files() {
        let dataset = dataset(5, &[&[1], &[2]]);
        let directory = tempfile::tempdir().unwrap();
        let (plain, compressed) = (directory.path().join("n.txt"), directory.path().join("n.txt.gz"));
        let text = "u1 i1 i3\n\nu0\ti4  i5\r\n";
        std::fs::write(&plain, text).unwrap();
        let mut encoder =
            flate2::write::GzEncoder::new(std::fs::File::create(&compressed).unwrap(), Default::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        for path in [plain, compressed] {
            let negatives = EvaluationNegatives::read(&path, &dataset.catalogue).unwrap();
            assert_eq!(*negatives.of(0, &dataset).unwrap(), [4, 5]);
            assert_eq!(*negatives.of(1, &dataset).unwrap(), [1, 3]);
        }
    }

    #[test]
    fn bad_lines_are_named() {
        let dataset = dataset(3, &[&[1], &[2]]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("n.txt");
        for (text, expected) in [
            ("u0 i1\nu9 i1\n", "line 2: user \"u9\" is not in the data set"),
            ("u0 i1 nope\n", "line 1: item \"nope\" is not in the data set"),
            ("u0 i1 i1\n", "line 1: item \"i1\" stands twice"),
            ("u0\n", "line 1: user \"u0\" has no items"),
            ("u0 i1\nu1 i2\nu0 i2\n", "line 3: user \"u0\" has a line already"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = EvaluationNegatives::read(&path, &dataset.catalogue).unwrap_err().to_string();
            assert!(error.contains("n.txt") && error.ends_with(expected), "{error}");
        }
        std::fs::write(&path, "u0 i1\n").unwrap();
        let negatives = EvaluationNegatives::read(&path, &dataset.catalogue).unwrap();
        let error = negatives.of(1, &dataset).unwrap_err().to_string();
        assert!(error.contains("no negatives for user \"u1\""), "{error}");
        let error = EvaluationNegatives::read(&directory.path().join("absent"), &dataset.catalogue).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
