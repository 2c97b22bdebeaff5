//! Options and order of the demo.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::{
    cast::Cast,
    stages::{Stages, section},
    story,
};
use crate::{
    cli::{
        Cli, Command,
        serve::{Listeners, serve_until},
    },
    data::Dataset,
    proto::v1::{GetModelInfoRequest, ranking_service_client::RankingServiceClient},
};

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
    /// How many users the synthetic logs have
    #[arg(long, default_value_t = 1500)]
    users: usize,
    /// How many items the synthetic logs have
    #[arg(long, default_value_t = 1500)]
    items: usize,
    /// Decides everything random: equal seeds give equal logs and equal models
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

pub(in crate::cli) async fn run(args: Args) -> anyhow::Result<()> {
    // Before a minute of training, not after it.
    let listener = TcpListener::bind(&args.listen)
        .await
        .with_context(|| format!("--listen {}: choose another port with --listen 127.0.0.1:0", args.listen))?;
    let address = listener.local_addr()?;
    let stages = Stages::new(args.dir);
    stages.prepare(args.users, args.items, args.seed).await?;
    let data = Dataset::read(&stages.data())?;

    section("5. Serve, with histories in an embedded store");
    let (stop, server) = serve(&stages, listener).await?;
    let story = async {
        let mut client = connect(address.port()).await?;
        let cast = Cast::pick(&data, story::new_user(&mut client, &data).await?)?;
        story::tell(&mut client, &data, &cast).await?;
        print_hints(&cast, address.port());
        if !args.once {
            println!("\nserving on {address} until Ctrl-C");
            tokio::signal::ctrl_c().await?;
        }
        anyhow::Ok(())
    };
    let told = tokio::select! {
        told = story => told,
        ended = server => bail!("the server ended: {}", ended?.err().map_or("without an error".into(), |error| format!("{error:#}"))),
    };
    // The server may be gone already; then there is nothing to stop.
    let _ = stop.send(());
    told
}

type Served = JoinHandle<anyhow::Result<()>>;

/// Starts the server in this process, on a port that is bound already.
async fn serve(stages: &Stages, grpc: TcpListener) -> anyhow::Result<(oneshot::Sender<()>, Served)> {
    let (model, store, address) =
        (stages.bundle().display().to_string(), format!("embedded:{}", stages.store().display()), grpc.local_addr()?);
    // The logs are of another year than the machine.
    let arguments = ["serve", "--model", &model, "--store", &store, "--time-to-live", "0s"];
    println!("$ sesrec {} --listen {address}", arguments.join(" "));
    let cli = Cli::try_parse_from(std::iter::once("sesrec").chain(arguments))?;
    let Command::Serve(args) = cli.command else { bail!("`serve` did not parse as itself") };
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { drop(stopped.await) };
    let server = tokio::spawn(serve_until(args.options(), Listeners { grpc, metrics: None }, shutdown));
    Ok((stop, server))
}

/// Connects as soon as the model is loaded.
async fn connect(port: u16) -> anyhow::Result<RankingServiceClient<tonic::transport::Channel>> {
    let url = format!("http://127.0.0.1:{port}");
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

fn print_hints(cast: &Cast, port: u16) {
    section("Try it yourself");
    let candidates: Vec<&str> = cast.candidates.iter().take(6).map(String::as_str).collect();
    let quoted = candidates.iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(",");
    let (query, source, clicked) = &cast.searches[0];
    let now = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
    let user = &cast.user;
    println!(
        "grpcurl -plaintext localhost:{port} describe sesrec.v1.RankingService\n\
         grpcurl -plaintext -d '{{\"user_id\":\"{user}\",\"candidate_item_ids\":[{quoted}],\"top_k\":3}}' localhost:{port} sesrec.v1.RankingService/Rank\n\
         grpcurl -plaintext -d '{{\"event\":{{\"event_id\":\"try-1\",\"user_id\":\"{user}\",\"time\":\"{now}\",\"search\":{{\"search_id\":\"try-1\",\"query\":\"{query}\",\"source\":\"{source}\",\"clicked_item_ids\":[\"{clicked}\"]}}}}}}' localhost:{port} sesrec.v1.RankingService/AppendEvent\n\
         grpcurl -plaintext -d '{{\"user_id\":\"{user}\"}}' localhost:{port} sesrec.v1.RankingService/GetHistory\n\
         sesrec rank --server http://localhost:{port} --explain {user} {}",
        candidates.join(" ")
    );
}
