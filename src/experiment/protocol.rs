//! How a report's figures came about, in lines.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Finished, Plan, RunRecord};
use crate::data::Dataset;

/// Data, candidates, seeds, recipe, program; and what is missing.
pub fn protocol(dataset: &Dataset, negatives: &str, plan: Plan<'_>, finished: &Finished) -> Vec<String> {
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
    if let Some(run) = runs.first() {
        let users = run.config.candidates.users;
        let items = run.config.candidates.items as f64 / users.max(1) as f64;
        lines.push(format!(
            "each of {users} users' last interaction is ranked among {items:.0} negatives ({negatives}); the one before \
             is for validation, which alone picks epochs and settings; ties count against the clicked item"
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
    let text = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name} {text}"),
        value => format!("{name} {value}"),
    };
    let shared: Vec<String> = shared.into_iter().map(text).collect();
    let mut line = format!("recipe: {}", shared.join(", "));
    if !own.is_empty() {
        let own: Vec<&str> = own.into_iter().map(|(name, _)| name.as_str()).collect();
        line += &format!("; by row: {} (in `runs/*.json`)", own.join(", "));
    }
    Some(line)
}
