//! Identifiers. Each is a distinct type over a shared string, so that an item can't be passed where a user is meant.

use std::{fmt, sync::Arc};

use super::EventTime;

/// The longest identifier that is accepted, in bytes.
pub const MAX_ID_BYTES: usize = 512;

/// Why a string is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty string.
    #[error("must not be empty")]
    Empty,
    /// Longer than [`MAX_ID_BYTES`].
    #[error("is {0} bytes long; at most {MAX_ID_BYTES} are allowed")]
    TooLong(usize),
    /// Contains a control character.
    #[error("contains a control character")]
    Control,
}

/// The rules of every identifier, for text that need not be copied: thousands of candidates per request.
///
/// # Errors
/// Names the first rule that is broken.
pub fn check_id(id: &str) -> Result<(), IdError> {
    if id.is_empty() {
        Err(IdError::Empty)
    } else if id.len() > MAX_ID_BYTES {
        Err(IdError::TooLong(id.len()))
    } else if !id.bytes().all(|byte| (b' '..0x7f).contains(&byte)) && id.chars().any(char::is_control) {
        // Nearly all ids are printable ASCII, which is quicker to see.
        Err(IdError::Control)
    } else {
        Ok(())
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length and characters.
            ///
            /// # Errors
            /// As [`check_id`].
            pub fn new(id: &str) -> Result<Self, IdError> {
                check_id(id).map(|()| Self(id.into()))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Whose history it is.
    UserId
);
id!(
    /// What is ranked, shown and clicked.
    ItemId
);
id!(
    /// Makes an append idempotent; unique per user.
    EventId
);
id!(
    /// Ties clicks to their search.
    SearchId
);
id!(
    /// A query of the catalogue.
    QueryId
);
id!(
    /// The checksum of a bundle's manifest: changes whenever a byte of the bundle changes.
    ModelVersion
);

/// Grows with every change of a user's history; equal versions of a user mean equal histories.
///
/// It is a hybrid clock, `max(previous + 1, store time in microseconds)`, so that it stays monotonic when a history
/// expires or is erased and begins anew. 0 is the version of a user that the store has never seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct HistoryVersion(pub u64);

impl HistoryVersion {
    /// The version of a change at `time`, unless the one before it was as late already: then it is the next one. So
    /// what has an earlier version than this was changed before `time` for the last time.
    pub fn of_change_at(time: EventTime) -> Self {
        Self(time.nanos() / 1000)
    }
}

impl fmt::Display for HistoryVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_rule_has_its_error() {
        assert_eq!(check_id(""), Err(IdError::Empty));
        assert_eq!(check_id(&"x".repeat(MAX_ID_BYTES + 1)), Err(IdError::TooLong(MAX_ID_BYTES + 1)));
        for control in ["a\n", "\u{0}", "\u{7f}", "é\u{85}"] {
            assert_eq!(check_id(control), Err(IdError::Control), "{control:?}");
        }
        for fine in ["item-17", "a b", "~", "é", "商品", "\u{a0}"] {
            assert_eq!(check_id(fine), Ok(()), "{fine:?}");
        }
    }

    proptest! {
        #[test]
        fn the_quick_look_at_ascii_changes_nothing(id in "[\\x00-\\x{100}]{1,12}") {
            prop_assert_eq!(check_id(&id) == Err(IdError::Control), id.chars().any(char::is_control));
        }
    }
}
