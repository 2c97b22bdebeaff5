//! The paper's tables and figures, as variants.

use serde_json::Value;

use super::{Base, Changes, ExperimentError, Variant, grid::kind_name, variant::number};
use crate::{
    data::ITEM_WORDS,
    model::{ModelKind, Setting},
};

/// α, the weight of query-item alignment.
pub const ALIGN: &str = "loss_weights.align";
/// β, the weight of the contrast of interests.
pub const CONTRAST: &str = "loss_weights.contrast";

/// Table 2: models as they are published, under one recipe but for their dropout.
///
/// # Errors
/// If a setting of `base` doesn't fit a model.
pub fn table2(base: &Base<'_>, models: &[ModelKind]) -> Result<Vec<Variant>, ExperimentError> {
    models.iter().map(|&kind| base.variant(&kind_name(kind), kind, &Changes::default())).collect()
}

/// Table 3: SESRec's parts, added one after another.
///
/// # Errors
/// If a setting of `base` doesn't fit.
pub fn ablation(base: &Base<'_>) -> Result<Vec<Variant>, ExperimentError> {
    let (no_align, no_contrast) = (Setting::new(ALIGN, 0.0), Setting::new(CONTRAST, 0.0));
    let single = Setting::new("interest_extraction", "single");
    let steps = [
        ("Base", vec![no_align, no_contrast.clone(), single.clone()]),
        ("+ L_align", vec![no_contrast, single.clone()]),
        ("+ L_con", vec![single]),
        ("+ multi-interest extraction", vec![]),
    ];
    steps.into_iter().map(|(name, settings)| sesrec(base, name, settings)).collect()
}

/// Table 4: the co-attention weight from which on an interest is similar.
///
/// # Errors
/// If a setting of `base` doesn't fit.
pub fn thresholds(base: &Base<'_>) -> Result<Vec<Variant>, ExperimentError> {
    let thresholds: [(&str, Value); 4] =
        [("1/16", 0.0625.into()), ("1/8", 0.125.into()), ("median", "median".into()), ("mean", "mean".into())];
    let variant = |(name, value): (&str, Value)| sesrec(base, name, vec![Setting::new("threshold", value)]);
    thresholds.into_iter().map(variant).collect()
}

/// Fig. 5: each loss weight in turn, the other as it is.
///
/// # Errors
/// If a setting of `base` doesn't fit.
pub fn weights(base: &Base<'_>, alphas: &[f64], betas: &[f64]) -> Result<Vec<Variant>, ExperimentError> {
    let sweep = |letter: &'static str, setting: &'static str, values: &[f64]| {
        let variant =
            |&value: &f64| sesrec(base, &format!("{letter} = {value}"), vec![Setting::new(setting, number(value))]);
        values.iter().map(variant).collect::<Vec<_>>()
    };
    sweep("α", ALIGN, alphas).into_iter().chain(sweep("β", CONTRAST, betas)).collect()
}

/// SESRec as it is: where [`recipe`] takes what a part is without.
///
/// # Errors
/// If a setting of `base` doesn't fit.
pub fn paper(base: &Base<'_>) -> Result<Variant, ExperimentError> {
    sesrec(base, "paper", vec![])
}

/// SESRec by a better recipe, and by that with each part as `paper` has it.
///
/// # Errors
/// If a setting of `base` doesn't fit.
pub fn recipe(base: &Base<'_>, paper: &Variant) -> Result<Vec<Variant>, ExperimentError> {
    let best = sesrec(base, "best", vec![])?;
    let ids_only = ids_only(&best);
    let has_captions = ids_only.is_some();
    let model = |name: &str| Some(vec![Setting::new(name, paper.model.setting(name)?)]);
    let before =
        serde_json::to_value(&paper.recipe).map_err(|error| ExperimentError::Declaration(error.to_string()))?;
    let training = |name: &str| Some(Setting::new(name, before.get(name)?.clone()));
    let parts = [
        ("without captions' words", ids_only, None),
        ("without shared words", model("shared_words").filter(|_| has_captions), None),
        ("without items clicked together", model("clicked_together"), None),
        ("ids' and words' widths added up", widths_added_up(&best), None),
        ("with users' embeddings", model("user_attributes"), None),
        ("without matches", model("matching"), None),
        ("without inner products", model("inner_products"), None),
        ("without item biases", model("item_bias"), None),
        ("paper's weight of the alignment", model("loss_weights.align"), None),
        ("positions from the oldest", model("positions_from"), None),
        ("binary cross-entropy", model("prediction_loss"), None),
        ("negatives by popularity", None, training("negative_sampling")),
        ("fewer negatives", None, training("negatives")),
        ("own clicks among negatives", None, training("own_clicks")),
        ("targets after a search only", None, training("targets")),
        ("without validation's interactions", None, training("refit")),
        ("batches of any lengths", None, training("order")),
        // The paper's schedule falls on plateaus, and in the few epochs of this recipe never does.
        ("constant rate", None, training("schedule")),
        ("paper's dropout", None, training("dropout")),
        ("paper's L2", None, training("l2")),
        ("selected by MRR", None, training("selection")),
    ];
    let without = parts.into_iter().filter(|(_, model, training)| model.is_some() || training.is_some()).map(
        |(name, model, training)| {
            let changes = Changes { model: model.unwrap_or_default(), recipe: training.into_iter().collect() };
            base.variant(name, ModelKind::Sesrec, &changes)
        },
    );
    std::iter::once(Ok(best.clone())).chain(without).collect()
}

/// Without captions' words: their width is given to the id, and none are counted. Nothing if there are no such words.
fn ids_only(variant: &Variant) -> Option<Vec<Setting>> {
    let mut attributes = variant.model.inputs().item_attributes.clone();
    let words = attributes.iter().position(|attribute| attribute.name == ITEM_WORDS)?;
    attributes[0].dim += attributes.remove(words).dim;
    let attributes = Setting::new("item_attributes", serde_json::to_value(attributes).ok()?);
    Some(vec![attributes, Setting::new("shared_words", false)])
}

/// Items as wide as their attributes together. Nothing if they are.
fn widths_added_up(variant: &Variant) -> Option<Vec<Setting>> {
    let inputs = variant.model.inputs();
    let width = inputs.item_attributes_dim();
    inputs.item_width.filter(|&own| own != width)?;
    let mut settings = vec![Setting::new("item_width", Value::Null), Setting::new("hidden_dim", width)];
    if inputs.query_features.is_some_and(|features| features.search_source.is_some()) {
        settings.push(Setting::new("query_features.search_source.dim", width));
    }
    Some(settings)
}

fn sesrec(base: &Base<'_>, name: &str, model: Vec<Setting>) -> Result<Variant, ExperimentError> {
    base.variant(name, ModelKind::Sesrec, &Changes { model, recipe: vec![] })
}
