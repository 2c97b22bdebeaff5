//! All clicks of the training part, by user and by item.

use candle_core::{Device, Tensor};

use crate::{
    data::{Dataset, RowSearch},
    model::{ModelError, time_from_words, time_words},
};

/// A click.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Who clicked.
    pub user: u32,
    /// What.
    pub item: u32,
    /// For which query; 0 for a recommendation.
    pub query: u32,
    /// When, in milliseconds since 1970.
    pub time: i64,
}

/// Edges by time.
#[derive(Debug, Clone)]
pub struct Graph {
    edges: Vec<Edge>,
    by_user: Groups,
    by_item: Groups,
}

/// Edges by one of their ends, each end's by time.
#[derive(Debug, Clone)]
struct Groups {
    ends: Vec<u32>,
    edges: Vec<u32>,
}

impl Graph {
    /// Numbers per edge of the table: user, item, query, and the time's halves.
    pub const WIDTH: usize = 5;

    /// The clicks of a data set that come before each user's validation interaction, of searches the first `clicks`.
    pub fn training_edges(dataset: &Dataset, clicks: usize) -> Vec<Edge> {
        let mut edges = vec![];
        for user in 0..dataset.users() as u32 {
            let items = dataset.recommendations(user);
            let recommended = items.iter().zip(dataset.recommendation_times(user)).take(dataset.learned(user));
            edges.extend(recommended.map(|(&item, &time)| Edge { user, item, query: 0, time }));
            let searches = dataset.searches(user).into_iter().zip(dataset.search_times(user));
            for (RowSearch { query, clicks: clicked, .. }, &time) in searches.take(dataset.training_searches(user)) {
                edges.extend(clicked.iter().take(clicks).map(|&item| Edge { user, item, query, time }));
            }
        }
        edges.sort_by_key(|edge| edge.time);
        edges
    }

    /// `[edges, 5]`.
    pub fn table(edges: &[Edge]) -> candle_core::Result<Tensor> {
        let rows = edges.iter().flat_map(|&Edge { user, item, query, time }| {
            let [high, low] = time_words(time);
            [user, item, query, high, low]
        });
        Tensor::from_vec(rows.collect::<Vec<u32>>(), (edges.len(), Self::WIDTH), &Device::Cpu)
    }

    /// From such a table. `rows` are how many users, items and queries the model has.
    ///
    /// # Errors
    /// If an edge mentions others, or the edges are not by time.
    pub fn from_table(name: &str, table: &Tensor, rows: [usize; 3]) -> Result<Self, ModelError> {
        let wrong = |message: String| ModelError::Weights { name: name.into(), message };
        let values = table.flatten_all()?.to_vec1::<u32>()?;
        let edges: Vec<Edge> = values
            .chunks_exact(Self::WIDTH)
            .map(|row| Edge { user: row[0], item: row[1], query: row[2], time: time_from_words([row[3], row[4]]) })
            .collect();
        for (n, edge) in edges.iter().enumerate() {
            let ends = [("user", edge.user), ("item", edge.item), ("query", edge.query)];
            for ((what, row), rows) in ends.into_iter().zip(rows) {
                if row as usize >= rows {
                    return Err(wrong(format!("edge {n} has {what} {row}; the model has {rows} rows of them")));
                }
            }
            if n > 0 && edges[n - 1].time > edge.time {
                return Err(wrong(format!("edge {n} is earlier than the one before it")));
            }
        }
        Ok(Self::new(edges, rows[0], rows[1]))
    }

    /// Over edges by time.
    fn new(edges: Vec<Edge>, users: usize, items: usize) -> Self {
        let by_user = Groups::new(edges.iter().map(|edge| edge.user), users);
        let by_item = Groups::new(edges.iter().map(|edge| edge.item), items);
        Self { edges, by_user, by_item }
    }

    /// How many users there are.
    pub fn users(&self) -> usize {
        self.by_user.ends.len()
    }

    /// How many items there are.
    pub fn items(&self) -> usize {
        self.by_item.ends.len()
    }

    /// A user's clicks that are older than a moment, the newest first.
    pub fn of_user(&self, user: u32, as_of: Option<i64>) -> impl Iterator<Item = Edge> {
        self.older(self.by_user.of(user), as_of)
    }

    /// An item's.
    pub fn of_item(&self, item: u32, as_of: Option<i64>) -> impl Iterator<Item = Edge> {
        self.older(self.by_item.of(item), as_of)
    }

    fn older<'a>(&'a self, edges: &'a [u32], as_of: Option<i64>) -> impl Iterator<Item = Edge> + use<'a> {
        let time = as_of.unwrap_or(i64::MAX);
        let count = edges.partition_point(|&edge| as_of.is_none() || self.edges[edge as usize].time < time);
        edges[..count].iter().rev().map(|&edge| self.edges[edge as usize])
    }
}

impl Groups {
    /// A counting sort, which keeps the order within a group.
    fn new(keys: impl Iterator<Item = u32> + Clone, groups: usize) -> Self {
        let mut ends = vec![0_u32; groups];
        keys.clone().for_each(|key| ends[key as usize] += 1);
        let (mut next, mut start) = (vec![0_u32; groups], 0);
        for (end, next) in ends.iter_mut().zip(&mut next) {
            *next = start;
            start += *end;
            *end = start;
        }
        let mut edges = vec![0_u32; start as usize];
        for (edge, key) in (0..).zip(keys) {
            edges[next[key as usize] as usize] = edge;
            next[key as usize] += 1;
        }
        Self { ends, edges }
    }

    /// A group's edges; none of a key beyond the last.
    fn of(&self, key: u32) -> &[u32] {
        let key = key as usize;
        let start = if key == 0 { 0 } else { self.ends[key.min(self.ends.len()) - 1] };
        self.ends.get(key).map_or(&[], |&end| &self.edges[start as usize..end as usize])
    }
}
