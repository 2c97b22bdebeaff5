//! A set of strings numbered from 0 in the order of insertion, held in one buffer.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Entries that are looked up together.
const BLOCK: usize = 32;

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

    /// Makes room for so many more entries: a table that grows by itself hashes each of them again several times.
    pub fn reserve(&mut self, entries: usize) {
        let Self { text, ends, table, hasher } = self;
        ends.reserve(entries);
        table.reserve(entries, |&n| hasher.hash_one(slice(text, ends, n)));
    }

    /// The number of `entry`, which is added if it is new.
    ///
    /// # Panics
    /// With more than `u32::MAX` entries.
    pub fn insert(&mut self, entry: &str) -> u32 {
        let hash = self.hasher.hash_one(entry);
        self.find(hash, entry).unwrap_or_else(|| self.add(hash, entry))
    }

    /// Adds many entries, none of which may be there already; those before one that is are added, and its place is
    /// returned. Where the vocabulary is large, a block of entries waits for memory together, as in
    /// [`get_all`](Self::get_all).
    ///
    /// # Panics
    /// With more than `u32::MAX` entries.
    pub fn insert_new<'a>(&mut self, entries: impl IntoIterator<Item = &'a str>) -> Result<(), usize> {
        let (mut entries, mut place) = (entries.into_iter(), 0);
        let mut block = Vec::with_capacity(BLOCK);
        loop {
            block.clear();
            block.extend(entries.by_ref().take(BLOCK).map(|entry| (self.hasher.hash_one(entry), entry)));
            if block.is_empty() {
                return Ok(());
            }
            for &(hash, _) in &block {
                // Read for nothing but to be in the cache afterwards.
                std::hint::black_box(self.table.find(hash, |_| true));
            }
            for &(hash, entry) in &block {
                if self.find(hash, entry).is_some() {
                    return Err(place);
                }
                self.add(hash, entry);
                place += 1;
            }
        }
    }

    /// An entry that is not there yet.
    fn add(&mut self, hash: u64, entry: &str) -> u32 {
        let number = u32::try_from(self.ends.len()).expect("a vocabulary holds at most 2^32 entries");
        self.text.push_str(entry);
        self.ends.push(self.text.len() as u64);
        let (text, ends, hasher) = (&self.text, &self.ends, &self.hasher);
        self.table.insert_unique(hash, number, |&n| hasher.hash_one(slice(text, ends, n)));
        number
    }

    /// The number of `entry`, if it is known.
    pub fn get(&self, entry: &str) -> Option<u32> {
        self.find(self.hasher.hash_one(entry), entry)
    }

    fn find(&self, hash: u64, entry: &str) -> Option<u32> {
        self.table.find(hash, |&n| slice(&self.text, &self.ends, n) == entry).copied()
    }

    /// The numbers of many entries. Each is some five reads, one after the other, of places that are in no cache where
    /// the vocabulary is large; here each of them is made for a block of entries at once, so that the processor waits
    /// for all of the block together.
    pub fn get_all<S: AsRef<str>>(&self, entries: &[S]) -> Vec<Option<u32>> {
        let mut numbers = Vec::with_capacity(entries.len());
        for entries in entries.chunks(BLOCK) {
            let (mut hashes, mut guesses, mut places) = ([0; BLOCK], [None; BLOCK], [(0, 0); BLOCK]);
            for (hash, entry) in hashes.iter_mut().zip(entries) {
                *hash = self.hasher.hash_one(entry.as_ref());
            }
            // The first whose hash begins alike: nearly always the one, if there is one.
            for (guess, &hash) in guesses.iter_mut().zip(&hashes[..entries.len()]) {
                *guess = self.table.find(hash, |_| true).copied();
            }
            for (place, guess) in places.iter_mut().zip(guesses) {
                *place = guess.map_or((0, 0), |number| place_of(&self.ends, number));
            }
            for (((entry, &hash), guess), (start, end)) in entries.iter().zip(&hashes).zip(guesses).zip(places) {
                let entry = entry.as_ref();
                // Bytes: where the guess is wrong, they need not end with a character.
                numbers.push(match guess {
                    Some(number) if self.text.as_bytes()[start..end] == *entry.as_bytes() => Some(number),
                    Some(_) => self.find(hash, entry),
                    None => None,
                });
            }
        }
        numbers
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
    let (start, end) = place_of(ends, number);
    &text[start..end]
}

fn place_of(ends: &[u64], number: u32) -> (usize, usize) {
    let number = number as usize;
    let start = if number == 0 { 0 } else { ends[number - 1] as usize };
    (start, ends[number] as usize)
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
        assert_eq!(vocabulary.get_all(&["ä", "", "b", "a", "bc"]), [Some(3), Some(1), None, Some(0), Some(2)]);
    }

    #[test]
    fn new_entries_are_added_up_to_one_that_is_not_new() {
        let mut vocabulary = Vocabulary::new();
        let names: Vec<String> = (0..1000).map(|n| format!("item-{n}")).collect();
        let added =
            |vocabulary: &mut Vocabulary, names: &[String]| vocabulary.insert_new(names.iter().map(String::as_str));
        assert_eq!(added(&mut vocabulary, &names), Ok(()));
        assert_eq!(vocabulary.iter().collect::<Vec<_>>(), names);
        assert_eq!(vocabulary.get("item-999"), Some(999));
        // Also one of the same block.
        let more = ["a", "b", "a", "c"].map(str::to_owned);
        assert_eq!(added(&mut vocabulary, &more), Err(2));
        assert_eq!((vocabulary.len(), vocabulary.get("b"), vocabulary.get("c")), (1002, Some(1001), None));
        assert_eq!(added(&mut vocabulary, &names[7..]), Err(0));
    }

    /// With so many entries, some hashes begin alike.
    #[test]
    fn many_are_found_as_each_by_itself() {
        let vocabulary: Vocabulary = (0..5000).map(|n| format!("item-{}", n * 3)).collect();
        let entries: Vec<String> = (0..15_100).map(|n| format!("item-{n}")).collect();
        let expected: Vec<Option<u32>> = entries.iter().map(|entry| vocabulary.get(entry)).collect();
        assert_eq!(vocabulary.get_all(&entries), expected);
        assert_eq!(expected.iter().flatten().count(), 5000);
        assert_eq!(Vocabulary::new().get_all(&["a"]), [None]);
    }
}
