//! Who may call what: TLS on the connection, bearer tokens with rights on the calls.
//!
//! `tls` is the server's identity and whose client certificates it takes, `renewal` looks for new ones; `tokens` is the
//! file of token hashes, which can be read anew while it is in use; `layer` asks for both rights and tokens before
//! anything of a request is decoded.

#[cfg(test)]
mod fixture;
mod layer;
mod options;
mod renewal;
mod right;
mod tls;
mod tokens;

pub(super) use layer::AuthorizeLayer;
pub use options::{ReflectionAccess, SecurityOptions};
pub(super) use renewal::follow;
pub use right::Right;
pub use tls::{CertificateFiles, Certificates, TlsError};
pub use tokens::{NewToken, TokenFile, TokenFileError};
