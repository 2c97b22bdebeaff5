//! Options and order of the demo.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{anyhow, bail};
use clap::Parser;
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
};

use super::{
    cast::Cast,
    interrupt::Interrupt,
    program,
    stages::{Scale, Stages, section},
    story,
};
use crate::{
    cli::{
        Cli, Command,
        serve::{Listeners, Port, serve_until},
        signals::Signals,
    },
    data::Dataset,
    proto::v1::{GetModelInfoRequest, ranking_service_client::RankingServiceClient},
};

/// With fewer, a model hardly learns, and a user has an interest in every topic: nothing is left to search for.
const LEAST_USERS: usize = 200;
const LEAST_ITEMS: usize = 400;

/// Options of `sesrec demo`.
///
/// Needs nothing but this program: makes logs, imports, trains (about a minute), evaluates, serves, and drives its own
/// server. Every step prints the command that does it, so that the same can be done with your own logs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where logs, data set, bundle and histories go. What is there already is reused; delete it to start afresh
    #[arg(long, default_value = "sesrec-demo", value_name = "DIR")]
    dir: PathBuf,
    /// Where the server listens
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "ADDRESS")]
    listen: String,
    /// Exit after the story instead of serving until Ctrl-C
    #[arg(long)]
    once: bool,
    /// How many users the synthetic logs have, at least 200
    #[arg(long, default_value_t = 1500)]
    users: usize,
    /// How many items the synthetic logs have, at least 400
    #[arg(long, default_value_t = 1500)]
    items: usize,
    /// Decides everything random: equal seeds give equal logs and equal models
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

pub(in crate::cli) async fn run(args: Args) -> anyhow::Result<()> {
    // Before a minute of training, not after it.
    if args.users < LEAST_USERS || args.items < LEAST_ITEMS {
        bail!("the story takes --users of at least {LEAST_USERS} and --items of at least {LEAST_ITEMS}");
    }
    let port = Port::bind("--listen", &args.listen).await?;
    let address = port.local_addr()?;
    let interrupt = Interrupt::listen();
    let scale = Scale { users: args.users, items: args.items, seed: args.seed };
    let stages = Stages::new(args.dir, scale, interrupt.clone());
    stages.prepare().await?;
    let data = Dataset::read(&stages.data())?;

    section("5. Serve, with histories in an embedded store");
    let mut served = serve(&stages, port).await?;
    let story = async {
        let reached = reachable(address);
        let mut client = connect(reached).await?;
        let cast = Cast::pick(&data, story::new_user(&mut client, &data).await?)?;
        story::tell(&mut client, &data, &cast).await?;
        print_hints(&cast, reached);
        anyhow::Ok(())
    };
    let told = tokio::select! {
        told = story => told,
        ended = &mut served.server => return Err(ended_early(ended)),
        () = interrupt.pressed() => Err(anyhow!("stopped before the end of the story")),
    };
    if told.is_ok() && !args.once {
        println!("\nserving on {address} until Ctrl-C");
        tokio::select! {
            () = interrupt.pressed() => {}
            ended = &mut served.server => return Err(ended_early(ended)),
        }
    }
    told.and(served.stop().await)
}

/// The server in this process.
struct Served {
    stop: oneshot::Sender<()>,
    server: JoinHandle<anyhow::Result<()>>,
    /// How long it may take to stop.
    patience: Duration,
}

impl Served {
    /// Waits until it is drained and its store closed.
    async fn stop(self) -> anyhow::Result<()> {
        // The server may be gone already; then there is nothing to stop.
        let _ = self.stop.send(());
        match tokio::time::timeout(self.patience, self.server).await {
            Ok(ended) => ended?,
            Err(_) => bail!("the server did not stop within {:?}", self.patience),
        }
    }
}

fn ended_early(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("the server ended by itself"),
        Ok(Err(error)) => error.context("the server ended"),
        Err(error) => anyhow!("the server ended: {error}"),
    }
}

/// Starts the server in this process.
async fn serve(stages: &Stages, grpc: Port) -> anyhow::Result<Served> {
    let (model, store, address) =
        (stages.bundle().display().to_string(), format!("embedded:{}", stages.store().display()), grpc.local_addr()?);
    // The logs are of another year than the machine, whose disk may be busy with a build.
    let arguments = ["serve", "--model", &model, "--store", &store, "--time-to-live", "0s", "--store-timeout", "10s"];
    println!("$ {} --listen {address}", program::command(&arguments));
    let cli = Cli::try_parse_from(std::iter::once("sesrec").chain(arguments))?;
    let Command::Serve(args) = cli.command else { bail!("`serve` did not parse as itself") };
    let options = args.options()?;
    // The drain, and closing the store after it.
    let patience = options.server.drain_notice + options.server.drain_timeout + Duration::from_secs(10);
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { drop(stopped.await) };
    let server = tokio::spawn(serve_until(options, Listeners { grpc, metrics: None }, Signals::hangups(), shutdown));
    Ok(Served { stop, server, patience })
}

/// Where a client on this machine finds a server that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Connects as soon as the model is loaded.
async fn connect(address: SocketAddr) -> anyhow::Result<RankingServiceClient<tonic::transport::Channel>> {
    let url = format!("http://{address}");
    for _ in 0..300 {
        if let Ok(mut client) = RankingServiceClient::connect(url.clone()).await
            && let Ok(info) = client.get_model_info(GetModelInfoRequest {}).await
        {
            let info = info.into_inner();
            println!(
                "  {} {}: {} items, {} users, {} queries, on {}",
                info.model, info.version, info.items, info.users, info.queries, info.device
            );
            return Ok(client);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the server did not answer on {url} within 30 s")
}

fn print_hints(cast: &Cast, address: SocketAddr) {
    section("Try it yourself");
    let candidates: Vec<&str> = cast.candidates.iter().take(6).map(String::as_str).collect();
    let quoted = candidates.iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(",");
    let (query, source, clicked) = &cast.searches[0];
    let now = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
    let user = &cast.user;
    println!(
        "grpcurl -plaintext {address} describe sesrec.v1.RankingService\n\
         grpcurl -plaintext -d '{{\"user_id\":\"{user}\",\"candidate_item_ids\":[{quoted}],\"top_k\":3}}' {address} sesrec.v1.RankingService/Rank\n\
         grpcurl -plaintext -d '{{\"event\":{{\"event_id\":\"try-1\",\"user_id\":\"{user}\",\"time\":\"{now}\",\"search\":{{\"search_id\":\"try-1\",\"query\":\"{query}\",\"source\":\"{source}\",\"clicked_item_ids\":[\"{clicked}\"]}}}}}}' {address} sesrec.v1.RankingService/AppendEvent\n\
         grpcurl -plaintext -d '{{\"user_id\":\"{user}\"}}' {address} sesrec.v1.RankingService/GetHistory\n\
         {} rank --server http://{address} --explain {user} {}",
        program::name(),
        candidates.join(" ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_every_address_is_reached_on_this_machine() {
        for (bound, reached) in
            [("0.0.0.0:5", "127.0.0.1:5"), ("[::]:5", "[::1]:5"), ("[::1]:5", "[::1]:5"), ("10.0.0.7:5", "10.0.0.7:5")]
        {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), reached);
        }
    }
}
