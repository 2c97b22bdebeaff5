//! NRHUB (Wu et al., EMNLP 2019), in the form of IV4Rec+'s code for Kuaishou: three views of a user (browsed items,
//! queries, items clicked in searches), each pooled by attention, then pooled to one vector.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{Baseline, Candidates, Network, dot};
use crate::{
    model::{Embeddings, HistoryVectors, InputConfig, ModelError, ParameterList, Weights},
    nn::{Dropout, Linear, Mask, RowZero, batch_matmul, gather_rows_as, masked_softmax, project, tanh},
};

/// NRHUB's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NrhubConfig {
    /// Items and queries, of width d.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// k, the width of users, of candidates, and of the attention within a view.
    #[serde(default = "hidden_dim")]
    pub hidden_dim: usize,
    /// The width of the attention between views.
    #[serde(default = "view_dim")]
    pub view_dim: usize,
}

impl NrhubConfig {
    /// With the source's constants, for the items and queries of these inputs.
    pub fn new(inputs: InputConfig) -> Self {
        Self { inputs: inputs.without_users().without_search_sources(), hidden_dim: hidden_dim(), view_dim: view_dim() }
    }
}

fn hidden_dim() -> usize {
    200
}

fn view_dim() -> usize {
    100
}

/// The views, by the release's names, in its order.
const VIEWS: [&str; 3] = ["browse_item_att", "search_query_att", "search_click_att"];

impl Baseline for NrhubConfig {
    type Network = Nrhub;

    const KIND: &'static str = "nrhub";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn check(&self) -> std::result::Result<(), ModelError> {
        let fail = |message: &str| Err(ModelError::Config(message.into()));
        if self.hidden_dim == 0 || self.view_dim == 0 {
            return fail("hidden_dim and view_dim must not be 0");
        }
        if self.inputs.query_features.is_none() {
            return fail("query_features: nrhub reads queries");
        }
        if self.inputs.limits.searches == 0 || self.inputs.limits.clicks == 0 {
            return fail("nrhub reads searches and their clicks: max_src_history and max_clicked_items must not be 0");
        }
        Ok(())
    }

    fn parameters(&self, list: &mut ParameterList) {
        let (d, k) = (self.inputs.item_dim(), self.hidden_dim);
        for view in VIEWS {
            Pool::parameters(list, view, self.hidden_dim, d);
        }
        list.linear("item_rep.0", k, d);
        list.linear("user_rep.0", k, d);
        Pool::parameters(list, "user_rep.2", self.view_dim, k);
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<Nrhub, ModelError> {
        let [browsed, queries, clicks] = VIEWS.map(|view| Pool::new(weights, view));
        Ok(Nrhub {
            pools: [browsed?, queries?, clicks?],
            view: weights.linear("user_rep.0")?,
            views: Pool::new(weights, "user_rep.2")?,
            item: weights.linear("item_rep.0")?,
            items: None,
        })
    }
}

/// Attention pooling: `Σ_j softmax_j(v · tanh(U x_j + b)) x_j`.
#[derive(Debug, Clone)]
struct Pool {
    key: Linear,
    query: Tensor,
}

impl Pool {
    fn parameters(list: &mut ParameterList, name: &str, units: usize, d: usize) {
        list.linear(&format!("{name}.Uq"), units, d);
        list.xavier(format!("{name}.vq"), &[1, units]);
    }

    fn new(weights: &Weights<'_>, name: &str) -> std::result::Result<Self, ModelError> {
        Ok(Self { key: weights.linear(&format!("{name}.Uq"))?, query: weights.get(&format!("{name}.vq"))? })
    }

    /// `x [B, L, d]` → weights `[B, L]` and `[B, d]`, zero where the mask keeps nothing.
    fn forward(&self, x: &Tensor, mask: &Mask) -> Result<(Tensor, Tensor)> {
        let (users, length, _) = x.dims3()?;
        let scores = project(&tanh(&self.key.forward(x)?)?, &self.query)?.reshape((users, 1, length))?;
        let weights = masked_softmax(&scores, mask)?;
        let pooled = batch_matmul(&weights, x)?.squeeze(1)?;
        Ok((weights.squeeze(1)?, pooled))
    }
}

/// NRHUB over given tensors.
#[derive(Debug, Clone)]
pub struct Nrhub {
    /// Browsed items, queries, clicked items.
    pools: [Pool; 3],
    view: Linear,
    views: Pool,
    item: Linear,
    /// All items as candidates `[I, k]`, once they are computed.
    items: Option<Tensor>,
}

/// Users' vectors, and what led to them. Views without events take no part; without any, the vector is zero.
#[derive(Debug, Clone)]
pub struct Views {
    /// Weights of browsed items `[B, Lr]`, queries `[B, Ls]`, clicked items `[B, Ls · K]`.
    pub attention: [Tensor; 3],
    /// Each view pooled, `[B, d]`.
    pub pooled: [Tensor; 3],
    /// The views' weights `[B, 3]`.
    pub weights: Tensor,
    /// `[B, k]`.
    pub users: Tensor,
}

impl Nrhub {
    /// Browsed items, queries and clicked items: vectors `[B, L, d]` and which of them are real.
    pub fn views(&self, events: [(&Tensor, &Mask); 3]) -> Result<Views> {
        let [browsed, queries, clicks] = [0, 1, 2].map(|n| self.pools[n].forward(events[n].0, events[n].1));
        let (browsed, queries, clicks) = (browsed?, queries?, clicks?);
        let pooled = [browsed.1, queries.1, clicks.1];
        let seen = (0..events[0].1.groups()).flat_map(|user| events.map(|(_, mask)| mask.row(user).contains(&true)));
        let seen = Mask::new(seen.collect(), events.len());
        let views = tanh(&self.view.forward(&Tensor::stack(&pooled, 1)?)?)?; // [B, 3, k]
        let (weights, users) = self.views.forward(&views, &seen)?;
        Ok(Views { attention: [browsed.0, queries.0, clicks.0], pooled, weights, users })
    }

    /// Items as candidates: `[.., d]` → `[.., k]`.
    pub fn candidates(&self, items: &Tensor) -> Result<Tensor> {
        tanh(&self.item.forward(items)?)
    }
}

impl Network for Nrhub {
    type Users = Tensor;

    fn encode(&self, history: &HistoryVectors<'_>, _: &mut Dropout) -> Result<Tensor> {
        let (browsed, queries, clicks) = (history.items()?, history.queries()?, history.clicked_items()?);
        let masks = [history.item_mask(), history.search_mask(), history.clicked_mask()];
        Ok(self.views([(&browsed, &masks[0]), (&queries, &masks[1]), (&clicks, &masks[2])])?.users)
    }

    fn logits(&self, users: &Tensor, candidates: &Candidates<'_>, _: &mut Dropout) -> Result<Tensor> {
        let vectors = match &self.items {
            Some(items) => {
                let users = users.dim(0)?;
                let leading = [users, candidates.rows.len() / users.max(1)];
                gather_rows_as(items, candidates.rows, &leading, RowZero::Learns)?
            }
            None => self.candidates(&candidates.vectors)?,
        };
        dot(users, &vectors)
    }

    fn loaded(self, _: &Embeddings, items: &Tensor) -> Result<Self> {
        let items = Some(self.candidates(items)?);
        Ok(Self { items, ..self })
    }
}
