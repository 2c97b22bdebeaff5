//! Rows as Markdown and CSV.

use std::path::Path;

use indicatif::HumanCount;

use super::{Comparison, ExperimentError, PairedTest, Row, ServingCost, Spread, comparison::SIGNIFICANT, row::METRICS};
use crate::{eval::Metrics, files::write_whole, table::Table};

/// A table with what is to be said about it.
#[derive(Debug)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// How the figures came about, a line each.
    pub protocol: Vec<String>,
    /// What follows from them, a paragraph each.
    pub notes: Vec<String>,
    /// The table.
    pub rows: Vec<Row>,
    /// What stands right of the test metrics.
    pub columns: Columns,
    /// Whether each row is also compared with the row before it.
    pub steps: bool,
    /// Figures beside it: what they show, and their name without the extension.
    pub figures: Vec<(String, String)>,
}

/// What stands right of the test metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Training's speed, parameters, serving's speeds.
    Costs,
    /// Validation, which selects, and how long runs took.
    Validation,
}

/// What is marked in the column of a metric.
#[derive(Debug, Clone, Copy)]
struct Marks {
    best: usize,
    second: Option<usize>,
    /// Whether the best is significantly better than the second.
    starred: bool,
}

const TRAINING_SPEED: &str = "training samples/s";

const TESTED: &str = "Tested: whether the row's metric differs from the other's, paired by test user. Each user's metric is \
averaged over a row's seeds first, so a user counts once. <sup>*</sup> in the table: the best row is better than the second \
best with p < 0.01 in Student's paired t-test (two-sided), as in the paper; Wilcoxon's signed-rank test stands beside it. The \
tests say whether a difference holds over users, the ± whether it holds over seeds. Where one of the two best rows wasn't \
trained, the two best that were are compared, too.";

impl Report {
    /// Writes `NAME.md`, `NAME.csv` and `NAME.significance.csv` into a directory.
    ///
    /// # Errors
    /// If that fails.
    pub fn write(&self, directory: &Path, name: &str) -> Result<(), ExperimentError> {
        let tables = [("csv", self.numbers()), ("significance.csv", self.significance())];
        let tables = tables.map(|(extension, table)| (extension, table.csv()));
        for (extension, text) in std::iter::once(("md", self.markdown())).chain(tables) {
            let path = directory.join(format!("{name}.{extension}"));
            write_whole(&path, text.as_bytes()).map_err(ExperimentError::io(&path))?;
        }
        Ok(())
    }

    /// The whole page.
    pub fn markdown(&self) -> String {
        let mut page = format!("# {}\n\n{}\n", self.title, self.table().markdown());
        for note in &self.notes {
            page += &format!("{note}\n\n");
        }
        for (shown, name) in &self.figures {
            page += &format!("![{shown}]({name}.svg)\n\n");
        }
        page += "## Protocol\n\n";
        for line in &self.protocol {
            page += &format!("- {line}\n");
        }
        if self.rows.len() > 1 {
            page += &format!("\n## Significance\n\n{TESTED}\n\n{}", self.significance().markdown());
        }
        page
    }

    /// The table alone: mean ± deviation, best bold, second best underlined.
    pub fn table(&self) -> Table {
        let marks: Vec<Option<Marks>> = (0..METRICS).map(|metric| self.marks(metric)).collect();
        let mut table = Table::new([""].iter().chain(&Metrics::NAMES).chain(self.columns.names()).copied());
        for (n, row) in self.rows.iter().enumerate() {
            let cell = |metric: usize| {
                let value = value(row.metrics[metric]);
                match marks[metric] {
                    Some(Marks { best, starred: true, .. }) if best == n => format!("**{value}**<sup>*</sup>"),
                    Some(Marks { best, .. }) if best == n => format!("**{value}**"),
                    Some(Marks { second: Some(second), .. }) if second == n => format!("<u>{value}</u>"),
                    _ => value,
                }
            };
            let metrics = (0..METRICS).map(cell);
            table.push(std::iter::once(row.name.clone()).chain(metrics).chain(self.columns.cells(row)));
        }
        table
    }

    /// Every number, a line per row.
    pub fn numbers(&self) -> Table {
        let mut settings: Vec<&str> = vec![];
        for (name, _) in self.rows.iter().flat_map(|row| &row.settings) {
            if !settings.contains(&name.as_str()) {
                settings.push(name);
            }
        }
        let validation = Metrics::NAMES.map(|name| format!("validation {name}"));
        let speeds = [TRAINING_SPEED, "candidates/s", "candidates/s, cached user"];
        let costs = ["seconds", "best epoch"].into_iter().chain(speeds).map(str::to_owned);
        let measured = Metrics::NAMES.map(str::to_owned).into_iter().chain(validation).chain(costs);
        let named = ["row"].iter().chain(&settings).chain(&["seeds"]).map(ToString::to_string);
        let columns = named.chain(measured.flat_map(|name| [format!("{name} deviation"), name].into_iter().rev()));
        let mut table = Table::new(columns.chain(["parameters".to_owned()]));
        for row in &self.rows {
            let of = |wanted: &str| row.settings.iter().find(|(name, _)| name == wanted);
            let mut line = vec![row.name.clone()];
            line.extend(settings.iter().map(|name| of(name).map_or_else(String::new, |(_, value)| value.clone())));
            line.push(row.seeds.to_string());
            let validation = row.validation.map_or([None; METRICS], |spreads| spreads.map(Some));
            let costs = row.costs.map_or([None; 5], |costs| {
                let serving = |of: fn(ServingCost) -> f64| costs.serving.map(|cost| Spread::of([of(cost)]));
                [
                    Some(costs.seconds),
                    Some(costs.best_epoch),
                    costs.samples_per_second.map(|speed| Spread::of([speed])),
                    serving(|cost| cost.candidates_per_second),
                    serving(|cost| cost.cached_user),
                ]
            });
            line.extend(row.metrics.map(Some).into_iter().chain(validation).chain(costs).flat_map(numbers));
            line.push(row.costs.map_or_else(String::new, |costs| costs.parameters.to_string()));
            table.push(line);
        }
        table
    }

    /// The tests, a line per comparison.
    pub fn significance(&self) -> Table {
        let mut table = Table::new(["metric", "row", "other", "difference", "t", "t-test p", "signed-rank p", "users"]);
        for Comparison { metric, row, other, difference, users, t, wilcoxon } in self.comparisons() {
            let p = |test: Option<PairedTest>| match test {
                Some(PairedTest { p, .. }) if p < SIGNIFICANT => format!("{p:.1e}"),
                Some(PairedTest { p, .. }) => format!("{p:.3}"),
                None => "–".into(),
            };
            let statistic = t.map_or_else(|| "–".into(), |test| format!("{:.2}", test.statistic));
            let difference = format!("{difference:+.4}");
            table.push([metric.into(), row, other, difference, statistic, p(t), p(wilcoxon), users.to_string()]);
        }
        table
    }

    /// The row that a validation metric selects among some.
    pub fn selected(&self, metric: usize, among: impl Fn(&Row) -> bool) -> Option<&Row> {
        let rows = self.rows.iter().filter(|row| among(row));
        let validated = rows.filter_map(|row| Some((row.validation?[metric].mean, row)));
        validated.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, row)| row)
    }

    /// The best row with the second best in every metric; where one of them wasn't trained, the two best that were;
    /// then, where rows are steps, each with the one before.
    fn comparisons(&self) -> Vec<Comparison> {
        let best = (0..METRICS).filter_map(|metric| self.best_with_second(metric, |_| true));
        let trained = (0..METRICS).filter_map(|metric| {
            let (best, second) = self.first_two(metric, |_| true)?;
            let untrained = [Some(best), second].into_iter().flatten().any(|row| self.rows[row].seeds == 0);
            self.best_with_second(metric, |row| row.seeds > 0).filter(|_| untrained)
        });
        let steps = self.rows.windows(2).filter(|_| self.steps);
        let steps = steps.flat_map(|rows| (0..METRICS).map(|metric| Comparison::of(&rows[1], &rows[0], metric)));
        best.chain(trained).chain(steps).collect()
    }

    fn marks(&self, metric: usize) -> Option<Marks> {
        let (best, second) = self.first_two(metric, |_| true)?;
        let starred = self.best_with_second(metric, |_| true).is_some_and(|comparison| comparison.is_significant());
        Some(Marks { best, second, starred })
    }

    fn best_with_second(&self, metric: usize, among: impl Fn(&Row) -> bool) -> Option<Comparison> {
        let (best, second) = self.first_two(metric, among)?;
        Some(Comparison::of(&self.rows[best], &self.rows[second?], metric))
    }

    /// The best and the second best of some rows; of equal ones, the first. A row of the same runs (a default that two
    /// sweeps share) is no second.
    fn first_two(&self, metric: usize, among: impl Fn(&Row) -> bool) -> Option<(usize, Option<usize>)> {
        let mut order: Vec<usize> = (0..self.rows.len()).filter(|&row| among(&self.rows[row])).collect();
        let mean = |row: usize| self.rows[row].metrics[metric].mean;
        order.sort_by(|&a, &b| mean(b).total_cmp(&mean(a)));
        let (&best, others) = order.split_first()?;
        let second = others.iter().copied().find(|&other| !self.rows[other].has_runs_of(&self.rows[best]));
        Some((best, second))
    }
}

impl Columns {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Costs => &[TRAINING_SPEED, "parameters", "candidates/s", "candidates/s, cached user"],
            Self::Validation => &["validation NDCG@10", "validation MRR", "best epoch", "training, s"],
        }
    }

    fn cells(self, row: &Row) -> Vec<String> {
        let cells = match self {
            Self::Costs => row.costs.map(|costs| {
                let rate = |rate: Option<f64>| {
                    rate.map_or_else(String::new, |rate| HumanCount(rate.round() as u64).to_string())
                };
                vec![
                    rate(costs.samples_per_second),
                    HumanCount(costs.parameters as u64).to_string(),
                    rate(costs.serving.map(|cost| cost.candidates_per_second)),
                    rate(costs.serving.map(|cost| cost.cached_user)),
                ]
            }),
            Self::Validation => row.validation.zip(row.costs).map(|(validation, costs)| {
                let of = |name: &str| Metrics::NAMES.iter().position(|&other| other == name);
                let metric = |name: &str| of(name).map_or_else(String::new, |metric| value(validation[metric]));
                vec![metric("NDCG@10"), metric("MRR"), format!("{:.1}", costs.best_epoch.mean), seconds(costs.seconds)]
            }),
        };
        cells.unwrap_or_else(|| vec![String::new(); self.names().len()])
    }
}

/// "61 ± 2"
fn seconds(Spread { mean, deviation }: Spread) -> String {
    match deviation {
        Some(deviation) => format!("{mean:.0} ± {deviation:.0}"),
        None => format!("{mean:.0}"),
    }
}

/// "0.2544 ± 0.0012"
fn value(Spread { mean, deviation }: Spread) -> String {
    match deviation {
        Some(deviation) => format!("{mean:.4} ± {deviation:.4}"),
        None => format!("{mean:.4}"),
    }
}

/// Mean and deviation; empty where there is none.
fn numbers(spread: Option<Spread>) -> [String; 2] {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    [number(spread.map(|spread| spread.mean)), number(spread.and_then(|spread| spread.deviation))]
}
