//! From query text to words.

use serde::{Deserialize, Serialize};

/// How queries are split to words; recorded in the data set and in the bundle, so that serving splits as training did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// Maximal runs of letters and digits, lower-cased. Reads plain text ("Red shoes") and KuaiSAR's
    /// keyword lists ("[1, 171, 173]") alike. Languages written without spaces have to be segmented beforehand.
    #[default]
    Alphanumeric,
}

impl Tokenizer {
    /// The words of `text`, in order.
    pub fn words(self, text: &str) -> Vec<String> {
        match self {
            Self::Alphanumeric => {
                text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
            }
        }
    }

    /// The form under which the catalogue knows a query: its words, joined by a space.
    pub fn canonical(self, text: &str) -> String {
        self.canonical_of(&self.words(text))
    }

    /// The same of a text's words.
    pub fn canonical_of(self, words: &[String]) -> String {
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_text() {
        assert_eq!(Tokenizer::Alphanumeric.canonical("[1, 171, 173]"), "1 171 173");
        assert_eq!(Tokenizer::Alphanumeric.canonical("  Red-Shoes\t42 "), "red shoes 42");
        assert_eq!(Tokenizer::Alphanumeric.canonical("[]"), "");
    }
}
