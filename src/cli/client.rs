//! What the commands that talk to a running server have in common.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tonic::{Code, Status, transport::Channel, transport::Endpoint};
use tonic_types::StatusExt;

use crate::{engine::parse_duration, proto::v1::ranking_service_client::RankingServiceClient};

/// A client of the ranking service.
pub type Client = RankingServiceClient<Channel>;

/// Which server, and how long to wait for it.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    /// Where the server listens.
    #[arg(long, default_value = "http://localhost:50051", value_name = "URL")]
    pub server: String,
    /// How long an answer may take.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub timeout: Duration,
}

impl ServerArgs {
    /// Connects.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let channel = self.endpoint()?.connect().await.with_context(|| {
            format!("cannot connect to {}; is `sesrec serve` running there? (--server says where)", self.server)
        })?;
        Ok(client(channel))
    }

    /// The server as an endpoint that connects, and connects again.
    pub fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let url = if self.server.contains("://") { self.server.clone() } else { format!("http://{}", self.server) };
        if !url.starts_with("http://") {
            bail!("--server {}: only http:// is spoken here; put a TLS proxy in between", self.server);
        }
        let endpoint = Endpoint::from_shared(url).with_context(|| format!("--server {}", self.server))?;
        Ok(endpoint
            .connect_timeout(Duration::from_secs(5).min(self.timeout))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10)))
    }

    /// A request that tells the server how long its answer is waited for.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// Without tonic's limit of 4 MiB: an explained answer over thousands of candidates is larger.
pub fn client(channel: Channel) -> Client {
    Client::new(channel).max_decoding_message_size(256 << 20)
}

/// A failed call, for people: code, message, every field that is wrong, when to try again.
pub fn describe(status: &Status) -> anyhow::Error {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let details = status.get_error_details();
    for violation in details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default() {
        text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
    }
    if let Some(delay) = retry_delay(status) {
        text.push_str(&format!("\n  try again in {delay:?}"));
    }
    if status.code() == Code::Unimplemented {
        text.push_str("\n  is that a sesrec server?");
    }
    anyhow!(text)
}

/// How long the server asks to wait.
pub fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|retry| retry.retry_delay)
}

/// An id that nobody else makes.
pub fn random_id(prefix: &str) -> String {
    format!("{prefix}-{:032x}", rand::random::<u128>())
}
