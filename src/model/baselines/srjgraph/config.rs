//! SRJGraph's settings.

use std::collections::HashMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Aggregator, Graph, Head, SrjGraph, aggregator::Sizes};
use crate::{
    data::Dataset,
    model::{BatchPlan, Extras, InputConfig, ModelError, ParameterList, Weights, baselines::Baseline},
};

const EDGES: &str = "graph.edges";

/// SRJGraph's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SrjGraphConfig {
    /// Users, items and queries.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// Width of a node.
    #[serde(default = "node_dim")]
    pub node_dim: usize,
    /// How many of a user's newest clicks are read.
    #[serde(default = "neighbours")]
    pub neighbours: usize,
    /// Hidden layers of the prediction networks, one for recommendations, one for searches.
    #[serde(default = "head")]
    pub head: Vec<usize>,
    /// Layer norm's epsilon.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
}

impl SrjGraphConfig {
    /// With the constants of the code that ran on SESRec's data.
    pub fn new(inputs: InputConfig) -> Self {
        Self {
            inputs: inputs.without_search_sources(),
            node_dim: node_dim(),
            neighbours: neighbours(),
            head: head(),
            layer_norm_eps: layer_norm_eps(),
        }
    }

    /// The tensors but for the graph; `query_dim` is the width of a query.
    pub fn layers(&self, query_dim: usize, list: &mut ParameterList) {
        // E, the width of an edge: user, query, item.
        let (node, edge) = (self.node_dim, 2 * self.node_dim + query_dim);
        list.linear("user_dense", node, self.inputs.user_dim());
        list.linear("item_dense", node, self.inputs.item_dim());
        // Both as long, as in the source.
        let sizes = Sizes { node, edge, positions: self.neighbours + 1 };
        for name in ["items_into_user", "users_into_item"] {
            Aggregator::parameters(list, name, sizes);
        }
        list.linear("users_into_item.child", node, edge);
        for name in ["recommendation", "search"] {
            Head::parameters(list, name, 3 * edge, &self.head);
        }
    }

    /// The network over these and a graph.
    pub fn over(&self, graph: Graph, weights: &Weights<'_>) -> Result<SrjGraph, ModelError> {
        let aggregator = |name: &str| Aggregator::new(weights, name, self.layer_norm_eps);
        Ok(SrjGraph {
            graph,
            neighbours: self.neighbours,
            user_dense: weights.linear("user_dense")?,
            item_dense: weights.linear("item_dense")?,
            items_into_user: aggregator("items_into_user")?,
            users_into_item: aggregator("users_into_item")?,
            child: weights.linear("users_into_item.child")?,
            recommendation: Head::new(weights, "recommendation", self.head.len())?,
            search: Head::new(weights, "search", self.head.len())?,
            snapshot: None,
        })
    }

    fn graph(&self, edges: &Tensor) -> Result<Graph, ModelError> {
        let id_rows = |attributes: &[crate::model::AttributeConfig]| attributes.first().map_or(0, |id| id.rows);
        let queries = self.inputs.query_features.map_or(0, |features| features.id.rows);
        let rows = [id_rows(&self.inputs.user_attributes), id_rows(&self.inputs.item_attributes), queries];
        Graph::from_table(EDGES, edges, rows)
    }
}

fn node_dim() -> usize {
    48
}

fn neighbours() -> usize {
    25
}

fn head() -> Vec<usize> {
    vec![256, 64]
}

fn layer_norm_eps() -> f64 {
    1e-9
}

impl Baseline for SrjGraphConfig {
    type Network = SrjGraph;

    const KIND: &'static str = "srjgraph";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn check(&self) -> Result<(), ModelError> {
        let fail = |message: &str| Err(ModelError::Config(message.into()));
        let limits = self.inputs.limits;
        if self.inputs.user_attributes.is_empty() || self.inputs.query_features.is_none() {
            return fail("srjgraph needs user_attributes and query_features");
        }
        if [limits.recommendations, limits.searches, limits.words, limits.clicks].contains(&0) {
            return fail("max_rec_history, max_src_history, max_query_words and max_clicked_items must not be 0");
        }
        if self.node_dim == 0 || self.neighbours == 0 || self.head.contains(&0) {
            return fail("node_dim, neighbours and the layers of head must not be 0");
        }
        Ok(())
    }

    fn parameters(&self, list: &mut ParameterList) {
        self.layers(self.inputs.item_dim(), list);
        list.list(EDGES.into(), Graph::WIDTH);
    }

    fn tables(&self, dataset: &Dataset) -> Result<HashMap<String, Tensor>, ModelError> {
        let edges = Graph::training_edges(dataset, self.inputs.limits.clicks);
        Ok(HashMap::from([(EDGES.to_owned(), Graph::table(&edges)?)]))
    }

    fn check_tables(&self, tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
        tensors.get(EDGES).map_or(Ok(()), |edges| self.graph(edges).map(|_| ()))
    }

    fn batch_plan(&self) -> BatchPlan {
        BatchPlan { extras: Extras::SearchesWithHistories, ..BatchPlan::default() }
    }

    fn network(&self, weights: &Weights<'_>) -> Result<SrjGraph, ModelError> {
        self.over(self.graph(&weights.get(EDGES)?)?, weights)
    }
}
