//! What a token may allow.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::telemetry::Rpc;

/// What a token may allow. None implies another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Rank and GetHistory: an explained Rank shows the same events.
    Rank,
    /// AppendEvent and AppendEvents.
    Append,
    /// DeleteHistory.
    Admin,
}

impl Right {
    /// The right that a method asks for; `None`: any token will do.
    pub(super) fn of(rpc: Rpc) -> Option<Self> {
        match rpc {
            Rpc::Rank | Rpc::GetHistory => Some(Self::Rank),
            Rpc::AppendEvent | Rpc::AppendEvents => Some(Self::Append),
            Rpc::DeleteHistory => Some(Self::Admin),
            Rpc::GetModelInfo => None,
        }
    }

    /// As in the file of tokens.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rank => "rank",
            Self::Append => "append",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
