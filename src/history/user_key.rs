//! How stores name a user: by a hash, so that after an erasure not even the id is left in keys.

use std::fmt;

use crate::domain::UserId;

/// The first 128 bits of BLAKE3 over the user id: two of a billion users collide with a chance of 10^-21.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct UserKey([u8; Self::BYTES]);

impl UserKey {
    /// Length in bytes.
    pub(super) const BYTES: usize = 16;

    pub(super) fn of(user: &UserId) -> Self {
        let mut key = [0; Self::BYTES];
        key.copy_from_slice(&blake3::hash(user.as_str().as_bytes()).as_bytes()[..Self::BYTES]);
        Self(key)
    }

    /// As [`bytes`](Self::bytes) gave them; `None` of another length.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// A number that spreads users evenly, for choosing one of several locks or connections.
    pub(super) fn spread(&self) -> usize {
        usize::from(u16::from_le_bytes([self.0[0], self.0[1]]))
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserKey({self})")
    }
}
