//! `sesrec convert`.

use std::path::PathBuf;

use anyhow::Context;

use crate::model::convert::{Sources, convert};

/// Which files are read, as `read_catalogue` and the configuration have it.
const LAYOUT: &str = r#"Files of --catalog: CSV with a header; columns are found by name, and others
may be there.
  items.csv    item_id,id_row and NAME_row for each further NAME of
               item_attributes
  users.csv    user_id,id_row and NAME_row for each further NAME of
               user_attributes
  queries.csv  query_id,id_row and, if wanted, word_rows: the rows of its
               words, separated by spaces
  sources.csv  source,source_row: how searches begin
  words.csv    word,word_row: may be missing; then no text of a query finds
               the model's words
Rows are those of the model's embedding tables. In id_row, source_row and
word_row there is no gap: from 1 for items, queries and words, whose row 0 is
padding, from 0 for users and sources.

--config: JSON, as `sesrec train` writes it to BUNDLE/config.json. What a
SESRec needs of it:
  {"model": "sesrec", "num_heads": 2, "hidden_dim": 40,
   "item_attributes": [{"name": "id", "rows": 101, "dim": 32},
                       {"name": "cate", "rows": 9, "dim": 8}],
   "user_attributes": [{"name": "id", "rows": 500, "dim": 16}],
   "query_features": {"id": {"rows": 301, "dim": 32},
                      "word_segs": {"rows": 2001, "dim": 32},
                      "search_source": {"rows": 5, "dim": 40}},
   "max_rec_history": 150, "max_src_history": 25,
   "max_query_words": 6, "max_clicked_items": 5}
Rows count the padding, too. The dim of search_source and hidden_dim are the
item attributes' sum. Checkpoints of SESRec's released code need
"coattention_padding": "include", too."#;

/// Options of `sesrec convert`.
#[derive(Debug, clap::Args)]
#[command(after_help = LAYOUT)]
pub struct Args {
    /// The weights: a .safetensors file or a PyTorch state dict (.pth), with the names of this program's or of the
    /// model's released code: S³-Rec's SASRec and FMLP-Rec, whose items are a table alone, get a projection that
    /// changes nothing.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// The model's configuration. (The settings file that other subcommands take as --config goes before `convert`.)
    #[arg(long, id = "config", env = "SESREC_CONVERT_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Directory with items.csv, users.csv, queries.csv and sources.csv (and words.csv, for query text).
    #[arg(long, value_name = "DIR")]
    catalog: PathBuf,
    /// Where to write the bundle; a bundle that is there is replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        let bundle = convert(&Sources { weights: args.weights, config: args.config, catalogue: args.catalog })?;
        let version = bundle.write(&args.out).context("writing the bundle")?;
        let catalogue = &bundle.catalogue;
        eprintln!(
            "{}: {} with {} items, {} users, {} queries; version {version}",
            args.out.display(),
            bundle.config.kind(),
            catalogue.items.ids.len(),
            catalogue.users.ids.len(),
            catalogue.queries.ids.len(),
        );
        Ok(())
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn the_configuration_in_the_help_is_one() {
        let (_, rest) = LAYOUT.split_once("needs of it:").unwrap();
        let (json, _) = rest.split_once("Rows count").unwrap();
        assert_eq!(ModelConfig::from_json(json.as_bytes()).unwrap().kind(), "sesrec");
        assert!(LAYOUT.lines().all(|line| line.chars().count() <= 78), "a narrow terminal would wrap it");
    }
}
