//! TLS of the gRPC port, by rustls.

use std::{error::Error, fmt, time::Duration};

use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

/// How long a handshake may take: one that is begun and not ended holds a connection's place.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Certificates that can't be used: not PEM, a key of another certificate, no authority among them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// The server's certificate and key, and whose client certificates it takes.
#[derive(Clone)]
pub struct TlsOptions {
    config: ServerTlsConfig,
    clients: Clients,
}

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clients {
    Anybody,
    WithCertificate,
}

impl TlsOptions {
    /// From PEM: the certificate (followed by its chain), its key, and the authority whose client certificates are
    /// asked for, if any are.
    ///
    /// # Errors
    /// What rustls says about them.
    pub fn new(certificate: &[u8], key: &[u8], client_authority: Option<&[u8]>) -> Result<Self, TlsError> {
        let mut config = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)).timeout(HANDSHAKE);
        let mut clients = Clients::Anybody;
        if let Some(authority) = client_authority {
            config = config.client_ca_root(Certificate::from_pem(authority));
            clients = Clients::WithCertificate;
        }
        // Here and not when the server starts: a model may be loaded in between.
        match Server::builder().tls_config(config.clone()) {
            Ok(_) => Ok(Self { config, clients }),
            Err(error) => Err(TlsError(error.source().map_or_else(|| error.to_string(), ToString::to_string))),
        }
    }

    /// Whether a connection needs a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.clients == Clients::WithCertificate
    }

    pub(in super::super) fn config(&self) -> ServerTlsConfig {
        self.config.clone()
    }
}

/// Never shows the key.
impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions").field("clients", &self.clients).finish_non_exhaustive()
    }
}
