//! Fig. 4: whether queries lie near the items that were clicked for them.

use candle_core::{Device, Result as TensorResult, Tensor};
use hashbrown::HashSet;
use indicatif::HumanCount;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{AnalysisError, box_summary, events::sesrec, measures::mean};
use crate::{
    data::Dataset,
    model::{Bundle, sesrec::Network},
    plot::{Axis, BoxPlot, Figure},
    table::Table,
};

/// Pairs per call of the model.
const CHUNK: usize = 4096;

/// How to choose pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlignmentOptions {
    /// At most this many distinct pairs, drawn at random where there are more.
    pub max_pairs: usize,
    /// What the draw, and the strangers that clicked items are exchanged for, follow from.
    pub seed: u64,
}

/// Queries with items that were clicked for them, and with the same items in a random order, which by chance may have
/// been clicked for them, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// Query rows.
    pub queries: Vec<u32>,
    /// A clicked item for each.
    pub clicked: Vec<u32>,
    /// The same items among other queries.
    pub strangers: Vec<u32>,
}

/// Cosine similarities of one model, in the order of its [`Pairs`]. Queries of which one of the two has none, for a
/// vector of zeros, are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Cosines {
    /// Of queries and clicked items.
    pub clicked: Vec<f64>,
    /// Of queries and strangers.
    pub strangers: Vec<f64>,
}

/// How well one model aligns queries and items.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    /// The model's name.
    pub name: String,
    /// In the embedding space that both share: Q(q) and E(i).
    pub embeddings: Cosines,
    /// As the alignment loss compares them: qᵀ W and i.
    pub projected: Cosines,
}

impl Pairs {
    /// The distinct pairs of a data set, or as many of them as are wanted.
    ///
    /// # Errors
    /// If no search has a clicked item.
    pub fn of(dataset: &Dataset, options: AlignmentOptions) -> Result<Self, AnalysisError> {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let mut seen = HashSet::new();
        let mut pairs = vec![];
        for user in 0..dataset.users() as u32 {
            for search in dataset.searches(user) {
                let clicked = search.clicks.iter().map(|&item| (search.query, item));
                pairs.extend(clicked.filter(|&pair| seen.insert(pair)));
            }
        }
        if pairs.is_empty() {
            return Err(AnalysisError::Nothing("no search has a clicked item".into()));
        }
        pairs.shuffle(&mut random);
        pairs.truncate(options.max_pairs.max(1));
        let (queries, clicked): (Vec<u32>, Vec<u32>) = pairs.into_iter().unzip();
        let mut strangers = clicked.clone();
        strangers.shuffle(&mut random);
        Ok(Self { queries, clicked, strangers })
    }
}

impl Alignment {
    /// Of a SESRec that was trained on this data set.
    ///
    /// # Errors
    /// If the bundle is no SESRec, or of another data set, or fails.
    pub fn of(bundle: &Bundle, dataset: &Dataset, pairs: &Pairs, device: &Device) -> Result<Self, AnalysisError> {
        let ranker = sesrec(bundle, dataset, device, "a space that queries and items share")?;
        let network = ranker.network();
        let queries = |rows: &[u32]| network.embeddings().catalogue_queries(rows);
        let projected = |rows: &[u32]| network.alignment().project(&queries(rows)?);
        let both = |embed: &dyn Fn(&[u32]) -> TensorResult<Tensor>| {
            let clicked = cosines(network, embed, &pairs.queries, &pairs.clicked)?;
            let strangers = cosines(network, embed, &pairs.queries, &pairs.strangers)?;
            let (clicked, strangers) = clicked.into_iter().zip(strangers).filter_map(|(a, b)| a.zip(b)).unzip();
            Ok::<_, AnalysisError>(Cosines { clicked, strangers })
        };
        Ok(Self { name: bundle.name.clone(), embeddings: both(&queries)?, projected: both(&projected)? })
    }
}

impl Cosines {
    /// How many queries lie nearer to the item clicked for them than to their stranger, ties counting half.
    pub fn separation(&self) -> Option<f64> {
        let nearer = self.clicked.iter().zip(&self.strangers).map(|(clicked, stranger)| {
            0.5 + 0.5 * clicked.partial_cmp(stranger).map_or(0.0, |order| f64::from(order as i8))
        });
        (!self.clicked.is_empty()).then(|| mean(nearer))
    }
}

fn cosines(
    network: &Network,
    embed: &dyn Fn(&[u32]) -> TensorResult<Tensor>,
    queries: &[u32],
    items: &[u32],
) -> Result<Vec<Option<f64>>, AnalysisError> {
    let mut cosines = Vec::with_capacity(queries.len());
    for (queries, items) in queries.chunks(CHUNK).zip(items.chunks(CHUNK)) {
        let (q, i) = (embed(queries)?, network.embeddings().project_items(items)?);
        let products = [(&q, &i), (&q, &q), (&i, &i)].map(|(a, b)| (a * b)?.sum(1)?.to_vec1::<f32>());
        let [dot, query, item] = products.map(|products: TensorResult<Vec<f32>>| products);
        let norms = query?.into_iter().zip(item?).map(|(query, item)| f64::from(query).sqrt() * f64::from(item).sqrt());
        let pairs = dot?.into_iter().zip(norms);
        cosines.extend(pairs.map(|(dot, norm)| (norm > 0.0).then(|| (f64::from(dot) / norm).clamp(-1.0, 1.0))));
    }
    Ok(cosines)
}

/// Each model's cosines in numbers.
pub fn alignment_table(models: &[Alignment]) -> Table {
    let columns =
        ["model", "space", "pairs", "n", "mean", "lower quartile", "median", "upper quartile", "clicked nearer"];
    let mut table = Table::new(columns);
    for Alignment { name, embeddings, projected } in models {
        for (space, cosines) in [("Q, E", embeddings), ("Q W, E", projected)] {
            for (pairs, values) in [("clicked", &cosines.clicked), ("strangers", &cosines.strangers)] {
                let summary = box_summary(values.clone());
                let number = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.4}"));
                table.push([
                    name.clone(),
                    space.to_owned(),
                    pairs.to_owned(),
                    HumanCount(values.len() as u64).to_string(),
                    number(summary.map(|_| mean(values.iter().copied()))),
                    number(summary.map(|summary| summary.lower_quartile)),
                    number(summary.map(|summary| summary.median)),
                    number(summary.map(|summary| summary.upper_quartile)),
                    number(cosines.separation().filter(|_| pairs == "clicked")),
                ]);
            }
        }
    }
    table
}

/// The paper's Fig. 4: a box per model, of the queries and the items clicked for them, as the alignment loss compares
/// them.
pub fn alignment_figure(models: &[Alignment]) -> Figure {
    let boxes =
        models.iter().filter_map(|model| Some((model.name.clone(), box_summary(model.projected.clicked.clone())?)));
    Figure::Boxes(BoxPlot {
        x: "model".into(),
        y: Axis::of("cosine of query and clicked item"),
        boxes: boxes.collect(),
    })
}
