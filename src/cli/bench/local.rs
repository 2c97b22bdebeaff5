//! `sesrec bench local`.

/// Options of `sesrec bench local`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub(super) async fn run(_: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
