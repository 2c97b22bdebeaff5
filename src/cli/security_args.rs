//! Who may connect to `sesrec serve`, and call what.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;

use crate::service::{CertificateFiles, Certificates, ReflectionAccess, SecurityOptions, TokenFile};

/// Options about TLS and tokens.
#[derive(Debug, Args)]
pub(super) struct SecurityArgs {
    /// PEM file with the server's certificate, followed by its chain: gRPC is TLS then. Files, not pipes: they
    /// are read again every minute, and on SIGHUP.
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// PEM file with the private key of --tls-certificate.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// PEM file with the authority whose client certificates are asked for; without one nobody connects then.
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// File of tokens, as `sesrec token` writes it: every call but health asks for one. SIGHUP reads it anew.
    #[arg(long, value_parser = open_tokens, value_name = "FILE")]
    tokens: Option<Arc<TokenFile>>,
    /// Who may use reflection where there are tokens.
    #[arg(long, value_enum, default_value_t, value_name = "WHO")]
    reflection: ReflectionAccess,
}

fn open_tokens(path: &str) -> Result<Arc<TokenFile>, String> {
    TokenFile::open(Path::new(path)).map(Arc::new).map_err(|error| error.to_string())
}

impl SecurityArgs {
    /// As the server wants them.
    pub(super) fn options(&self) -> anyhow::Result<SecurityOptions> {
        let tls = match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                let (certificate, key) = (certificate.clone(), key.clone());
                let files = CertificateFiles { certificate, key, client_authority: self.tls_client_ca.clone() };
                let certificates = Certificates::open(files);
                Some(Arc::new(certificates.context("--tls-certificate, --tls-key, --tls-client-ca")?))
            }
            (None, None) if self.tls_client_ca.is_some() => {
                bail!("--tls-client-ca: needs --tls-certificate and --tls-key")
            }
            (None, None) => None,
            _ => bail!("--tls-certificate and --tls-key: the one needs the other"),
        };
        Ok(SecurityOptions { tls, tokens: self.tokens.clone(), reflection: self.reflection })
    }
}
