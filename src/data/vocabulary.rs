//! A set of strings numbered from 0 in the order of insertion, held in one buffer.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Strings ↔ consecutive numbers. About 17 bytes per entry besides the text itself, so that ten million item ids fit
/// in a few hundred megabytes, where a `HashMap<String, u32>` would take more than a gigabyte.
#[derive(Clone, Default)]
pub struct Vocabulary {
    text: String,
    /// End of each entry in `text`.
    ends: Vec<u64>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Vocabulary {
    /// An empty vocabulary.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of `entry`, which is added if it is new.
    ///
    /// # Panics
    /// With more than `u32::MAX` entries.
    pub fn insert(&mut self, entry: &str) -> u32 {
        let hash = self.hasher.hash_one(entry);
        if let Some(&number) = self.table.find(hash, |&n| slice(&self.text, &self.ends, n) == entry) {
            return number;
        }
        let number = u32::try_from(self.ends.len()).expect("a vocabulary holds at most 2^32 entries");
        self.text.push_str(entry);
        self.ends.push(self.text.len() as u64);
        let (text, ends, hasher) = (&self.text, &self.ends, &self.hasher);
        self.table.insert_unique(hash, number, |&n| hasher.hash_one(slice(text, ends, n)));
        number
    }

    /// The number of `entry`, if it is known.
    pub fn get(&self, entry: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(entry);
        self.table.find(hash, |&n| slice(&self.text, &self.ends, n) == entry).copied()
    }

    /// The entry with this number.
    pub fn name(&self, number: u32) -> Option<&str> {
        ((number as usize) < self.ends.len()).then(|| slice(&self.text, &self.ends, number))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All entries by number.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.ends.len()).map(|n| slice(&self.text, &self.ends, n as u32))
    }
}

fn slice<'a>(text: &'a str, ends: &[u64], number: u32) -> &'a str {
    let number = number as usize;
    let start = if number == 0 { 0 } else { ends[number - 1] as usize };
    &text[start..ends[number] as usize]
}

impl<S: AsRef<str>> FromIterator<S> for Vocabulary {
    fn from_iter<I: IntoIterator<Item = S>>(entries: I) -> Self {
        let mut vocabulary = Self::new();
        for entry in entries {
            vocabulary.insert(entry.as_ref());
        }
        vocabulary
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vocabulary({} entries)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_reversible() {
        let mut vocabulary = Vocabulary::new();
        for (n, entry) in ["a", "", "bc", "ä"].into_iter().enumerate() {
            assert_eq!(vocabulary.insert(entry), n as u32);
            assert_eq!(vocabulary.insert(entry), n as u32);
        }
        assert_eq!(vocabulary.iter().collect::<Vec<_>>(), ["a", "", "bc", "ä"]);
        assert_eq!(vocabulary.get("bc"), Some(2));
        assert_eq!(vocabulary.get("b"), None);
        assert_eq!(vocabulary.name(4), None);
    }
}
