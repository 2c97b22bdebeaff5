//! Certificates for tests, in files.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::CertificateFiles;

/// One of localhost that ends with this year's beginning.
pub(super) fn certificate(key: &KeyPair, year: i32) -> String {
    let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
    parameters.not_after = date_time_ymd(year, 1, 1);
    parameters.self_signed(key).unwrap().pem()
}

/// Files in a directory that is gone with it.
pub(super) struct Place(tempfile::TempDir);

impl Place {
    pub(super) fn with(certificate: &str, key: &KeyPair) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.put(certificate, key);
        place
    }

    pub(super) fn put(&self, certificate: &str, key: &KeyPair) {
        let files = self.files();
        std::fs::write(files.certificate, certificate).unwrap();
        std::fs::write(files.key, key.serialize_pem()).unwrap();
    }

    pub(super) fn files(&self) -> CertificateFiles {
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| self.0.path().join(name));
        CertificateFiles { certificate, key, client_authority: None }
    }
}
