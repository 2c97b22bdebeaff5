//! What is asked: users, histories, candidates. The same seed gives the same requests.

use std::{fs, path::PathBuf};

use anyhow::{Context, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    data::{Dataset, without_mark},
    proto::v1::{History, RankRequest, Recommendation, Search, search::QueryForm},
    units::parse_count,
};

/// Where item ids come from: the server has no call that lists them.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct ItemSource {
    /// Item ids of the served model, one per line.
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// The data set directory that the served model was trained on.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl ItemSource {
    pub(super) fn read(&self) -> anyhow::Result<Vec<String>> {
        let items: Vec<String> = match (&self.items, &self.data) {
            (Some(path), _) => {
                let text = fs::read_to_string(path).with_context(|| format!("--items {}", path.display()))?;
                without_mark(&text).lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
            }
            (_, Some(dir)) => {
                let data = Dataset::read(dir).with_context(|| format!("--data {}", dir.display()))?;
                data.catalogue.items.ids.iter().map(str::to_owned).collect()
            }
            (None, None) => anyhow::bail!("give --items FILE or --data DIR: which items the served model knows"),
        };
        ensure!(!items.is_empty(), "there are no item ids in what --items or --data names");
        Ok(items)
    }
}

/// How histories reach the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum HistoryMode {
    /// In each request: every Rank encodes its user.
    Inline,
    /// Appended before: after a user's first Rank, the encoded user is cached.
    Stored,
    /// None: cold starts.
    Empty,
}

/// How long histories are, and how many users there are.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Users {
    /// Distinct users.
    #[arg(long, default_value_t = 200, value_parser = parse_count, value_name = "N")]
    pub(super) users: usize,
    /// Recommendation events per user.
    #[arg(long, default_value_t = 150, value_name = "N")]
    pub(super) recommendations: usize,
    /// Searches per user.
    #[arg(long, default_value_t = 25, value_name = "N")]
    pub(super) searches: usize,
    /// Seed of users, histories and candidates.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(super) seed: u64,
}

/// Makes requests.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    items: Vec<String>,
    users: Users,
}

impl Workload {
    pub(super) fn new(items: Vec<String>, users: Users) -> Self {
        Self { items, users: Users { users: users.users.max(1), ..users } }
    }

    pub(super) fn users(&self) -> usize {
        self.users.users
    }

    pub(super) fn user_id(&self, number: usize) -> String {
        format!("bench-{}-{}", self.users.seed, number % self.users.users)
    }

    /// A request of every user.
    pub(super) fn rank_requests(&self, candidates: usize, mode: HistoryMode) -> Vec<RankRequest> {
        (0..self.users.users)
            .map(|user| {
                let mut rng = self.rng(user, 1);
                RankRequest {
                    user_id: self.user_id(user),
                    candidate_item_ids: (0..candidates).map(|_| self.item(&mut rng)).collect(),
                    history: match mode {
                        HistoryMode::Inline => Some(self.history(user)),
                        HistoryMode::Stored => None,
                        HistoryMode::Empty => Some(History::default()),
                    },
                    ..RankRequest::default()
                }
            })
            .collect()
    }

    /// What a user did, oldest first.
    pub(super) fn history(&self, user: usize) -> History {
        let mut rng = self.rng(user, 0);
        History {
            recommendations: (0..self.users.recommendations)
                .map(|_| Recommendation { item_id: self.item(&mut rng) })
                .collect(),
            searches: (0..self.users.searches).map(|number| self.search(number, &mut rng)).collect(),
        }
    }

    /// A search with words of the form that `bench local`'s model knows, and a click or two.
    pub(super) fn search(&self, number: usize, rng: &mut ChaCha8Rng) -> Search {
        let words: Vec<String> =
            (0..rng.random_range(1..=6)).map(|_| format!("word{}", rng.random_range(0..1000))).collect();
        Search {
            search_id: format!("search-{number}"),
            query_form: Some(QueryForm::Query(words.join(" "))),
            source: String::new(),
            clicked_item_ids: (0..rng.random_range(1..=2)).map(|_| self.item(rng)).collect(),
        }
    }

    pub(super) fn item(&self, rng: &mut ChaCha8Rng) -> String {
        self.items[rng.random_range(0..self.items.len())].clone()
    }

    pub(super) fn rng(&self, user: usize, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.users.seed);
        rng.set_stream((user as u64) << 8 | stream);
        rng
    }
}
