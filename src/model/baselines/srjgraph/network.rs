//! The network.

use candle_core::{Result, Tensor};

use super::{Aggregate, Aggregator, Edge, Graph, GraphUsers, Head, Hops, Neighbourhoods, Neighbours};
use crate::{
    data::UserRow,
    model::{
        Embeddings, HistoryVectors, ItemRows, Losses,
        baselines::{Candidates, Network, Sequences, Step},
    },
    nn::{Dropout, Linear, RowZero, binary_cross_entropy, gather_rows_as},
};

/// Users whose neighbourhoods are computed together when a model is loaded: about 20 MB at the default sizes.
const SLICE: usize = 1 << 9;

/// SRJGraph over given tensors.
#[derive(Debug, Clone)]
pub struct SrjGraph {
    pub(super) graph: Graph,
    pub(super) neighbours: usize,
    pub(super) user_dense: Linear,
    pub(super) item_dense: Linear,
    pub(super) items_into_user: Aggregator,
    pub(super) users_into_item: Aggregator,
    /// E → n: a user with its items, as a node.
    pub(super) child: Linear,
    pub(super) recommendation: Head,
    pub(super) search: Head,
    /// The whole graph's, once it is loaded.
    pub(super) snapshot: Option<Snapshot>,
}

/// The neighbourhoods of all users who were the last to click some item.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    users: Neighbourhoods,
    /// By user row.
    places: Vec<Option<u32>>,
}

/// What P = B · C pairs are made of, `[P, _]` each.
#[derive(Debug, Clone)]
pub struct PairVectors {
    /// The users with their items.
    pub user: Aggregate,
    /// The users who clicked the items before, with theirs; without meaning where there was none.
    pub child: Aggregate,
    /// The items with these.
    pub item: Aggregate,
    /// `[P, 3E]`: user, item and query, and what is aggregated at both ends.
    pub all: Tensor,
}

/// Which prediction network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Without a query.
    Recommendation,
    /// With one.
    Search,
}

impl SrjGraph {
    /// Users `[.., u]` as nodes.
    pub fn user_nodes(&self, users: &Tensor) -> Result<Tensor> {
        self.user_dense.forward(users)
    }

    /// Items `[.., d]` as nodes.
    pub fn item_nodes(&self, items: &Tensor) -> Result<Tensor> {
        self.item_dense.forward(items)
    }

    /// See [`Neighbourhoods::new`].
    pub fn neighbourhoods(
        &self,
        nodes: Tensor,
        queries: &Tensor,
        items: &Tensor,
        lengths: Vec<usize>,
    ) -> Result<Neighbourhoods> {
        Neighbourhoods::new(&self.items_into_user, nodes, queries, items, lengths)
    }

    /// B users, what each searches for `[B, q]`, and C candidates `[B, C, n]` with those who clicked them.
    pub fn pairs(&self, users: &Neighbourhoods, queries: &Tensor, items: &Tensor, hops: &Hops) -> Result<PairVectors> {
        let (count, candidates, width) = items.dims3()?;
        let pairs = count * candidates;
        let of_pair = |x: &Tensor| x.unsqueeze(1)?.broadcast_as((count, candidates, x.dim(1)?))?.contiguous();
        let (nodes, queries) = (of_pair(&users.nodes)?, of_pair(queries)?);
        let target = Tensor::cat(&[&nodes, &queries, items], 2)?; // [B, C, E]
        let edge = target.dim(2)?;
        let user = self.items_into_user.forward(&target, &target, users.neighbours())?;

        let (target, items) = (target.reshape((pairs, 1, edge))?, items.reshape((pairs, width))?);
        let which: Vec<u32> = hops.of_pair.iter().map(|user| user.unwrap_or(0)).collect();
        let others = hops.users.select(&which)?;
        let own = Tensor::cat(&[&others.nodes, &hops.queries, &items], 1)?.unsqueeze(1)?; // [P, 1, E]
        let child = self.items_into_user.forward(&target, &own, others.neighbours())?;

        let lengths: Vec<usize> = hops.of_pair.iter().map(|user| usize::from(user.is_some())).collect();
        let present: Vec<f32> = lengths.iter().map(|&n| n as f32).collect();
        let present = Tensor::from_vec(present, (pairs, 1), items.device())?;
        let sums = (&items + self.child.forward(&child.output.squeeze(1)?)?.broadcast_mul(&present)?)?;
        let neighbours = Neighbours {
            keys: &self.users_into_item.keys(&child.output)?,
            values: &child.output,
            lengths: &lengths,
            linear: &self.users_into_item.linear(&sums, &lengths)?,
        };
        let item = self.users_into_item.forward(&target, &target, neighbours)?;
        let flat = |x: &Tensor| x.reshape((pairs, ()));
        let all = [&flat(&nodes)?, &items, &flat(&queries)?, &flat(&user.output)?, &flat(&item.output)?];
        Ok(PairVectors { all: Tensor::cat(&all, 1)?, user, child, item })
    }

    /// `[P, 3E]` → `[P]`.
    pub fn head(&self, pairs: &Tensor, task: Task, dropout: &mut Dropout) -> Result<Tensor> {
        match task {
            Task::Recommendation => self.recommendation.forward(pairs, dropout),
            Task::Search => self.search.forward(pairs, dropout),
        }
    }

    /// Logits `[B, C]`. `queries [B, q]`; those without are row 0's.
    fn score(
        &self,
        users: &GraphUsers,
        (queries, task): (&Tensor, Task),
        candidates: &Candidates<'_>,
        dropout: &mut Dropout,
    ) -> Result<Tensor> {
        let hops = self.hops(users, candidates, dropout)?;
        let pairs = self.pairs(&users.neighbourhoods, queries, &candidates.vectors, &hops)?;
        self.head(&pairs.all, task, dropout)?.reshape((users.as_of.len(), ()))
    }

    /// Who was the last to click each candidate, before the moment that its user is asked for.
    fn hops(&self, users: &GraphUsers, candidates: &Candidates<'_>, dropout: &mut Dropout) -> Result<Hops> {
        let per_user = candidates.rows.len() / users.as_of.len().max(1);
        let moments = users.as_of.iter().flat_map(|&as_of| std::iter::repeat_n(as_of, per_user));
        let edges: Vec<Option<Edge>> =
            candidates.rows.iter().zip(moments).map(|(&item, as_of)| self.graph.of_item(item, as_of).next()).collect();
        let queries: Vec<u32> = edges.iter().map(|edge| edge.map_or(0, |edge| edge.query)).collect();
        let queries = distinct_queries(candidates.embeddings, &queries)?;
        let now = users.as_of.iter().all(Option::is_none);
        if let Some(snapshot) = self.snapshot.as_ref().filter(|_| now) {
            let of_pair = edges.iter().map(|edge| edge.and_then(|edge| snapshot.places[edge.user as usize])).collect();
            return Ok(Hops { users: snapshot.users.clone(), of_pair, queries });
        }
        // Each user once per moment.
        let mut wanted: Vec<(u32, Option<i64>)> = vec![];
        let mut places = hashbrown::HashMap::new();
        let of_pair = edges.iter().enumerate().map(|(pair, edge)| {
            let key = ((*edge)?.user, users.as_of[pair / per_user]);
            Some(*places.entry(key).or_insert_with(|| {
                wanted.push(key);
                wanted.len() as u32 - 1
            }))
        });
        let of_pair = of_pair.collect();
        Ok(Hops { users: self.of_graph(&wanted, candidates.embeddings, dropout)?, of_pair, queries })
    }

    /// Users of the graph with the clicks that they had made by some moment; a user without any where none is wanted.
    fn of_graph(
        &self,
        wanted: &[(u32, Option<i64>)],
        embeddings: &Embeddings,
        dropout: &mut Dropout,
    ) -> Result<Neighbourhoods> {
        let wanted: &[(u32, Option<i64>)] = if wanted.is_empty() { &[(0, Some(i64::MIN))] } else { wanted };
        let clicks: Vec<Vec<Edge>> = wanted
            .iter()
            .map(|&(user, as_of)| self.graph.of_user(user, as_of).take(self.neighbours).collect())
            .collect();
        let lengths: Vec<usize> = clicks.iter().map(Vec::len).collect();
        let length = lengths.iter().copied().max().unwrap_or(0).max(1);
        let padded = |row: fn(&Edge) -> u32| -> Vec<u32> {
            let rows = clicks
                .iter()
                .flat_map(|clicks| clicks.iter().map(row).chain(std::iter::repeat_n(0, length - clicks.len())));
            rows.collect()
        };
        let (items, queries) = (padded(|edge| edge.item), padded(|edge| edge.query));
        let items = ItemRows::distinct(&[&items], |rows| self.items(embeddings, rows, dropout))?.list(0)?;
        let queries = distinct_queries(embeddings, &queries)?;
        let users: Vec<UserRow> = wanted.iter().map(|&(user, _)| UserRow::Known(user)).collect();
        let by_user = |x: Tensor| x.reshape((users.len(), length, x.dim(1)?));
        let nodes = self.user_nodes(&embeddings.users(&users)?)?;
        self.neighbourhoods(nodes, &by_user(queries)?, &by_user(items)?, lengths)
    }
}

impl Network for SrjGraph {
    type Users = GraphUsers;

    /// Items as nodes.
    fn items(&self, embeddings: &Embeddings, rows: &[u32], _: &mut Dropout) -> Result<Tensor> {
        self.item_nodes(&embeddings.project_items(rows)?)
    }

    fn encode(&self, history: &HistoryVectors<'_>, _: &mut Dropout) -> Result<GraphUsers> {
        let batch = history.batch();
        let (rec_slots, src_slots) = (batch.users() * batch.rec_len, batch.users() * batch.src_len);
        // Rows of all clicks' items, and of their queries: the first is none.
        let (mut items, mut queries, mut lengths) = (vec![], vec![], vec![]);
        let sequences = Sequences::of(batch);
        for (user, events) in sequences.events.chunks(sequences.length).enumerate() {
            let clicks = events[..sequences.lengths[user]].iter().rev().flat_map(|&event| {
                let slot = event as usize - user * (batch.rec_len + batch.src_len);
                let recommended = (slot < batch.rec_len).then(|| (user * batch.rec_len + slot, 0));
                let search = user * batch.src_len + slot.saturating_sub(batch.rec_len);
                let clicked = if recommended.is_some() { 0..0 } else { 0..batch.click_len };
                let clicked = clicked.rev().map(move |click| search * batch.click_len + click);
                let clicked = clicked.filter(move |&click| batch.src_clicks[click] != 0);
                recommended.into_iter().chain(clicked.map(move |click| (rec_slots + click, 1 + search)))
            });
            let clicks: Vec<(usize, usize)> = clicks.take(self.neighbours).collect();
            lengths.push(clicks.len());
            items.push(clicks.iter().map(|&(item, _)| item as u32).collect::<Vec<_>>());
            queries.push(clicks.iter().map(|&(_, query)| query as u32).collect::<Vec<_>>());
        }
        let length = lengths.iter().copied().max().unwrap_or(0).max(1);
        let select = |table: Tensor, mut rows: Vec<Vec<u32>>| {
            rows.iter_mut().for_each(|rows| rows.resize(length, 0));
            gather_rows_as(&table, &rows.concat(), &[batch.users(), length], RowZero::Learns)
        };
        let flat = |x: Tensor| x.reshape(((), x.dim(2)?));
        let item_table = Tensor::cat(&[flat(history.items()?)?, flat(history.clicked_items()?)?], 0)?;
        debug_assert_eq!(item_table.dim(0)?, rec_slots + src_slots * batch.click_len);
        let no_query = history.embeddings().catalogue_queries(&[0])?;
        let query_table = Tensor::cat(&[no_query, flat(history.queries()?)?], 0)?;
        let nodes = self.user_nodes(&history.users()?)?;
        let (queries, items) = (select(query_table, queries)?, select(item_table, items)?);
        let neighbourhoods = self.neighbourhoods(nodes, &queries, &items, lengths)?;
        Ok(GraphUsers { neighbourhoods, as_of: batch.as_of.clone() })
    }

    fn logits(&self, users: &GraphUsers, candidates: &Candidates<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        let none = distinct_queries(candidates.embeddings, &vec![0; users.as_of.len()])?;
        self.score(users, (&none, Task::Recommendation), candidates, dropout)
    }

    fn loaded(mut self, embeddings: &Embeddings, _: &Tensor) -> Result<Self> {
        let last = (0..self.graph.items() as u32).filter_map(|item| Some(self.graph.of_item(item, None).next()?.user));
        let mut users: Vec<u32> = last.collect();
        users.sort_unstable();
        users.dedup();
        let mut places = vec![None; self.graph.users()];
        (0..).zip(&users).for_each(|(place, &user)| places[user as usize] = Some(place));
        let wanted: Vec<(u32, Option<i64>)> = users.into_iter().map(|user| (user, None)).collect();
        let slices = wanted.chunks(SLICE).map(|users| self.of_graph(users, embeddings, &mut Dropout::off()));
        let mut slices = slices.collect::<Result<Vec<_>>>()?;
        if slices.is_empty() {
            slices.push(self.of_graph(&[], embeddings, &mut Dropout::off())?);
        }
        self.snapshot = Some(Snapshot { users: Neighbourhoods::cat(&slices)?, places });
        Ok(self)
    }

    /// The mean over the pairs of both tasks.
    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        let recommended = step.logits(dropout)?;
        let searches = step.searches(dropout)?;
        let queries = distinct_queries(step.embeddings(), &step.batch().searches.queries)?;
        let users = self.encode(&searches.history(), dropout)?;
        let found = self.score(&users, (&queries, Task::Search), &searches.candidates()?, dropout)?;
        let (bce, search) = (binary_cross_entropy(&recommended)?, binary_cross_entropy(&found)?);
        let pairs = (recommended.elem_count() + found.elem_count()) as f64;
        let total =
            ((&bce * (recommended.elem_count() as f64 / pairs))? + (&search * (found.elem_count() as f64 / pairs))?)?;
        Ok(Losses { total, parts: vec![("bce", bce), ("search", search)] })
    }
}

/// Q of queries of the catalogue `[n]` → `[n, q]`, each embedded once; row 0 is no query.
fn distinct_queries(embeddings: &Embeddings, queries: &[u32]) -> Result<Tensor> {
    ItemRows::distinct(&[queries], |rows| embeddings.catalogue_queries(rows))?.list(0)
}
