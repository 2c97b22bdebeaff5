//! Options and order of the demo.

/// Options of `sesrec demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub(crate) async fn run(_: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
