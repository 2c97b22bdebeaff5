//! Table 1: how large a data set is.

use indicatif::HumanCount;

use crate::{
    data::{Dataset, Statistics},
    table::Table,
};

/// The paper's Table 1 row of each data set.
pub fn statistics_table<'a>(datasets: impl IntoIterator<Item = (&'a str, &'a Dataset)>) -> Table {
    let mut table = Table::new(["data set", "users", "items", "queries", "actions S", "actions R"]);
    for (name, dataset) in datasets {
        let Statistics { users, items, queries, actions_search, actions_recommendation } = dataset.statistics;
        let counts = [users, items, queries, actions_search, actions_recommendation];
        table.push(std::iter::once(name.to_owned()).chain(counts.map(|count| HumanCount(count).to_string())));
    }
    table
}
