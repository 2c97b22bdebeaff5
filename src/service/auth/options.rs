//! What callers are asked for.

use std::sync::Arc;

use super::{Certificates, TokenFile};

/// How callers prove who they are. By default nobody has to: for localhost, and behind a proxy that asks.
#[derive(Debug, Clone, Default)]
pub struct SecurityOptions {
    /// TLS on the gRPC port.
    pub tls: Option<Arc<Certificates>>,
    /// The tokens without which only health answers.
    pub tokens: Option<Arc<TokenFile>>,
    /// Whether reflection asks for a token where there are tokens.
    pub reflection: ReflectionAccess,
}

/// Who may read the service's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ReflectionAccess {
    /// Callers with a token, whatever its rights.
    #[default]
    Token,
    /// Everybody.
    Public,
}
