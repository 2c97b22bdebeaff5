//! Items that a user did not click, among which the clicked one is ranked: from a file, or sampled once and for all.

use std::{
    borrow::Cow,
    collections::HashSet,
    io::{BufRead, BufReader, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Catalogue, Dataset, without_mark};

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
        /// Each user's line of the file; 0 where there is none.
        lines: Vec<usize>,
    },
    Sampled {
        count: usize,
        seed: u64,
    },
}

impl EvaluationNegatives {
    /// `count` items per user, uniform among those outside the user's whole sequence. Drawn when they are asked for,
    /// from the seed and the user: the same whoever else is evaluated.
    pub fn sampled(count: usize, seed: u64) -> Self {
        Self { source: Source::Sampled { count, seed } }
    }

    /// A text file, plain or .gz: a line per user, `user_id` and then item ids, separated by white space.
    ///
    /// # Errors
    /// For a file that can't be read, and for a line with an unknown user or item, with an item twice, without items,
    /// or with a user who had a line before.
    pub fn read(path: &Path, catalogue: &Catalogue) -> Result<Self, NegativesError> {
        let io_error = |source| NegativesError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io_error)?;
        let reader: Box<dyn Read> = match path.extension() {
            Some(extension) if extension == "gz" => Box::new(flate2::read::MultiGzDecoder::new(file)),
            _ => Box::new(file),
        };
        let mut lists: Vec<Vec<u32>> = vec![vec![]; catalogue.users.rows()];
        let mut lines = vec![0; lists.len()];
        for (line, text) in (1..).zip(BufReader::new(reader).lines()) {
            let text = text.map_err(io_error)?;
            let text = if line == 1 { without_mark(&text) } else { &text };
            let wrong = |message| NegativesError::Line { path: path.to_owned(), line, message };
            let Some((user, items)) = parse(text, catalogue).map_err(wrong)? else { continue };
            let list = &mut lists[user as usize];
            if !list.is_empty() {
                let user = catalogue.users.id(user).unwrap_or_default();
                return Err(wrong(format!("user {user:?} has a line already")));
            }
            (*list, lines[user as usize]) = (items, line);
        }
        let ends = lists
            .iter()
            .scan(0, |end, list| {
                *end += list.len();
                Some(*end)
            })
            .collect();
        Ok(Self { source: Source::File { path: path.to_owned(), ends, items: lists.concat(), lines } })
    }

    /// The negatives of a user row.
    ///
    /// # Errors
    /// If the file has none for the user, or the user's sequence leaves fewer items than are to be sampled.
    pub fn of(&self, user: u32, dataset: &Dataset) -> Result<Cow<'_, [u32]>, NegativesError> {
        match &self.source {
            Source::File { path, ends, items, .. } => match &items[row(ends, user)] {
                [] => Err(NegativesError::MissingUser { path: path.clone(), user: user_id(dataset, user) }),
                items => Ok(Cow::Borrowed(items)),
            },
            Source::Sampled { count, seed } => sample(user, dataset, *count, *seed).map(Cow::Owned),
        }
    }

    /// How many negatives each of some user rows has: the fewest and the most. Nothing without any user.
    pub fn counts(&self, users: impl IntoIterator<Item = u32>) -> Option<(usize, usize)> {
        let counts = users.into_iter().map(|user| match &self.source {
            Source::File { ends, .. } => row(ends, user).len(),
            Source::Sampled { count, .. } => *count,
        });
        counts.fold(None, |ends, count| {
            let (fewest, most) = ends.unwrap_or((count, count));
            Some((fewest.min(count), most.max(count)))
        })
    }

    /// Where a user row's negatives are written, as file and line; nothing where they are in no file.
    pub fn place(&self, user: u32) -> Option<String> {
        match &self.source {
            Source::File { path, lines, .. } => Some(format!("{}, line {}", path.display(), lines[user as usize])),
            Source::Sampled { .. } => None,
        }
    }
}

/// Which items are a user row's.
fn row(ends: &[usize], user: u32) -> Range<usize> {
    let start = if user == 0 { 0 } else { ends[user as usize - 1] };
    start..ends[user as usize]
}

fn sample(user: u32, dataset: &Dataset, count: usize, seed: u64) -> Result<Vec<u32>, NegativesError> {
    let items = &dataset.catalogue.items;
    let (first, end) = (items.first_row, items.rows() as u32);
    let mut out: HashSet<u32> = dataset.recommendations(user).iter().copied().collect();
    let left = (end - first) as usize - out.len();
    if left < count {
        let message = format!(
            "only {left} items are outside the sequence of user {:?}, and {count} negatives are to be sampled: \
             sample fewer with --sampled-negatives N, or give a file of negatives with --negatives FILE",
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

    /// Items "i1".. in rows 1.., users "u0"..; each user's recommendations as given.
    fn dataset(items: usize, users: &[&[u32]]) -> Dataset {
        fixture::dataset(items, 0, users.iter().map(|items| fixture::User::clicking(items)))
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
        assert!(error.contains("--sampled-negatives N") && error.contains("--negatives FILE"), "{error}");
        assert_eq!((negatives.counts(0..3), negatives.place(0)), (Some((99, 99)), None));
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
            assert_eq!(negatives.place(0), Some(format!("{}, line 3", path.display())));
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_user() {
        let dataset = dataset(5, &[&[1], &[2]]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("n.txt");
        std::fs::write(&path, "\u{feff}u0 i4\r\nu1 i1 i3 i5\r\n").unwrap();
        let negatives = EvaluationNegatives::read(&path, &dataset.catalogue).unwrap();
        assert_eq!(*negatives.of(0, &dataset).unwrap(), [4]);
        // Users of a file may have different numbers of them.
        assert_eq!((negatives.counts(0..2), negatives.counts([])), (Some((1, 3)), None));
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
