//! Certificates and keys in PEM, as values of flags.

use std::fmt;

/// A PEM file, read.
#[derive(Clone)]
pub(super) struct Pem(pub(super) Vec<u8>);

/// It may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({} bytes)", self.0.len())
    }
}

/// Reads a file with at least one certificate.
pub(super) fn certificates(path: &str) -> Result<Pem, String> {
    read(path, "-----BEGIN CERTIFICATE-----", "certificate")
}

/// Reads a file with a private key: PKCS#8, PKCS#1 or SEC1.
pub(super) fn private_key(path: &str) -> Result<Pem, String> {
    read(path, "PRIVATE KEY-----", "unencrypted private key")
}

fn read(path: &str, marker: &str, what: &str) -> Result<Pem, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let encrypted = find(&pem, "-----BEGIN ENCRYPTED");
    if encrypted || !find(&pem, marker) {
        return Err(format!("has no {what} in PEM (-----BEGIN …-----)"));
    }
    Ok(Pem(pem))
}

fn find(pem: &[u8], marker: &str) -> bool {
    pem.windows(marker.len()).any(|window| window == marker.as_bytes())
}
