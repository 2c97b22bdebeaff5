//! JSR (Zamani and Croft, DESIRES 2018 and WSDM 2020): recommendation and search share the items' vectors, and are
//! learned together. No history: a user is who it is.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{Baseline, Candidates, Network, Step};
use crate::{
    data::HistoryLimits,
    model::{BatchPlan, Extras, HistoryVectors, InputConfig, Losses, ModelError, ParameterList, TableConfig, Weights},
    nn::{
        Dropout, Initial, Linear, Mask, Mlp, RowZero, batch_matmul, binary_cross_entropy, flat_places, gather_rows,
        gather_rows_as, masked_softmax, project,
    },
};

/// Added to a probability before its logarithm.
const EPSILON: f64 = 1e-7;

/// JSR's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JsrConfig {
    /// Users and items; d is the items' width.
    #[serde(flatten)]
    pub inputs: InputConfig,
    /// The words of queries, row 0 for none; used in training only. For `search = "clicks"` they are as wide as items.
    pub words: TableConfig,
    /// Hidden layers of the networks that score a product of two vectors, each d wide.
    #[serde(default = "two")]
    pub num_hidden: usize,
    /// What is learned from a search.
    #[serde(default)]
    pub search: SearchTask,
    /// λ, the weight of that.
    #[serde(default = "search_weight")]
    pub search_weight: f64,
}

/// What JSR learns from a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SearchTask {
    /// Which item is clicked for the query (2018).
    #[default]
    Clicks,
    /// Which words the clicked item is searched with (2020).
    Words,
}

impl JsrConfig {
    /// With the publications' constants, for the users and items of these inputs.
    pub fn new(inputs: InputConfig) -> Self {
        let rows = inputs.query_features.map_or(1, |features| features.word_segs.rows);
        let words = TableConfig { rows, dim: inputs.item_dim() };
        // No event is read; the first words of a query are, in training.
        let limits = HistoryLimits { recommendations: 0, searches: 0, clicks: 0, words: inputs.limits.words };
        let inputs = InputConfig { limits, ..inputs.without_searches() };
        Self { inputs, words, num_hidden: two(), search: SearchTask::default(), search_weight: search_weight() }
    }
}

fn two() -> usize {
    2
}

fn search_weight() -> f64 {
    0.1
}

impl Baseline for JsrConfig {
    type Network = Jsr;

    const KIND: &'static str = "jsr";

    fn inputs(&self) -> &InputConfig {
        &self.inputs
    }

    fn check(&self) -> std::result::Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Config(message));
        let d = self.inputs.item_dim();
        if self.inputs.user_attributes.is_empty() {
            return fail("user_attributes: jsr knows users by nothing else".into());
        }
        if self.words.rows == 0 || self.words.dim == 0 {
            return fail("words: rows and dim must not be 0".into());
        }
        if self.search == SearchTask::Clicks && self.words.dim != d {
            return fail(format!(
                "words.dim is {}; with search = \"clicks\" it must be the items' {d}",
                self.words.dim
            ));
        }
        if self.inputs.limits.words == 0 {
            return fail("max_query_words must not be 0: jsr knows queries by nothing else".into());
        }
        if !self.search_weight.is_finite() || self.search_weight <= 0.0 {
            return fail(format!("search_weight is {}; it must be above 0", self.search_weight));
        }
        Ok(())
    }

    fn parameters(&self, list: &mut ParameterList) {
        let d = self.inputs.item_dim();
        list.linear("user_projection", d, self.inputs.user_dim());
        ProductMlp::parameters(list, "mlp_r", d, self.num_hidden);
        list.xavier("words.weight".into(), &[self.words.rows, self.words.dim]);
        match self.search {
            SearchTask::Clicks => {
                QueryClicks::parameters(list, self.words.rows);
                ProductMlp::parameters(list, "mlp_s", d, self.num_hidden);
            }
            SearchTask::Words => ItemWords::parameters(list, self.words.dim, d),
        }
    }

    fn batch_plan(&self) -> BatchPlan {
        BatchPlan { extras: Extras::Searches, ..BatchPlan::default() }
    }

    fn network(&self, weights: &Weights<'_>) -> std::result::Result<Jsr, ModelError> {
        let search = match self.search {
            SearchTask::Clicks => {
                Search::Clicks(QueryClicks::new(weights)?, ProductMlp::new(weights, "mlp_s", self.num_hidden)?)
            }
            SearchTask::Words => Search::Words(ItemWords::new(weights)?),
        };
        Ok(Jsr {
            user_projection: weights.linear("user_projection")?,
            mlp: ProductMlp::new(weights, "mlp_r", self.num_hidden)?,
            words: weights.get("words.weight")?,
            search,
            search_weight: self.search_weight,
        })
    }
}

/// JSR over given tensors.
#[derive(Debug, Clone)]
pub struct Jsr {
    user_projection: Linear,
    mlp: ProductMlp,
    words: Tensor,
    search: Search,
    search_weight: f64,
}

#[derive(Debug, Clone)]
enum Search {
    Clicks(QueryClicks, ProductMlp),
    Words(ItemWords),
}

impl Jsr {
    /// Users `[B, u]` as wide as items: `[B, d]`.
    pub fn users(&self, users: &Tensor) -> Result<Tensor> {
        self.user_projection.forward(users)
    }

    /// What the searches of a batch teach.
    fn search_loss(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Tensor> {
        let searches = &step.batch().searches;
        let (words, length) = step.embeddings().words_of(&searches.queries)?;
        match &self.search {
            Search::Clicks(queries, mlp) => {
                let candidates = searches.candidates().map_err(candle_core::Error::wrap)?;
                let items = step.further_items(&candidates, dropout)?;
                let items = items.reshape((searches.queries.len(), (), items.dim(1)?))?; // [S, 1 + N, d]
                let leading = [searches.queries.len(), length];
                let vectors = gather_rows_as(&self.words, &words, &leading, RowZero::Frozen)?; // [S, W, d]
                let words: Vec<Option<u32>> = words.iter().map(|&word| (word != 0).then_some(word)).collect();
                let (queries, _) = queries.forward(&vectors, &words)?;
                binary_cross_entropy(&mlp.forward(&queries, &items, dropout)?)
            }
            Search::Words(items) => {
                let clicked = step.further_items(&searches.clicked, dropout)?; // [S, d]
                // Row 0 is no word.
                let table = self.words.narrow(0, 1, self.words.dim(0)? - 1)?;
                let words: Vec<Option<u32>> = words.iter().map(|&word| word.checked_sub(1)).collect();
                ItemWords::loss(&items.forward(&clicked, &table)?, &words)
            }
        }
    }
}

impl Network for Jsr {
    type Users = Tensor;

    fn encode(&self, history: &HistoryVectors<'_>, _: &mut Dropout) -> Result<Tensor> {
        self.users(&history.users()?)
    }

    fn logits(&self, users: &Tensor, candidates: &Candidates<'_>, dropout: &mut Dropout) -> Result<Tensor> {
        self.mlp.forward(users, &candidates.vectors, dropout)
    }

    fn losses(&self, step: &Step<'_, Self>, dropout: &mut Dropout) -> Result<Losses> {
        let bce = binary_cross_entropy(&step.logits(dropout)?)?;
        let search = self.search_loss(step, dropout)?;
        let total = (&bce + (&search * self.search_weight)?)?;
        Ok(Losses { total, parts: vec![("bce", bce), ("search", search)] })
    }
}

/// `MLP(a ∘ b)`: ReLU after hidden layers, which are as wide as the vectors.
///
/// naver's code drops out its scalar output as well, which only scales scores at random; here it isn't.
#[derive(Debug, Clone)]
pub struct ProductMlp(Mlp);

impl ProductMlp {
    /// Layers are numbered as in a sequence with their activations.
    pub fn parameters(list: &mut ParameterList, name: &str, d: usize, hidden: usize) {
        (0..hidden).for_each(|n| list.linear(&format!("{name}.{}", 2 * n), d, d));
        list.linear(&format!("{name}.{}", 2 * hidden), 1, d);
    }

    /// Over given tensors.
    pub fn new(weights: &Weights<'_>, name: &str, hidden: usize) -> std::result::Result<Self, ModelError> {
        let layers = (0..=hidden).map(|n| weights.linear(&format!("{name}.{}", 2 * n)));
        Ok(Self(Mlp { layers: layers.collect::<std::result::Result<_, _>>()? }))
    }

    /// `a [B, d]`, `b [B, C, d]` → `[B, C]`.
    pub fn forward(&self, a: &Tensor, b: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        self.0.forward(&b.broadcast_mul(&a.unsqueeze(1)?)?, dropout)?.squeeze(2)
    }
}

/// 2018: a query is the sum of its words by their learned importance.
#[derive(Debug, Clone)]
pub struct QueryClicks {
    /// ω `[words]`.
    importance: Tensor,
}

impl QueryClicks {
    /// For as many words.
    pub fn parameters(list: &mut ParameterList, words: usize) {
        list.add("omega".into(), &[words], Initial::Constant(0.0));
    }

    /// Over given tensors.
    pub fn new(weights: &Weights<'_>) -> std::result::Result<Self, ModelError> {
        Ok(Self { importance: weights.get("omega")? })
    }

    /// Words as vectors `[S, W, d]` and as rows `[S, W]` → queries `[S, d]`, zero without words, and the words' weights
    /// `[S, W]`.
    pub fn forward(&self, vectors: &Tensor, words: &[Option<u32>]) -> Result<(Tensor, Tensor)> {
        let (queries, length, _) = vectors.dims3()?;
        let real = Mask::new(words.iter().map(Option::is_some).collect(), length);
        let rows: Vec<u32> = words.iter().map(|word| word.unwrap_or(0)).collect();
        let importance = self.importance.unsqueeze(1)?; // [words, 1]
        let importance = gather_rows(&importance, &rows, RowZero::Learns)?.reshape((queries, length))?;
        let weights = masked_softmax(&importance, &real)?; // [S, W]
        Ok((batch_matmul(&weights.unsqueeze(1)?, vectors)?.squeeze(1)?, weights))
    }
}

/// 2020: an item is a distribution over words, `p(w|i) = softmax_w((W_p e_i) · v_w)`.
#[derive(Debug, Clone)]
pub struct ItemWords {
    /// W_p `[words' width, d]`.
    projector: Tensor,
}

impl ItemWords {
    /// From items' width d to the words'.
    pub fn parameters(list: &mut ParameterList, width: usize, d: usize) {
        list.xavier("item_projector.weight".into(), &[width, d]);
    }

    /// Over given tensors.
    pub fn new(weights: &Weights<'_>) -> std::result::Result<Self, ModelError> {
        Ok(Self { projector: weights.get("item_projector.weight")? })
    }

    /// Items `[n, d]`, words `[V, width]` → `p(w|i) [n, V]`.
    pub fn forward(&self, items: &Tensor, words: &Tensor) -> Result<Tensor> {
        let scores = project(items, &self.projector)?.matmul(&words.t()?)?; // [n, V]
        let (items, words) = scores.dims2()?;
        masked_softmax(&scores, &Mask::prefixes(&vec![words; items], words))
    }

    /// `-log(p(w|i) + 1e-7)` of each item's words: the sums `[S]`. `words` are `[S, W]`.
    pub fn surprise(likelihoods: &Tensor, words: &[Option<u32>]) -> Result<Tensor> {
        let (items, vocabulary) = likelihoods.dims2()?;
        let length = words.len() / items.max(1);
        let places = words.iter().enumerate().map(|(n, word)| (n / length, word.unwrap_or(0)));
        let places = flat_places(places, (items, vocabulary))?;
        let flat = likelihoods.reshape((items * vocabulary, 1))?;
        let of_words = gather_rows(&flat, &places, RowZero::Learns)?.reshape((items, length))?;
        let real = Mask::new(words.iter().map(Option::is_some).collect(), length).tensor(likelihoods.device())?;
        ((of_words + EPSILON)?.log()?.neg()? * real)?.sum(1)
    }

    /// How well n items answer queries: the mean over a query's words of `log(λ p(w|i) + (1 - λ) p(w|C) + 1e-7)`, where
    /// p(w|C) is the mean over these items. `likelihoods [n, V]`, S queries' words → `[S, n]`, zero for a query without
    /// words.
    ///
    /// For retrieval with a model that was trained with `search = "words"`; the service ranks by the other branch.
    pub fn query_likelihood(likelihoods: &Tensor, words: &[&[u32]], weight: f64) -> Result<Tensor> {
        let (queries, vocabulary) = (words.len(), likelihoods.dim(1)?);
        let smooth = (likelihoods * weight)?.broadcast_add(&(likelihoods.mean_keepdim(0)? * (1.0 - weight))?)?;
        let mut shares = vec![0.0_f32; queries * vocabulary];
        for (words, shares) in words.iter().zip(shares.chunks_mut(vocabulary)) {
            words.iter().for_each(|&word| shares[word as usize] += 1.0 / words.len() as f32);
        }
        let shares = Tensor::from_vec(shares, (queries, vocabulary), likelihoods.device())?;
        shares.matmul(&(smooth + EPSILON)?.log()?.t()?)
    }

    /// The mean over queries of the mean over their words. (naver's code divides each sum by every query's length, by a
    /// slip of broadcasting.)
    pub fn loss(likelihoods: &Tensor, words: &[Option<u32>]) -> Result<Tensor> {
        let queries = likelihoods.dim(0)?;
        let counts = words.chunks(words.len() / queries.max(1)).map(|words| words.iter().flatten().count());
        let shares: Vec<f32> = counts.map(|count| 1.0 / (count.max(1) * queries) as f32).collect();
        (Self::surprise(likelihoods, words)? * Tensor::from_vec(shares, queries, likelihoods.device())?)?.sum_all()
    }
}
