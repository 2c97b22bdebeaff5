//! TLS of the gRPC port, by rustls: certificates from files, which can be read anew while they are served.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use x509_parser::pem::Pem;

/// All that is spoken behind TLS.
const HTTP_2: &[u8] = b"h2";

/// Certificates that can't be used. Says nothing of what is in a key's file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// A file has no certificate or no key in PEM.
    #[error("{0}: has no {1} in PEM (-----BEGIN …-----)")]
    Format(PathBuf, &'static str),
    /// They don't belong together, or are none that a server can have.
    #[error("{0}: {1}")]
    Refused(PathBuf, String),
}

/// Where the server's identity lies, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The server's certificate, followed by its chain.
    pub certificate: PathBuf,
    /// The certificate's private key, unencrypted.
    pub key: PathBuf,
    /// The authority whose client certificates are asked for; without one nobody connects then.
    pub client_authority: Option<PathBuf>,
}

/// The server's certificate and key, and whose client certificates it takes.
pub struct Certificates {
    files: CertificateFiles,
    current: ArcSwap<Current>,
    /// Somebody knows of new ones.
    renewed: Notify,
}

struct Current {
    config: Arc<ServerConfig>,
    end: Option<Timestamp>,
    /// Of all files: tells whether they are others.
    hash: blake3::Hash,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file.
    pub fn open(files: CertificateFiles) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(Contents::read(&files)?.into_current(&files)?);
        Ok(Self { files, current, renewed: Notify::new() })
    }

    /// Lets a server that has them look at the files now, and not only when its minute is over.
    pub fn look(&self) {
        self.renewed.notify_one();
    }

    pub(super) async fn asked_to_look(&self) {
        self.renewed.notified().await;
    }

    /// Reads the files again; whether they are others now. Connections that there are go on as they are. Files that
    /// can't be used change nothing, such as a certificate whose key isn't there yet.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn reload(&self) -> Result<bool, TlsError> {
        let contents = Contents::read(&self.files)?;
        if contents.hash() == self.current.load().hash {
            return Ok(false);
        }
        self.current.store(Arc::new(contents.into_current(&self.files)?));
        Ok(true)
    }

    /// Whether a connection needs a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.files.client_authority.is_some()
    }

    /// When the server's own certificate ends; `None` where it can't be told, since rustls asks less of a certificate
    /// than who reads all of it.
    pub fn end(&self) -> Option<Timestamp> {
        self.current.load().end
    }

    /// Of connections that begin now.
    pub(in super::super) fn config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }
}

/// Never shows the key.
impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What is in the files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authority: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &CertificateFiles) -> Result<Self, TlsError> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| TlsError::Read(path.clone(), error));
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
            client_authority: files.client_authority.as_ref().map(read).transpose()?,
        })
    }

    fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for file in [&self.certificate, &self.key].into_iter().chain(&self.client_authority) {
            hasher.update(blake3::hash(file).as_bytes());
        }
        hasher.finalize()
    }

    fn into_current(self, files: &CertificateFiles) -> Result<Current, TlsError> {
        let hash = self.hash();
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Refused(files.certificate.clone(), error.to_string()))?;
        let builder = match files.client_authority.as_ref().zip(self.client_authority) {
            Some((path, authority)) => builder.with_client_cert_verifier(verifier(path, &authority, provider.clone())?),
            None => builder.with_no_client_auth(),
        };
        let chain = certificates(&files.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| TlsError::Format(files.key.clone(), "unencrypted private key"))?;
        // With the certificate it is loaded once more, and would be refused in the certificate's name.
        let loaded = provider.key_provider.load_private_key(key.clone_key());
        loaded.map_err(|error| TlsError::Refused(files.key.clone(), error.to_string()))?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::Refused(files.certificate.clone(), error.to_string()))?;
        config.alpn_protocols.push(HTTP_2.into());
        Ok(Current { config: Arc::new(config), end: end_of_first(&self.certificate), hash })
    }
}

/// Who may connect.
fn verifier(
    path: &Path,
    authority: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn tokio_rustls::rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    // Bundles hold authorities that are too old for webpki; those that it reads count.
    roots.add_parsable_certificates(certificates(path, authority)?);
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|error| TlsError::Refused(path.to_owned(), error.to_string()))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::Format(path.to_owned(), "certificate")),
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

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::{
        super::fixture::{Place, certificate},
        *,
    };

    #[test]
    fn the_end_is_the_servers_own_and_not_its_authoritys() {
        let key = KeyPair::generate().unwrap();
        let end_of = |chain: &str| {
            let place = Place::with(chain, &key);
            Certificates::open(place.files()).unwrap().end().expect("an end").to_string()
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

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        let [key, other] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let place = Place::with(&certificate(&key, 2033), &key);
        let certificates = Certificates::open(place.files()).unwrap();
        let end = || certificates.end().unwrap().to_string();
        assert!(!certificates.reload().unwrap(), "the same");
        // The certificate is there, its key is not yet.
        place.put(&certificate(&other, 2040), &key);
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains("tls.crt"), "{error}");
        assert_eq!(end(), "2033-01-01T00:00:00Z");
        place.put(&certificate(&other, 2040), &other);
        assert!(certificates.reload().unwrap());
        assert_eq!(end(), "2040-01-01T00:00:00Z");
        let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        std::fs::write(place.files().key, nonsense).unwrap();
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains("tls.key: "), "{error}");
        std::fs::write(place.files().key, "").unwrap();
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains("tls.key: has no unencrypted private key"), "{error}");
        std::fs::remove_file(place.files().certificate).unwrap();
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains("tls.crt: "), "{error}");
        assert_eq!(end(), "2040-01-01T00:00:00Z");
    }
}
