//! `sesrec analyze`: what the paper shows of data and models, on anyone's.

mod alignment;
mod interests;
mod planted;
mod searches;
mod statistics;

use std::path::PathBuf;

use crate::{
    analysis::{AnalysisError, Categories},
    data::Dataset,
    plot::Figure,
    table::Table,
};

/// Options of `sesrec analyze`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Table 1: users, items, queries, actions.
    Statistics(statistics::Args),
    /// Fig. 1b: how searches begin, and whether they are about what recommendation shows.
    Searches(searches::Args),
    /// Fig. 3: do search and recommendation agree on categories where the model says so?
    Interests(interests::Args),
    /// Fig. 4: do queries lie near the items that were clicked for them?
    Alignment(alignment::Args),
    /// Does the model find the interests that `sesrec synth` planted?
    Planted(planted::Args),
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    // Reading and computing block for as long as they take.
    tokio::task::spawn_blocking(move || match args.what {
        What::Statistics(args) => statistics::run(&args),
        What::Searches(args) => searches::run(&args),
        What::Interests(args) => interests::run(&args),
        What::Alignment(args) => alignment::run(&args),
        What::Planted(args) => planted::run(&args),
    })
    .await?
}

/// Where results go.
#[derive(Debug, Clone, clap::Args)]
struct Output {
    /// Directory for the results: a table as Markdown and CSV, a figure as SVG and PNG. Files of earlier results are
    /// replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Output {
    /// Prints the table and writes it.
    fn table(&self, name: &str, table: &Table, note: &str) -> anyhow::Result<()> {
        print!("{}", table.markdown());
        if !note.is_empty() {
            println!("\n{note}");
        }
        let written = table.write(&self.out, name, note)?;
        println!("\n{}", written.map(|path| path.display().to_string()).join("\n"));
        Ok(())
    }

    /// Writes a figure beside its table.
    fn figure(&self, name: &str, figure: &Figure) -> anyhow::Result<()> {
        let written = figure.write(&self.out, name)?;
        println!("{}", written.map(|path| path.display().to_string()).join("\n"));
        Ok(())
    }
}

/// What an item's category is.
#[derive(Debug, Clone, clap::Args)]
struct CategoryFlag {
    /// The attribute of items that is their category, e.g. category2. [default: the one with the most values]
    #[arg(long, value_name = "ATTRIBUTE")]
    category: Option<String>,
}

impl CategoryFlag {
    fn choose<'a>(&self, dataset: &'a Dataset) -> Result<Categories<'a>, AnalysisError> {
        Categories::choose(&dataset.catalogue, self.category.as_deref())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn flags_of_each_analysis_are_distinct() {
        <super::Args as clap::Args>::augment_args(clap::Command::new("analyze")).debug_assert();
    }
}
