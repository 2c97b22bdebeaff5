//! `sesrec history`: what the model sees of a user, or its erasure.

use std::io::{IsTerminal, Write};

use anyhow::bail;

use super::{
    client::{Client, ServerArgs, describe},
    rank::describe_search,
};
use crate::proto::v1::{self, history_event::Payload};

/// Options of `sesrec history`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose history.
    #[arg(value_name = "USER")]
    user: String,
    /// Erase the history instead of showing it. Asks first.
    #[arg(long)]
    delete: bool,
    /// Don't ask before erasing.
    #[arg(long, requires = "delete")]
    yes: bool,
    /// The answer as proto3 JSON.
    #[arg(long)]
    json: bool,
    /// Reflect at least this state.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TOKEN")]
    history_token: String,
    #[command(flatten, next_help_heading = "Server")]
    server: ServerArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    if args.delete {
        confirm(&args)?;
        let client = args.server.connect().await?;
        return delete(client, &args).await;
    }
    let mut client = args.server.connect().await?;
    let request = v1::GetHistoryRequest { user_id: args.user.clone(), history_token: args.history_token.clone() };
    let response = client.get_history(args.server.request(request)).await.map_err(|status| describe(&status))?;
    let response = response.into_inner();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&response)?);
    } else {
        show(&response);
    }
    Ok(())
}

fn confirm(args: &Args) -> anyhow::Result<()> {
    if args.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("erasing can't be undone: add --yes where nobody can be asked");
    }
    print!("Erase everything about {:?}? This can't be undone. [y/N] ", args.user);
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was erased");
    }
    Ok(())
}

async fn delete(mut client: Client, args: &Args) -> anyhow::Result<()> {
    let request = args.server.request(v1::DeleteHistoryRequest { user_id: args.user.clone() });
    let response = client.delete_history(request).await.map_err(|status| describe(&status))?.into_inner();
    println!("erased {}", args.user);
    println!("history token {}", response.history_token);
    Ok(())
}

fn show(response: &v1::GetHistoryResponse) {
    if !response.known_user {
        println!("the store has never seen {:?}", response.user_id);
        return;
    }
    let seen = [("recommendations", &response.recommendations), ("searches", &response.searches)];
    let stored = [response.stored_recommendations, response.stored_searches];
    for ((side, events), stored) in seen.into_iter().zip(stored) {
        println!("{side}: the model sees {} of {stored} stored, oldest first", events.len());
        for event in events {
            println!("  {}  {}", time(event), what(event));
        }
    }
    if response.pending_clicks > 0 {
        println!("{} clicks wait for their search", response.pending_clicks);
    }
    if response.stale_history {
        println!("the history store could not be reached: this is an older copy");
    }
    println!("history token {}", response.history_token);
}

fn time(event: &v1::HistoryEvent) -> String {
    let time = event.time.unwrap_or_default();
    let time = jiff::Timestamp::new(time.seconds, time.nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn what(event: &v1::HistoryEvent) -> String {
    match &event.payload {
        Some(Payload::Recommendation(recommendation)) => format!("item {}", recommendation.item_id),
        Some(Payload::Search(search)) => {
            let words = match event.known_words.as_slice() {
                [] => " (no word that the model knows)".into(),
                words => format!(" (known words: {})", words.join(" ")),
            };
            format!("{}{words}", describe_search(search))
        }
        None => String::new(),
    }
}
