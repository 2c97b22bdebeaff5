//! How a report's figures came about, in lines.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Finished, Plan, RunRecord, Variant, variant::plain};
use crate::{
    data::{Dataset, EvaluationNegatives, Split},
    model::AttributeConfig,
};

/// Data, candidates, seeds, recipe, program; and what is missing. With the negatives comes what they are called.
pub fn protocol(
    dataset: &Dataset,
    (negatives, name): (&EvaluationNegatives, &str),
    plan: Plan<'_>,
    finished: &Finished,
) -> Vec<String> {
    let statistics = dataset.statistics;
    let runs: Vec<&RunRecord> = finished.runs.iter().flatten().collect();
    let mut lines = vec![format!(
        "data: {} users, {} items, {} queries, {} recommendations, {} searches; checksum {}",
        statistics.users,
        statistics.items,
        statistics.queries,
        statistics.actions_recommendation,
        statistics.actions_search,
        dataset.checksum
    )];
    let users: Vec<u32> = dataset.targets(Split::Test).into_iter().map(|target| target.user).collect();
    let items = match negatives.counts(users.iter().copied()) {
        Some((fewest, most)) if fewest < most => Some(format!("{fewest} to {most}")),
        counts => counts.map(|(count, _)| count.to_string()),
    };
    if let Some(items) = items {
        lines.push(format!(
            "each of {} users' last interaction is ranked among {items} negatives ({name}); the one before is for \
             validation, which alone picks epochs and settings; ties count against the clicked item",
            users.len()
        ));
    }
    let seeds: Vec<String> = plan.seeds.iter().map(u64::to_string).collect();
    lines.push(format!("seeds {}: mean ± sample standard deviation over them", seeds.join(", ")));
    lines.extend(recipes(plan));
    let distinct = |of: fn(&RunRecord) -> String| {
        runs.iter().map(|run| of(run)).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; ")
    };
    if !runs.is_empty() {
        lines.push(format!(
            "{}; training on {}",
            distinct(|run| run.program.clone()),
            distinct(|run| format!("{}, {} threads", run.device, run.threads)),
        ));
    }
    let expected = plan.variants.len() * plan.seeds.len();
    if runs.len() < expected {
        let missing = plan.variants.iter().zip(&finished.runs).filter(|(_, runs)| runs.len() < plan.seeds.len());
        let missing: Vec<String> = missing
            .map(|(variant, runs)| format!("{} ({} of {} seeds)", variant.name, runs.len(), plan.seeds.len()))
            .collect();
        lines.push(format!("**incomplete**: {} of {expected} runs; {}", runs.len(), missing.join(", ")));
    }
    lines.extend(finished.failures.iter().map(|failure| format!("**failed**: {failure}")));
    lines
}

/// The recipe as far as the variants share it, and which of its settings they don't.
fn recipes(plan: Plan<'_>) -> Option<String> {
    let recipes: Vec<Map<String, Value>> = plan
        .variants
        .iter()
        .filter_map(|variant| serde_json::to_value(&variant.recipe).ok()?.as_object().cloned())
        .collect();
    let first = recipes.first()?;
    let (shared, own): (Vec<_>, Vec<_>) = first
        .iter()
        .filter(|(name, _)| *name != "seed")
        .partition(|(name, value)| recipes.iter().all(|recipe| recipe.get(*name) == Some(value)));
    let shared: Vec<String> = shared.into_iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
    let mut line = format!("recipe: {}", shared.join(", "));
    if !own.is_empty() {
        let own: Vec<&str> = own.into_iter().map(|(name, _)| name.as_str()).collect();
        line += &format!("; by row: {} (in `runs/*.json`)", own.join(", "));
    }
    Some(line)
}

/// What rows have as models besides their architecture and don't share, a line each: what is minimised, and what is
/// known of items and of users.
pub fn differences(variants: &[Variant]) -> Vec<String> {
    let loss = |variant: &Variant| {
        let setting = ["prediction_loss", "loss"].into_iter().find_map(|name| variant.model.setting(name));
        setting.map_or_else(|| "the model's only one".to_owned(), |loss| plain(&loss))
    };
    let items = |variant: &Variant| {
        let inputs = variant.model.inputs();
        let width = inputs.item_width.map_or_else(String::new, |width| format!(", projected to {width}"));
        attributes(&inputs.item_attributes) + &width
    };
    let users = |variant: &Variant| attributes(&variant.model.inputs().user_attributes);
    [by_row("loss", variants, loss), by_row("items", variants, items), by_row("users", variants, users)]
        .into_iter()
        .flatten()
        .collect()
}

/// "id 64 + words 64"
fn attributes(attributes: &[AttributeConfig]) -> String {
    let texts: Vec<String> =
        attributes.iter().map(|attribute| format!("{} {}", attribute.name, attribute.dim)).collect();
    if texts.is_empty() { "nothing".into() } else { texts.join(" + ") }
}

/// "loss: softmax (sesrec); bce (stamp, sasrec)"; nothing where all rows have the same.
fn by_row(what: &str, variants: &[Variant], value: impl Fn(&Variant) -> String) -> Option<String> {
    let mut rows: Vec<(String, Vec<&str>)> = vec![];
    for variant in variants {
        let value = value(variant);
        match rows.iter_mut().find(|(other, _)| *other == value) {
            Some((_, names)) => names.push(variant.name.as_str()),
            None => rows.push((value, vec![variant.name.as_str()])),
        }
    }
    let texts: Vec<String> = rows.iter().map(|(value, names)| format!("{value} ({})", names.join(", "))).collect();
    (texts.len() > 1).then(|| format!("{what} by row: {}", texts.join("; ")))
}
