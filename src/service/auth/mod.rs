//! Who may call what: TLS on the connection, bearer tokens with rights on the calls.
//!
//! `tls` is the server's identity and whose client certificates it takes; `tokens` the file of token hashes, which can
//! be read anew while it is in use; `layer` asks for both rights and tokens before anything of a request is decoded.

mod layer;
mod right;
mod tls;
mod tokens;

pub(super) use layer::AuthorizeLayer;
pub use right::Right;
pub use tls::{TlsError, TlsOptions};
pub use tokens::{NewToken, TokenFile, TokenFileError};

use std::sync::Arc;

/// How callers prove who they are. By default nobody has to: for localhost, and behind a proxy that asks.
#[derive(Debug, Clone, Default)]
pub struct SecurityOptions {
    /// TLS on the gRPC port.
    pub tls: Option<TlsOptions>,
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
