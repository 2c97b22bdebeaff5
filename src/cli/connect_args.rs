//! How the client commands reach a server: address, TLS, token.

use std::{fmt, time::Duration};

use anyhow::{Context, bail};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::pem::{self, Pem};

/// A connection, or several, with the caller's token.
pub type Transport = InterceptedService<Channel, Bearer>;

/// Which server, and how it knows whom it has before it.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectArgs {
    /// Where the server listens; https:// is TLS.
    #[arg(long, default_value = "http://localhost:50051", value_name = "URL")]
    pub server: String,
    #[command(flatten)]
    pub credentials: Credentials,
}

/// Who the caller is, and how it knows the server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Credentials {
    /// The token that allows the call; @FILE reads it from a file, which other users of this machine don't see in the
    /// list of processes.
    #[arg(long, value_name = "TOKEN")]
    token: Option<Secret>,
    /// PEM file with the authority that vouches for the server, in place of the system's.
    #[arg(long, value_parser = pem::certificates, value_name = "FILE")]
    ca: Option<Pem>,
    /// PEM file with this caller's certificate, for servers that ask for one.
    #[arg(long, value_parser = pem::certificates, value_name = "FILE")]
    client_certificate: Option<Pem>,
    /// PEM file with the private key of --client-certificate.
    #[arg(long, value_parser = pem::private_key, value_name = "FILE")]
    client_key: Option<Pem>,
}

/// The text of a token.
#[derive(Clone)]
struct Secret(String);

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Adds the caller's token to every call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl ConnectArgs {
    /// Without TLS and token.
    pub(super) fn plain(server: String) -> Self {
        Self { server, credentials: Credentials::default() }
    }

    /// Connects. Errors name the server and no flag, since several flags name one.
    pub async fn connect(&self, timeout: Duration) -> anyhow::Result<Transport> {
        let endpoint = self.endpoint(timeout)?;
        let connected = endpoint.connect().await;
        let channel = connected
            .with_context(|| format!("cannot connect to {}; is `sesrec serve` running there?", self.server))?;
        Ok(InterceptedService::new(channel, self.credentials.bearer()?))
    }

    /// Connects when it is needed, and again when it has to.
    pub fn connect_lazy(&self, timeout: Duration) -> anyhow::Result<Transport> {
        Ok(InterceptedService::new(self.endpoint(timeout)?.connect_lazy(), self.credentials.bearer()?))
    }

    fn endpoint(&self, timeout: Duration) -> anyhow::Result<Endpoint> {
        let tls = self.credentials.tls()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = match self.server.split_once("://") {
            None => format!("{scheme}://{}", self.server),
            Some(("http", _)) if tls.is_some() => {
                bail!("the server {}: certificates are of use with https:// only", self.server)
            }
            Some(("http" | "https", _)) => self.server.clone(),
            Some(_) => bail!("the server {}: begins with neither http:// nor https://", self.server),
        };
        let secure = url.starts_with("https://");
        let mut endpoint = Endpoint::from_shared(url)
            .with_context(|| format!("the server {}: is no address", self.server))?
            .connect_timeout(Duration::from_secs(5).min(timeout))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        if secure {
            let tls = tls.unwrap_or_else(|| ClientTlsConfig::new().with_native_roots());
            endpoint = endpoint.tls_config(tls).context("--ca, --client-certificate, --client-key")?;
        }
        Ok(endpoint)
    }
}

impl Credentials {
    fn tls(&self) -> anyhow::Result<Option<ClientTlsConfig>> {
        let identity = match (&self.client_certificate, &self.client_key) {
            (Some(Pem(certificate)), Some(Pem(key))) => Some(Identity::from_pem(certificate, key)),
            (None, None) => None,
            _ => bail!("--client-certificate and --client-key: the one needs the other"),
        };
        if self.ca.is_none() && identity.is_none() {
            return Ok(None);
        }
        let tls = match &self.ca {
            Some(Pem(authority)) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        Ok(Some(match identity {
            Some(identity) => tls.identity(identity),
            None => tls,
        }))
    }

    fn bearer(&self) -> anyhow::Result<Bearer> {
        let Some(Secret(text)) = &self.token else { return Ok(Bearer(None)) };
        let text = match text.strip_prefix('@') {
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("--token @{path}"))?,
            None => text.clone(),
        };
        let value = format!("Bearer {}", text.trim()).parse::<MetadataValue<Ascii>>();
        // The error must not repeat the token.
        let Ok(mut value) = value else { bail!("--token: has characters that no token has") };
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(args: &ConnectArgs) -> Result<String, String> {
        let endpoint = args.endpoint(Duration::from_secs(1));
        endpoint.map(|endpoint| endpoint.uri().to_string()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_doesnt_fit_together_is_said() {
        let plain = |server: &str| ConnectArgs::plain(server.into());
        assert_eq!(endpoint(&plain("localhost:1")).unwrap(), "http://localhost:1/");
        assert_eq!(endpoint(&plain("https://localhost:1")).unwrap(), "https://localhost:1/");
        let scheme = endpoint(&plain("ftp://localhost")).unwrap_err();
        assert!(scheme.contains("neither http:// nor https://") && !scheme.contains("--server"), "{scheme}");
        let pem = || Some(Pem(b"-----BEGIN CERTIFICATE-----".to_vec()));
        let with = |credentials, server| ConnectArgs { credentials, ..plain(server) };
        let half = with(Credentials { client_certificate: pem(), ..Credentials::default() }, "localhost:1");
        assert!(endpoint(&half).unwrap_err().contains("--client-key"));
        let insecure = with(Credentials { ca: pem(), ..Credentials::default() }, "http://localhost:1");
        assert!(endpoint(&insecure).unwrap_err().contains("https:// only"));
    }

    #[test]
    fn tokens_are_read_from_files_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "hunter2\n").unwrap();
        let with = |text: String| Credentials { token: Some(Secret(text)), ..Credentials::default() };
        for text in ["hunter2".to_owned(), format!("@{}", path.display())] {
            let args = with(text);
            let value = args.bearer().unwrap().0.unwrap();
            assert_eq!(value.to_str().unwrap(), "Bearer hunter2");
            assert!(value.is_sensitive());
        }
        let args = with("hunter2\u{7f}".into());
        assert!(!format!("{args:?}").contains("hunter2"));
        let error = format!("{:#}", args.bearer().err().unwrap());
        assert!(error.contains("--token") && !error.contains("hunter2"), "{error}");
    }
}
