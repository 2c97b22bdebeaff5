//! `sesrec analyze`: what the paper shows of data and models, on anyone's.

mod alignment;
mod interests;
mod planted;
mod searches;
mod statistics;

use std::path::{Path, PathBuf};

use indicatif::HumanCount;

use crate::{
    analysis::{AnalysisError, Categories},
    data::{Dataset, kuaisar::searches_by_first_shown},
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
    /// Writes a table, further files of it and its figure, if it has one; then prints the table and what was written.
    fn write(&self, results: &Results<'_>) -> anyhow::Result<()> {
        let Results { name, table, note, bins, figure } = results;
        let mut written = table.write(&self.out, name, note)?.to_vec();
        if let Some(bins) = bins {
            written.extend(bins.write(&self.out, &format!("{name}_bins"), "")?);
        }
        if let Some(figure) = figure {
            written.extend(figure.write(&self.out, name)?);
        }
        print!("{}\n{note}\n\n", table.markdown());
        written.iter().for_each(|path| println!("{}", path.display()));
        Ok(())
    }
}

/// What an analysis found.
struct Results<'a> {
    name: &'a str,
    table: Table,
    /// What one should know to read the table.
    note: &'a str,
    /// The numbers behind the figure, where the table doesn't have them.
    bins: Option<Table>,
    figure: Option<Figure>,
}

/// What directories are called in tables and figures: by their last part, or in full where two share it.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let last = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = |path: &PathBuf| {
        let alone = paths.iter().filter(|other| last(other) == last(path)).count() == 1;
        last(path).filter(|_| alone).unwrap_or_else(|| path.display().to_string())
    };
    paths.iter().map(name).collect()
}

/// What one should know of a data set's searches besides, if its import says so; a sentence to be added to a note.
fn unclicked_searches(data: &Path) -> String {
    let sentence =
        |searches| format!(" {} searches without a click count by their first shown result.", HumanCount(searches));
    searches_by_first_shown(data).map_or_else(String::new, sentence)
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
    use std::path::PathBuf;

    #[test]
    fn directories_of_one_name_are_told_apart() {
        let paths = ["a/data", "b/data", "b/other", ".."].map(PathBuf::from);
        assert_eq!(super::names(&paths), ["a/data", "b/data", "other", ".."]);
    }

    #[test]
    fn flags_of_each_analysis_are_distinct() {
        <super::Args as clap::Args>::augment_args(clap::Command::new("analyze")).debug_assert();
    }
}
