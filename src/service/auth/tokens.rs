//! The file of tokens: names, rights and hashes, no secrets.
//!
//! ```toml
//! [feed-service]
//! rights = ["rank"]
//! blake3 = "…"   # of the token, 64 hexadecimal digits
//! ```
//!
//! A fast hash is enough because tokens are random, 256 bits each: there is nothing to guess from. Passwords that
//! people think up don't belong here. Comparing hashes takes the same time whatever they are, and every token is
//! compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::Right;
use crate::domain::check_id;

/// Marks a text as a token of this service, for people and for scanners of leaked secrets.
const PREFIX: &str = "sesrec_";

/// A file of tokens that can't be used. Says nothing of its contents: a secret may be there by mistake.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It can't be read.
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// It isn't what it should be.
    #[error("{0}: {1}")]
    Format(PathBuf, String),
}

/// One table of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    rights: BTreeSet<Right>,
    blake3: String,
}

/// A token as the server knows it.
#[derive(Debug)]
pub(super) struct Token {
    /// Whose it is; for logs.
    pub(super) name: String,
    pub(super) rights: BTreeSet<Right>,
    hash: blake3::Hash,
}

/// The tokens of a file, read anew on demand while they are in use.
pub struct TokenFile {
    path: PathBuf,
    current: ArcSwap<Vec<Arc<Token>>>,
}

impl TokenFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file, and the token where it is about one.
    pub fn open(path: &Path) -> Result<Self, TokenFileError> {
        Ok(Self { path: path.to_owned(), current: ArcSwap::from_pointee(read(path)?) })
    }

    /// Reads the file again; how many tokens it has now. A file that can't be used changes nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn reload(&self) -> Result<usize, TokenFileError> {
        let tokens = read(&self.path)?;
        let count = tokens.len();
        self.current.store(Arc::new(tokens));
        Ok(count)
    }

    /// Whose a secret is. Takes the same time for every secret of a length.
    pub(super) fn find(&self, secret: &[u8]) -> Option<Arc<Token>> {
        let hash = blake3::hash(secret);
        let mut found = None;
        for token in self.current.load().iter() {
            // `blake3::Hash` compares in constant time.
            if token.hash == hash {
                found = Some(token.clone());
            }
        }
        found
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenFile({:?})", self.path)
    }
}

fn read(path: &Path) -> Result<Vec<Arc<Token>>, TokenFileError> {
    let text = std::fs::read_to_string(path).map_err(|error| TokenFileError::Read(path.to_owned(), error))?;
    parse(&text).map_err(|message| TokenFileError::Format(path.to_owned(), message))
}

fn parse(text: &str) -> Result<Vec<Arc<Token>>, String> {
    let entries: BTreeMap<String, Entry> = toml::from_str(text).map_err(|error| {
        // The error's own text would show the line.
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        format!(
            "{line}not a table of tokens, as in [NAME] rights = [\"rank\"] blake3 = \"…\" (`sesrec token` writes one)"
        )
    })?;
    if entries.is_empty() {
        return Err("has no token: nobody could call; `sesrec token` makes one".into());
    }
    let mut tokens: Vec<Arc<Token>> = vec![];
    for (name, Entry { rights, blake3 }) in entries {
        if rights.is_empty() {
            return Err(format!("[{name}] has no rights; there are rank, append and admin"));
        }
        let hash = blake3::Hash::from_hex(&blake3).map_err(|_| {
            format!("[{name}] blake3 is not 64 hexadecimal digits: the hash belongs here, not the token")
        })?;
        if let Some(same) = tokens.iter().find(|token| token.hash == hash) {
            return Err(format!("[{name}] is the same token as [{}]", same.name));
        }
        tokens.push(Arc::new(Token { name, rights, hash }));
    }
    Ok(tokens)
}

/// A new random token.
pub struct NewToken {
    name: String,
    rights: BTreeSet<Right>,
    secret: String,
}

impl NewToken {
    /// Of 256 random bits.
    ///
    /// # Errors
    /// If the name is none.
    pub fn generate(name: &str, rights: impl IntoIterator<Item = Right>) -> Result<Self, String> {
        check_id(name).map_err(|error| format!("the token's name {error}"))?;
        let secret = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok(Self { name: name.into(), rights: rights.into_iter().collect(), secret: format!("{PREFIX}{secret}") })
    }

    /// What the caller sends; it is stored nowhere.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// What belongs into the file.
    pub fn entry(&self) -> String {
        let blake3 = blake3::hash(self.secret.as_bytes()).to_hex().to_string();
        let entry = Entry { rights: self.rights.clone(), blake3 };
        toml::to_string(&BTreeMap::from([(&self.name, entry)])).expect("names and texts are TOML")
    }

    /// The text of a file with this token added.
    ///
    /// # Errors
    /// If the file would not be one: the name is taken, or the text wasn't one before.
    pub fn added_to(&self, text: &str) -> Result<String, String> {
        if parse(text).is_ok_and(|tokens| tokens.iter().any(|token| token.name == self.name)) {
            return Err(format!(
                "a token named {:?} is there already: give the new one another name, and remove the old one when nobody uses it",
                self.name
            ));
        }
        let separator = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
        let text = format!("{text}{separator}{}", self.entry());
        parse(&text).map(|_| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_found_by_its_secret_and_by_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        let (feed, logs) = (NewToken::generate("feed", [Right::Rank]), NewToken::generate("logs", [Right::Append]));
        let (feed, logs) = (feed.unwrap(), logs.unwrap());
        let text = logs.added_to(&feed.added_to("").unwrap()).unwrap();
        assert!(!text.contains(feed.secret()) && !text.contains(&feed.secret()[PREFIX.len()..]));
        std::fs::write(&path, &text).unwrap();
        let file = TokenFile::open(&path).unwrap();
        let found = file.find(feed.secret().as_bytes()).unwrap();
        assert_eq!((found.name.as_str(), &found.rights), ("feed", &BTreeSet::from([Right::Rank])));
        let other = NewToken::generate("feed", [Right::Rank]).unwrap();
        for secret in [other.secret(), "", &feed.secret()[1..], &feed.secret().to_uppercase()] {
            assert!(file.find(secret.as_bytes()).is_none());
        }
        assert!(other.added_to(&text).unwrap_err().contains("\"feed\" is there already"));

        // Read anew: a broken file changes nothing, a whole one does.
        std::fs::write(&path, "[feed]\n").unwrap();
        assert!(file.reload().is_err());
        assert!(file.find(feed.secret().as_bytes()).is_some());
        std::fs::write(&path, other.entry()).unwrap();
        assert_eq!(file.reload().unwrap(), 1);
        assert!(file.find(feed.secret().as_bytes()).is_none());
        assert!(file.find(other.secret().as_bytes()).is_some());
    }

    #[test]
    fn a_wrong_file_is_told_without_its_contents() {
        let hash = "0".repeat(64);
        for (text, reason) in [
            (String::new(), "has no token"),
            ("[a]\nrights = [\"rank\"]\nblake3 = \"hunter2\"".into(), "[a] blake3 is not 64"),
            (format!("[a]\nrights = []\nblake3 = \"{hash}\""), "[a] has no rights"),
            (format!("[a]\nrights = [\"hunter2\"]\nblake3 = \"{hash}\""), "line 2"),
            (format!("[a]\nrights = [\"rank\"]\nblake3 = \"{hash}\"\nsecret = \"hunter2\""), "line"),
            ("hunter2".into(), "line 1"),
            (
                format!("[a]\nrights=[\"rank\"]\nblake3=\"{hash}\"\n[b]\nrights=[\"rank\"]\nblake3=\"{hash}\""),
                "[b] is the same token as [a]",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for name in ["", "a\nb"] {
            assert!(NewToken::generate(name, [Right::Rank]).is_err());
        }
        let quoted = NewToken::generate("of \"us\" [x]", [Right::Rank, Right::Admin]).unwrap();
        assert_eq!(parse(&quoted.entry()).unwrap()[0].name, "of \"us\" [x]");
    }
}
