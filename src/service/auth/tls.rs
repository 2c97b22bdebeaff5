//! TLS of the gRPC port, by rustls.

use std::{error::Error, fmt, time::Duration};

use jiff::Timestamp;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use x509_parser::pem::Pem;

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
    end: Option<Timestamp>,
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
            Ok(_) => Ok(Self { config, clients, end: end_of_first(certificate) }),
            Err(error) => Err(TlsError(error.source().map_or_else(|| error.to_string(), ToString::to_string))),
        }
    }

    /// Whether a connection needs a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.clients == Clients::WithCertificate
    }

    /// When the server's own certificate ends; `None` where it can't be told, since rustls asks less of a certificate
    /// than who reads all of it.
    pub fn certificate_end(&self) -> Option<Timestamp> {
        self.end
    }

    pub(in super::super) fn config(&self) -> ServerTlsConfig {
        self.config.clone()
    }
}

/// The server's certificate comes first, its chain after it.
fn end_of_first(pem: &[u8]) -> Option<Timestamp> {
    let mut blocks = Pem::iter_from_buffer(pem).filter_map(Result::ok);
    let certificate = blocks.find(|block| block.label == "CERTIFICATE")?;
    let end = certificate.parse_x509().ok()?.validity().not_after.timestamp();
    // One without an end says the year 9999, whose last day is beyond what a timestamp has.
    Some(Timestamp::from_second(end).unwrap_or(Timestamp::MAX))
}

/// Never shows the key.
impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions").field("clients", &self.clients).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(key: &KeyPair, year: i32) -> String {
        let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_after = date_time_ymd(year, 1, 1);
        parameters.self_signed(key).unwrap().pem()
    }

    #[test]
    fn the_end_is_the_servers_own_and_not_its_authoritys() {
        let key = KeyPair::generate().unwrap();
        let end_of = |chain: &str| {
            let tls = TlsOptions::new(chain.as_bytes(), key.serialize_pem().as_bytes(), None).unwrap();
            tls.certificate_end().expect("an end").to_string()
        };
        let [own, authority] = [2033, 2040].map(|year| certificate(&key, year));
        assert_eq!(end_of(&own), "2033-01-01T00:00:00Z");
        assert_eq!(end_of(&format!("{own}{authority}")), "2033-01-01T00:00:00Z");
        // As files have it that keep all in one: with text, and the key before the certificate.
        assert_eq!(end_of(&format!("of localhost\n{}{own}", key.serialize_pem())), "2033-01-01T00:00:00Z");
        assert_eq!(end_of(&certificate(&key, 2001)), "2001-01-01T00:00:00Z", "rustls serves it all the same");
        assert_eq!(end_of_first(b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"), None);
        assert_eq!(end_of_first(b""), None);
    }
}
