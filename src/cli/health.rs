//! `sesrec health`: one question to the gRPC health protocol; the exit code is the answer.

use anyhow::bail;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::client::{ServerArgs, describe};

/// Options of `sesrec health`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: SERVING. 1: not serving, not reachable, no answer in time. Made for container probes:
  HEALTHCHECK CMD [\"sesrec\", \"health\", \"127.0.0.1:50051\", \"--timeout\", \"2s\"]"
)]
pub struct Args {
    /// Where the server listens, HOST:PORT; the same as --server.
    #[arg(value_name = "ADDRESS")]
    address: Option<String>,
    /// What is asked about. The ranking service: model loaded and store reachable. The empty name: the process answers.
    #[arg(long, default_value = "sesrec.v1.RankingService", value_name = "NAME")]
    service: String,
    #[command(flatten, next_help_heading = "Server")]
    server: ServerArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { address, service, mut server } = args;
    if let Some(address) = address {
        server.connection.server = address;
    }
    let transport = server.connection.connect_lazy(server.timeout)?;
    let address = &server.connection.server;
    let check = server.request(HealthCheckRequest { service: service.clone() });
    // tonic's own timer starts with the connection: this one holds for that, too.
    let answer = tokio::time::timeout(server.timeout, HealthClient::new(transport).check(check)).await;
    let status = match answer {
        Ok(Ok(answer)) => answer.into_inner().status(),
        Ok(Err(status)) if status.code() == Code::NotFound => bail!("{address}: has no service {service:?}"),
        Ok(Err(status)) => return Err(describe(&status).context(address.clone())),
        Err(_) => bail!("{address}: no answer within {:?}", server.timeout),
    };
    println!("{}", status.as_str_name());
    match status {
        ServingStatus::Serving => Ok(()),
        _ => bail!("{address}: not serving"),
    }
}
