//! What the commands that talk to a running server have in common.

use std::{error::Error, io, time::Duration};

use anyhow::anyhow;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

use super::connect_args::{ConnectArgs, Transport};
use crate::{
    proto::v1::{
        AppendEventResponse, GetModelInfoRequest, GetModelInfoResponse, ranking_service_client::RankingServiceClient,
    },
    service::ERROR_DOMAIN,
    units::parse_duration,
};

/// A client of the ranking service.
pub type Client = RankingServiceClient<Transport>;

/// Which server, and how long to wait for it.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    #[command(flatten)]
    pub connection: ConnectArgs,
    /// How long an answer may take.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub timeout: Duration,
}

impl ServerArgs {
    /// Connects.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        Ok(client(self.connection.connect(self.timeout).await?))
    }

    /// Connects when it is needed, and again when it has to.
    pub fn connect_lazy(&self) -> anyhow::Result<Client> {
        Ok(client(self.connection.connect_lazy(self.timeout)?))
    }

    /// A request that tells the server how long its answer is waited for.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// Without tonic's limit of 4 MiB: an explained answer over thousands of candidates is larger.
pub fn client(transport: Transport) -> Client {
    Client::new(transport).max_decoding_message_size(256 << 20)
}

/// The live model of a server. Without a `timeout` the answer may take as long as it likes.
pub async fn model_info(transport: &Transport, timeout: Option<Duration>) -> anyhow::Result<GetModelInfoResponse> {
    let mut request = tonic::Request::new(GetModelInfoRequest {});
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    let answer = client(transport.clone()).get_model_info(request).await;
    Ok(answer.map_err(|status| describe(&status))?.into_inner())
}

/// Why an event is INVALID: every field that is wrong.
pub fn violations(answer: &AppendEventResponse) -> String {
    let violations = answer.field_violations.iter();
    let reasons: Vec<_> = violations.map(|v| format!("{} {}", v.field, v.description)).collect();
    reasons.join("; ")
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
    if let Some(source) = status.source().filter(|source| source.is::<tonic::transport::Error>()) {
        text.push_str(transport_hint(source));
    }
    match status.code() {
        Code::Unimplemented => text.push_str("\n  is that a sesrec server?"),
        Code::Unauthenticated => text.push_str("\n  --token says who you are"),
        _ => {}
    }
    anyhow!(text)
}

/// What to look at, where no server has answered.
fn transport_hint(error: &(dyn Error + 'static)) -> &'static str {
    for cause in std::iter::successors(Some(error), |&error| error.source()) {
        if cause.is::<TimeoutExpired>() {
            return "\n  there was no answer within --timeout";
        }
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => {
                return "\n  nobody listens there: is `sesrec serve` running there?";
            }
            Some(io::ErrorKind::TimedOut) => {
                return "\n  there was no connection within --timeout, or within 5 s: is `sesrec serve` running there?";
            }
            _ => {}
        }
    }
    "\n  nothing was understood there: https:// where the server has TLS, http:// where it has none; --ca FILE if its \
     authority is not the system's, --client-certificate FILE if it asks for one"
}

/// Whether the server itself says so, and not what lies between.
pub fn is_the_servers(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.domain == ERROR_DOMAIN)
}

/// How long the server asks to wait.
pub fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|retry| retry.retry_delay)
}

/// An id that nobody else makes.
pub fn random_id(prefix: &str) -> String {
    format!("{prefix}-{:032x}", rand::random::<u128>())
}

/// Of an event that is not stored for its age: what that means, and what to do.
pub(super) const TOO_OLD: &str = "TOO_OLD is what is older than the server's --time-to-live or than all that it keeps of \
                                  its user, and a click beyond the --max-clicks of its search. To store old events, \
                                  start the server with `serve --time-to-live 0s`";

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    /// What is said of a call to this address.
    async fn told(address: SocketAddr, timeout: Duration) -> String {
        let server = ServerArgs { connection: ConnectArgs::plain(format!("http://{address}")), timeout };
        let request = server.request(GetModelInfoRequest {});
        let answer = server.connect_lazy().unwrap().get_model_info(request).await;
        describe(&answer.unwrap_err()).to_string()
    }

    #[tokio::test]
    async fn what_is_said_of_a_call_without_an_answer_fits_what_happened() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // The system takes the connection; nobody reads from it.
        let silent = told(address, Duration::from_millis(500)).await;
        assert!(silent.contains("within --timeout") && !silent.contains("https://"), "{silent}");
        let refused = told("127.0.0.1:1".parse().unwrap(), Duration::from_secs(10)).await;
        assert!(refused.contains("is `sesrec serve` running there?") && !refused.contains("https://"), "{refused}");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        let misunderstood = told(address, Duration::from_secs(10)).await;
        assert!(misunderstood.contains("https:// where the server has TLS"), "{misunderstood}");
    }
}
